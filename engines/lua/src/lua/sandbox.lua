-- What of the standard library scripts may use. Files, processes, byte code and C libraries are not there; `pcall` cannot
-- hold up `ngx.exit` or the end of a script that ran too long.
local S, parts = ...

local EXIT = setmetatable({}, { __tostring = function() return "ngx.exit" end })
parts.EXIT = EXIT

local raw_pcall, raw_error, select, tostring, type = pcall, error, select, tostring, type
local exhausted = S.exhausted
parts.pcall = raw_pcall

-- Errors of the gateway's own functions are objects; scripts expect text.
local function settled(handler, ok, ...)
    if ok then
        return true, ...
    end
    local err = ...
    if err == EXIT then
        raw_error(EXIT, 0)
    end
    if exhausted() then
        raw_error(tostring(err), 0)
    end
    if type(err) == "userdata" and err ~= S.null then
        err = tostring(err):gsub("^runtime error: ", ""):gsub("\nstack traceback:.*", "")
    end
    if handler then
        return false, handler(err)
    end
    return false, err
end

function pcall(f, ...)
    return settled(nil, raw_pcall(f, ...))
end

function xpcall(f, handler, ...)
    return settled(handler, raw_pcall(f, ...))
end

local raw_load, raw_loadstring = load, loadstring

local function is_text(chunk)
    return type(chunk) ~= "string" or chunk:byte(1) ~= 27
end

function loadstring(chunk, name)
    if not is_text(chunk) then
        return nil, "attempt to load chunk with wrong mode"
    end
    return raw_loadstring(chunk, name)
end

function load(chunk, name, mode, env)
    if type(chunk) == "function" then
        local pieces = {}
        for piece in chunk do
            if piece == "" then
                break
            end
            pieces[#pieces + 1] = piece
        end
        chunk = table.concat(pieces)
    end
    if not is_text(chunk) then
        return nil, "attempt to load chunk with wrong mode"
    end
    return raw_load(chunk, name or chunk, "t", env or getfenv(2))
end

dofile, loadfile, collectgarbage, newproxy, print = nil, nil, function() return 0 end, nil, nil
string.dump = nil
jit = { version = jit and jit.version, os = jit and jit.os, arch = jit and jit.arch, status = function() return false end }

local environment = S.environment
local real = os
os = {
    time = real.time,
    clock = real.clock,
    date = real.date,
    difftime = real.difftime,
    getenv = function(name)
        return environment and real.getenv(name) or nil
    end,
}
parts.date = real.date

-- Modules: only those that the gateway has.
local modules = { string = string, table = table, math = math, bit = bit, os = os, coroutine = coroutine, jit = jit }
parts.modules = modules
package = { loaded = modules, path = "", cpath = "" }

function require(name)
    local found = modules[name]
    if found == nil then
        raw_error("module '" .. tostring(name) .. "' not found", 2)
    end
    return found
end

-- Only what tells where one is.
debug = {
    traceback = function(message)
        return tostring(message or "")
    end,
    getinfo = function()
        return { short_src = "?", source = "?", currentline = 0 }
    end,
}

-- LuaJIT's additions that its package library would bring.
local next = next
local function clear(t)
    for k in next, t do
        t[k] = nil
    end
end
modules["table.new"] = function() return {} end
modules["table.clear"] = clear
modules["table.nkeys"] = function(t)
    local n = 0
    for _ in next, t do
        n = n + 1
    end
    return n
end
modules["table.isempty"] = function(t) return next(t) == nil end
modules["table.isarray"] = function(t)
    local n = 0
    for k in next, t do
        if type(k) ~= "number" then
            return false
        end
        n = n + 1
    end
    return n == #t
end
modules["table.clone"] = function(t)
    local copy = {}
    for k, v in next, t do
        copy[k] = v
    end
    return copy
end
