-- Templates (lua-resty-template's language), multipart bodies, and how `body-transformer` renders a body
-- (apisix/plugins/body-transformer.lua tells the behaviour).
local S, parts = ...

local modules, calls, raw_pcall = parts.modules, parts.calls, parts.pcall
local type, tostring, error, setmetatable, setfenv, loadstring = type, tostring, error, setmetatable, setfenv, loadstring
local pairs, ipairs, concat = pairs, ipairs, table.concat
local gsub, find, sub, match, lower, format = string.gsub, string.find, string.sub, string.match, string.lower, string.format
local cjson, globals = modules["cjson.safe"], getfenv(0)

modules["lyaml"] = {
    null = S.null,
    load = function(text)
        local value, why = S.yaml_decode(tostring(text))
        if why then
            error(why, 2)
        end
        return value
    end,
}

-- Templates -----------------------------------------------------------------------------------------------------------

local MAX_INCLUDES, MAX_KEPT = 32, 64
local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;", ["/"] = "&#47;" }
local CODE = { ["{"] = "&#123;", ["}"] = "&#125;" }
for char, entity in pairs(HTML) do
    CODE[char] = entity
end

local template = {}
modules["resty.template"] = template

function template.output(value)
    if value == nil or value == S.null then
        return ""
    end
    if type(value) == "function" then
        return template.output(value())
    end
    return tostring(value)
end

function template.escape(value, code)
    if type(value) ~= "string" then
        return template.output(value)
    end
    if code then
        return (gsub(value, "[{}\">/<'&]", CODE))
    end
    return (gsub(value, "[\">/<'&]", HTML))
end

local included, kept, count = 0, {}, 0

local function chunk_of(text)
    text = tostring(text)
    local chunk = kept[text]
    if chunk then
        return chunk
    end
    local why
    chunk, why = loadstring(S.template_source(text), "=template")
    if not chunk then
        error(why, 0)
    end
    if count >= MAX_KEPT then
        kept, count = {}, 0
    end
    kept[text], count = chunk, count + 1
    return chunk
end

local run

local function include(text, context, blocks)
    if included >= MAX_INCLUDES then
        error("templates include each other too deeply", 0)
    end
    included = included + 1
    local out = run(chunk_of(text), context, blocks)
    included = included - 1
    return out
end

-- Names are looked for in the context, the module, and what scripts see.
function run(chunk, context, blocks)
    context, blocks = context or {}, blocks or {}
    local env = setmetatable({ context = context, template = template }, {
        __index = function(_, name)
            return context[name] or template[name] or globals[name]
        end,
    })
    setfenv(chunk, env)
    return chunk(context, template, blocks, function(text, other, same)
        return include(text, other or context, same)
    end)
end

function template.compile(text)
    local chunk = chunk_of(text)
    return function(context)
        return run(chunk, context)
    end
end
function template.process(text, context)
    return run(chunk_of(text), context)
end
function template.render(text, context)
    ngx.print(template.process(text, context))
end

-- multipart -----------------------------------------------------------------------------------------------------------

local form = {}
form.__index = form

local function part_of(head, value)
    local headers = {}
    for line in head:gmatch("[^\r\n]+") do
        headers[#headers + 1] = line
    end
    local name
    for _, line in ipairs(headers) do
        if find(lower(line), "^content%-disposition:") then
            name = match(line, '[;%s]name="([^"]*)"') or match(line, "[;%s]name=([^;%s]+)")
        end
    end
    return { name = name, headers = headers, value = value }
end

local function read(body, boundary)
    local all, mark = {}, "--" .. boundary
    local at = sub(body, 1, #mark) == mark and 1 or (find(body, "\n" .. mark, 1, true) or -1) + 1
    while at > 0 do
        local line = find(body, "\n", at + #mark, true)
        if sub(body, at + #mark, at + #mark + 1) == "--" or not line then
            break
        end
        local stop = find(body, "\n" .. mark, line, true)
        if not stop then
            break
        end
        local piece = gsub(sub(body, line + 1, stop - 1), "\r$", "")
        local from, to = find(piece, "\r?\n\r?\n")
        local bare = find(piece, "^\r?\n")
        if bare then
            from, to = 1, select(2, find(piece, "^\r?\n"))
        end
        if from then
            all[#all + 1] = part_of(sub(piece, 1, from - 1), sub(piece, to + 1))
        end
        at = stop + 1
    end
    return all
end

function form:get(name)
    for _, part in ipairs(self.parts) do
        if part.name == name then
            return part
        end
    end
end
function form:get_all()
    local all = {}
    for _, part in ipairs(self.parts) do
        if part.name then
            all[part.name] = part.value
        end
    end
    return all
end
function form:get_all_with_arrays()
    local all, lists = {}, {}
    for _, part in ipairs(self.parts) do
        local name = part.name
        if name and lists[name] then
            all[name][#all[name] + 1] = part.value
        elseif name and all[name] ~= nil then
            all[name], lists[name] = { all[name], part.value }, true
        elseif name then
            all[name] = part.value
        end
    end
    return all
end
function form:delete(name)
    local left = {}
    for _, part in ipairs(self.parts) do
        if part.name ~= name then
            left[#left + 1] = part
        end
    end
    self.parts = left
end
function form:set_simple(name, value, filename, content_type)
    local head = 'Content-Disposition: form-data; name="' .. name .. '"'
    if filename then
        head = head .. '; filename="' .. filename .. '"'
    end
    local made = { name = name, headers = { head }, value = tostring(value) }
    if content_type then
        made.headers[2] = "Content-Type: " .. content_type
    end
    for i, part in ipairs(self.parts) do
        if part.name == name then
            self.parts[i] = made
            return
        end
    end
    self.parts[#self.parts + 1] = made
end
function form:tostring()
    local out = {}
    for _, part in ipairs(self.parts) do
        out[#out + 1] = "--" .. self.boundary .. "\r\n"
        for _, line in ipairs(part.headers) do
            out[#out + 1] = line .. "\r\n"
        end
        out[#out + 1] = "\r\n" .. part.value .. "\r\n"
    end
    out[#out + 1] = "--" .. self.boundary .. "--\r\n"
    return concat(out)
end

local function multipart(_, body, content_type)
    local kind = tostring(content_type or "")
    local boundary = match(kind, 'boundary="([^"]+)"') or match(kind, "boundary=([^;,%s]+)")
    if not boundary then
        return setmetatable({ parts = {}, boundary = "" }, form)
    end
    return setmetatable({ parts = read(body or "", boundary), boundary = boundary }, form)
end
modules["multipart"] = setmetatable({}, { __call = multipart })

-- body-transformer ------------------------------------------------------------------------------------------------------

local function escape_xml(text)
    text = gsub(gsub(gsub(text, "&", "&amp;"), "<", "&lt;"), ">", "&gt;")
    -- Two results, as in APISIX: in `{{ }}` the second has braces escaped, too.
    return gsub(gsub(text, "'", "&apos;"), '"', "&quot;")
end

local decoders = {
    xml = function(body) return S.xml_decode(body or "") end,
    json = function(body) return cjson.decode(body) end,
    encoded = function(body) return S.decode_args(body or "") end,
    args = function() return ngx.req.get_uri_args() end,
    multipart = function(body, kind) return multipart(nil, body, kind) end,
}

local function says(err)
    if type(err) == "userdata" and err ~= S.null then
        err = tostring(err):gsub("^runtime error: ", "")
    end
    return (tostring(err):gsub("\nstack traceback:.*", ""))
end

local DONE, UNREADABLE, UNCOMPILED, FAILED = 0, 1, 2, 3

function parts.run.render(request, phase, nginx_phase, list, why, kind, body, content_type)
    calls.enter({ request = request, phase = phase, nginx_phase = nginx_phase })
    local out, fields = {}, nil
    if kind then
        local ok, value, reason = raw_pcall(decoders[kind], body, content_type)
        if not ok then
            return UNREADABLE, says(value)
        end
        if type(value) ~= "table" then
            return UNREADABLE, says(reason or "expected an object")
        end
        out = value
        if kind == "multipart" then
            fields, out = value, value:get_all_with_arrays()
        end
    end
    if not list then
        return UNCOMPILED, why
    end
    -- A body's own fields must not stand before what templates are given.
    for _, name in ipairs({ "_ctx", "_body", "_escape_xml", "_escape_json", "_multipart" }) do
        out[name] = nil
    end
    setmetatable(out, { __index = {
        _ctx = request.ctx,
        _body = body,
        _escape_xml = escape_xml,
        _escape_json = function(value) return modules["apisix.core"].json.encode(value) end,
        _multipart = fields,
    } })
    included = 0
    local ok, text = raw_pcall(run, list[1], out)
    if not ok then
        return FAILED, says(text)
    end
    return DONE, text
end
