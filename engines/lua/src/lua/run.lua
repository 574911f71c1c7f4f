-- Drives a call: runs the functions of a script, catches errors and `ngx.exit`, says what came of it.
local S, parts = ...

local EXIT, raw_pcall, tostring, type = parts.EXIT, parts.pcall, tostring, type
local calls, core_exit = parts.calls, parts.core_exit
local M = {}
parts.run = M

local NEXT, ANSWER, FAILED, BEGUN = 0, 1, 2, 3

M.new_state = parts.new_state

local function says(err)
    if type(err) == "userdata" and err ~= S.null then
        err = tostring(err):gsub("^runtime error: ", "")
    end
    return (tostring(err):gsub("\nstack traceback:.*", ""))
end

-- One function after another, until one decides (apisix/plugins/serverless/init.lua `call_funcs`).
local function functions_of(phase, list, config, ctx)
    for i = 1, #list do
        local code, body = list[i](config, ctx)
        if code or body then
            return core_exit(code, body)
        end
    end
end

-- `_meta.pre_function`: its errors are told and what it returns is not looked at (apisix/plugin.lua
-- `run_meta_pre_function`).
local function pre_function_of(_, list, config, ctx)
    local ok, err = raw_pcall(list[1], config, ctx)
    if not ok then
        if err == EXIT then
            error(EXIT, 0)
        end
        return says(err)
    end
end

-- An object with a function per phase (apisix/script.lua); it lives as long as the request.
local function object_of(phase, list, _, ctx, call)
    local object = call.request.script_object
    if object == nil then
        object = list[1]() or false
        call.request.script_object = object
    end
    local f = object and object[phase]
    if f then
        f(ctx)
    end
end

local forms = { functions = functions_of, object = object_of, pre_function = pre_function_of }

-- Registered variables as the gateway's own templates and logs see them: as they are after the call.
local function publish(request)
    for name, getter in pairs(parts.registered) do
        local ok, value = raw_pcall(getter, request.ctx)
        local kind = type(value)
        if ok and (kind == "string" or kind == "number" or kind == "boolean") then
            raw_pcall(S.set_var, name, tostring(value))
        end
    end
end

function M.execute(request, phase, nginx_phase, list, config, form, chunk, eof)
    local call = { request = request, phase = phase, nginx_phase = nginx_phase, chunk = chunk, eof = eof }
    calls.enter(call)
    local ok, err = raw_pcall(forms[form], phase, list, config, request.ctx, call)
    if next(parts.registered) and nginx_phase ~= "body_filter" then
        publish(request)
    end
    local output = call.output and table.concat(call.output) or nil
    if form == "pre_function" and ok and err then
        return FAILED, 0, err
    end
    if not ok and err ~= EXIT then
        return FAILED, 0, says(err)
    end
    if nginx_phase == "body_filter" then
        return NEXT, 0, nil, call.chunk or "", call.eof
    end
    local exit = call.exit
    if nginx_phase ~= "access" then
        return NEXT
    end
    if output then
        return exit and ANSWER or BEGUN, call.status or 200, output
    end
    if exit and (exit >= 200 or exit == -1) then
        return ANSWER, exit, exit == 200 and "" or nil
    end
    return NEXT
end

function M.evaluate(request, list)
    calls.enter({ request = request, phase = "access", nginx_phase = "access" })
    local ok, answer = raw_pcall(list[1], request.ctx.var)
    if not ok then
        error(says(answer), 0)
    end
    return answer and true or false
end
