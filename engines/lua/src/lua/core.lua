-- `apisix.core`: what functions in configuration use of it (apisix/core/*.lua tell the behaviour).
local S, parts = ...

local modules, calls = parts.modules, parts.calls
local type, tostring, tonumber, pairs, ipairs, select, error = type, tostring, tonumber, pairs, ipairs, select, error
local setmetatable, getmetatable, rawset, next = setmetatable, getmetatable, rawset, next
local cjson = modules["cjson.safe"]

local core = { version = { VERSION = "3.18.0" }, empty_tab = {}, null = S.null }
modules["apisix.core"] = core
modules["apisix.core.version"] = core.version

local function module(name)
    local M = {}
    core[name] = M
    modules["apisix.core." .. name] = M
    return M
end

local function ctx_of(ctx)
    return ctx or ngx.ctx.api_ctx
end

-- log -----------------------------------------------------------------------------------------------------------------

local log = module("log")
for name, level in pairs({ emerg = 1, alert = 2, crit = 3, error = 4, warn = 5, notice = 6, info = 7, debug = 8 }) do
    log[name] = function(...)
        S.log(level, parts.line_of(...))
    end
end
function log.delay_exec(f, ...)
    local arguments, n = { ... }, select("#", ...)
    return setmetatable({}, { __tostring = function() return tostring(f(unpack(arguments, 1, n))) end })
end
function log.new(prefix)
    local M = setmetatable({}, { __index = function(_, name)
        return function(...)
            log[name](prefix, ...)
        end
    end })
    return M
end

-- json ----------------------------------------------------------------------------------------------------------------

local json = module("json")
json.null, json.array_mt, json.decode = S.null, S.array_mt, cjson.decode

-- What JSON cannot hold becomes text; a table within itself its address.
local function plain(value, seen)
    if type(value) ~= "table" then
        local kind = type(value)
        if kind == "function" or kind == "userdata" and value ~= S.null or kind == "thread" or kind == "cdata" then
            return tostring(value)
        end
        return value
    end
    if seen[value] then
        return tostring(value)
    end
    seen[value] = true
    local copy = {}
    for k, v in next, value do
        copy[type(k) == "number" and k or tostring(k)] = plain(v, seen)
    end
    return setmetatable(copy, getmetatable(value) == S.array_mt and S.array_mt or nil)
end

function json.encode(value, force)
    if force then
        value = plain(value, {})
    end
    return cjson.encode(value)
end
function json.delay_encode(value, force)
    return setmetatable({}, { __tostring = function() return tostring(json.encode(value, force)) end })
end

-- Keys in order, so that equal tables give equal text.
local function stable(value, out)
    if type(value) == "table" and #value == 0 and getmetatable(value) ~= S.array_mt then
        local names = {}
        for k in next, value do
            names[#names + 1] = tostring(k)
        end
        table.sort(names)
        out[#out + 1] = "{"
        for i, name in ipairs(names) do
            local item = value[name]
            if item == nil then
                item = value[tonumber(name)]
            end
            out[#out + 1] = (i > 1 and "," or "") .. cjson.encode(name):gsub("\\/", "/") .. ":"
            stable(item, out)
        end
        out[#out + 1] = "}"
    elseif type(value) == "table" then
        out[#out + 1] = "["
        for i = 1, #value do
            if i > 1 then
                out[#out + 1] = ","
            end
            stable(value[i], out)
        end
        out[#out + 1] = "]"
    else
        out[#out + 1] = (tostring(cjson.encode(value)):gsub("\\/", "/"))
    end
end
function json.stably_encode(value)
    local out = {}
    stable(value, out)
    return table.concat(out)
end
json.canonical_encode = json.stably_encode

-- table ---------------------------------------------------------------------------------------------------------------

local tab = module("table")
for _, name in ipairs({ "concat", "insert", "remove", "sort", "maxn" }) do
    tab[name] = table[name]
end
tab.unpack = unpack
tab.new, tab.clear, tab.nkeys = modules["table.new"], modules["table.clear"], modules["table.nkeys"]
tab.isarray, tab.isempty, tab.clone = modules["table.isarray"], modules["table.isempty"], modules["table.clone"]
tab.empty_tab = core.empty_tab

function tab.insert_tail(t, ...)
    local n = #t
    for i = 1, select("#", ...) do
        n = n + 1
        t[n] = (select(i, ...))
    end
    return n
end
function tab.set(t, ...)
    for i = 1, select("#", ...) do
        t[i] = (select(i, ...))
    end
end
function tab.try_read_attr(t, ...)
    for i = 1, select("#", ...) do
        if type(t) ~= "table" then
            return nil
        end
        t = t[(select(i, ...))]
    end
    return t
end
function tab.array_find(list, wanted)
    if type(list) ~= "table" then
        return nil
    end
    for i, value in ipairs(list) do
        if value == wanted then
            return i
        end
    end
    return nil
end
local function deepcopy(value, seen)
    if type(value) ~= "table" then
        return value
    end
    if seen[value] then
        return seen[value]
    end
    local copy = {}
    seen[value] = copy
    for k, v in next, value do
        copy[deepcopy(k, seen)] = deepcopy(v, seen)
    end
    return setmetatable(copy, getmetatable(value))
end
function tab.deepcopy(value) return deepcopy(value, {}) end
local function merge(into, from)
    for k, v in pairs(from) do
        if type(v) == "table" and type(into[k]) == "table" and #into[k] == 0 and #v == 0 then
            merge(into[k], v)
        else
            into[k] = v
        end
    end
    return into
end
tab.merge = merge
local function deep_eq(a, b)
    if type(a) ~= "table" or type(b) ~= "table" then
        return a == b
    end
    for k, v in pairs(a) do
        if not deep_eq(v, b[k]) then
            return false
        end
    end
    for k in pairs(b) do
        if a[k] == nil then
            return false
        end
    end
    return true
end
tab.deep_eq = deep_eq
function tab.set_eq(a, b)
    for k in pairs(a) do
        if b[k] == nil then
            return false
        end
    end
    for k in pairs(b) do
        if a[k] == nil then
            return false
        end
    end
    return true
end
function tab.pick(t, names)
    local out = {}
    for name in pairs(names) do
        out[name] = t[name]
    end
    return out
end
function tab.setmt__gc(t, mt) return setmetatable(t, mt) end

-- string --------------------------------------------------------------------------------------------------------------

local str = module("string")
setmetatable(str, { __index = string })
local raw_find = string.find
function str.find(text, part, from) return raw_find(text, part, from, true) end
function str.has_prefix(text, part)
    if type(text) ~= "string" or type(part) ~= "string" then
        error("unexpected type: s:" .. type(text) .. ", prefix:" .. type(part))
    end
    return text:sub(1, #part) == part
end
function str.has_suffix(text, part)
    if type(text) ~= "string" or type(part) ~= "string" then
        error("unexpected type: s:" .. type(text) .. ", suffix:" .. type(part))
    end
    return part == "" or text:sub(-#part) == part
end
function str.rfind_char(text, char, from)
    for i = from or #text, 1, -1 do
        if text:sub(i, i) == char then
            return i
        end
    end
    return nil
end
function str.decode_args(text) return ngx.decode_args(text, 0) end
str.encode_args = ngx.encode_args
function str.format(...) return string.format(...) end

-- request ---------------------------------------------------------------------------------------------------------------

local request = module("request")

function request.headers() return ngx.req.get_headers() end
function request.header(_, name)
    local value = S.req_header(tostring(name))
    if value == nil then
        value = S.req_header((tostring(name):gsub("_", "-")))
    end
    if type(value) == "table" then
        return value[1]
    end
    return value
end

local function modify(ctx, name, value, append)
    if type(ctx) == "string" then
        name, value = ctx, name
    end
    if type(name) ~= "string" then
        error("invalid header name type:" .. type(name))
    end
    S.set_req_header(name, value, append)
end
function request.set_header(ctx, name, value) modify(ctx, name, value, false) end
function request.add_header(ctx, name, value) modify(ctx, name, value, true) end

local function var(name)
    return function(ctx) return ctx_of(ctx).var[name] end
end
function request.get_ip(ctx)
    local vars = ctx_of(ctx).var
    return vars.realip_remote_addr or vars.remote_addr or ""
end
function request.get_remote_client_ip(ctx) return ctx_of(ctx).var.remote_addr or "" end
function request.get_remote_client_port(ctx) return tonumber(ctx_of(ctx).var.remote_port) end
function request.get_scheme(ctx) return ctx_of(ctx).var.scheme or "" end
function request.get_host(ctx) return ctx_of(ctx).var.host or "" end
function request.get_port(ctx) return tonumber(ctx_of(ctx).var.server_port) end
function request.get_path(ctx) return ctx_of(ctx).var.uri or "" end
request.get_http_version, request.get_method = ngx.req.http_version, ngx.req.get_method

function request.get_uri_args(ctx)
    ctx = ctx_of(ctx)
    local args = rawget(ctx, "req_uri_args")
    if not args then
        args = ngx.req.get_uri_args(0)
        rawset(ctx, "req_uri_args", args)
    end
    return args
end
function request.set_uri_args(ctx, args)
    rawset(ctx_of(ctx), "req_uri_args", nil)
    ngx.req.set_uri_args(args)
end
function request.get_post_args(ctx)
    ctx = ctx_of(ctx)
    local args = rawget(ctx, "req_post_args")
    if not args then
        args = ngx.req.get_post_args(0)
        rawset(ctx, "req_post_args", args)
    end
    return args
end
function request.get_body(max)
    local body = ngx.req.get_body_data()
    if body and max and #body > max then
        return nil, "request size " .. #body .. " is greater than the maximum size " .. max .. " allowed"
    end
    return body
end
function request.get_json_request_body_table()
    local body, why = request.get_body()
    if not body then
        return nil, { message = "could not get body: " .. (why or "request body is empty") }
    end
    local value, error_text = cjson.decode(body)
    if value == nil then
        return nil, { message = "could not parse JSON request body: " .. tostring(error_text) }
    end
    return value
end

-- response --------------------------------------------------------------------------------------------------------------

local response = module("response")

local function body_of(out, ...)
    for i = 1, select("#", ...) do
        local value = select(i, ...)
        if type(value) == "table" then
            local text, why = cjson.encode(value)
            if not text then
                error("failed to encode data: " .. why, 3)
            end
            out[#out + 1] = text
            out[#out + 1] = "\n"
        elseif value ~= nil then
            out[#out + 1] = value
        end
    end
end

function response.exit(code, ...)
    local out = {}
    if code and type(code) ~= "number" then
        body_of(out, code)
        code = nil
    end
    if code then
        ngx.status = code
    end
    body_of(out, ...)
    if #out > 0 then
        ngx.print(out)
    end
    if code then
        return ngx.exit(code)
    end
end
parts.core_exit = response.exit

function response.say(...) response.exit(nil, ...) end

local function set_header(append, ...)
    local count = select("#", ...)
    if count == 1 then
        local fields = ...
        if type(fields) ~= "table" then
            ngx.header[fields] = nil
            return
        end
        for name, value in pairs(fields) do
            S.set_resp_header(tostring(name), value, append)
        end
        return
    end
    for i = 1, count, 2 do
        local name, value = select(i, ...)
        S.set_resp_header(tostring(name), value, append)
    end
end
function response.set_header(...) set_header(false, ...) end
function response.add_header(...) set_header(true, ...) end
function response.get_upstream_status(ctx) return tonumber((tostring(ctx.var.upstream_status or "")):sub(-3)) end
function response.set_response_source(ctx, source)
    if ctx then
        ctx._resp_source = source
    end
end
function response.get_last_upstream_token(text)
    return text and text:match("([^%s,]+)[%s,]*$")
end
function response.get_response_source(ctx)
    if not ctx then
        return "apisix"
    end
    return ctx._resp_source or S.fact("response_source") or "apisix"
end
function response.clear_header_as_body_modified()
    for _, name in ipairs({ "Content-Length", "Content-Encoding", "Last-Modified", "ETag" }) do
        S.set_resp_header(name, nil, false)
    end
end
function response.hold_body_chunk(ctx, _, max, key)
    key = key or "body"
    local held = rawget(ctx, "_body_buffer") or {}
    rawset(ctx, "_body_buffer", held)
    local buffer = held[key] or { bytes = 0 }
    held[key] = buffer
    local chunk, eof = ngx.arg[1], ngx.arg[2]
    if buffer.done then
        return nil
    end
    if chunk and chunk ~= "" then
        buffer[#buffer + 1] = chunk
        buffer.bytes = buffer.bytes + #chunk
    end
    if eof or max and buffer.bytes >= max then
        buffer.done = true
        local body = table.concat(buffer)
        return max and body:sub(1, max) or body
    end
    ngx.arg[1] = nil
    return nil
end

-- ctx -------------------------------------------------------------------------------------------------------------------

local context = module("ctx")
function context.register_var(name, getter, options)
    if type(getter) ~= "function" then
        error("the getter of registered var should be a function")
    end
    parts.registered[name] = getter
    parts.volatile[name] = options and options.no_cacheable or nil
end
function context.set_vars_meta() end
function context.release_vars() end

-- utils -----------------------------------------------------------------------------------------------------------------

local utils = module("utils")
utils.uri_safe_encode = function(uri) return S.escape_whole_uri(uri) end
utils.sleep = ngx.sleep
core.sleep = ngx.sleep
utils.split_uri = function(uri) return ngx.re.split(uri, "/") end
utils.gethostname = function() return S.var("hostname") or "" end
function utils.validate_header_field(name)
    for i = 1, #name do
        local byte = name:byte(i)
        if byte <= 32 or byte >= 127 or byte == 58 then
            return false
        end
    end
    return true
end
function utils.validate_header_value(value)
    value = tostring(value)
    return not (value:find("[%z\r\n]"))
end
function utils.parse_addr(address)
    local host, port = address:match("^(%[.-%]):(%d+)$")
    if not host then
        host, port = address:match("^([^:]*):(%d+)$")
    end
    return host or address, tonumber(port)
end
function utils.resolve_var(template, vars)
    if not template then
        return template
    end
    local count = 0
    local function value(name, default)
        local found = vars[name]
        if found == nil then
            return default or ""
        end
        count = count + 1
        return tostring(found)
    end
    local text = tostring(template):gsub("\\%$", "\0")
    text = text:gsub("%${([%w_%.]+)%s*%??%?*%s*([^}]*)}", function(name, default) return value(name, default ~= "" and default or nil) end)
    text = text:gsub("%$([%w_]+)", function(name) return value(name) end)
    return (text:gsub("%z", "$")), nil, count
end
core.resolve_var = utils.resolve_var

-- lrucache, ip, timer, others ---------------------------------------------------------------------------------------------

local caches = module("lrucache")
function caches.new(options)
    options = options or {}
    local cache = modules["resty.lrucache"].new(options.count or 1024)
    return function(key, version, create, ...)
        local entry = cache:get(key)
        if entry and entry.version == version then
            return entry.value
        end
        local value, why = create(...)
        if value ~= nil then
            cache:set(key, { value = value, version = version }, options.ttl or 300)
            return value
        end
        return nil, why
    end
end
function caches.plugin_ctx(cache, ctx, extra, create, ...)
    local key = tostring(ctx.conf_type) .. "#" .. tostring(ctx.conf_id) .. (extra and "#" .. tostring(extra) or "")
    return cache(key, ctx.conf_version, create, ...)
end
function caches.plugin_ctx_id(ctx, extra)
    return tostring(ctx.conf_type) .. "#" .. tostring(ctx.conf_id) .. (extra and "#" .. tostring(extra) or "")
end
caches.global = caches.new({})

local id = module("id")
id.gen_uuid_v4 = modules["resty.jit-uuid"].generate_v4
function id.get() return S.fact("instance_id") or "" end

local env = module("env")
function env.get(name) return os.getenv(name) end

core.table.array_mt = S.array_mt
core.config = { local_conf = function() return {} end }
function core.config.local_conf() return {} end
modules["apisix.core.config_local"] = core.config
modules["apisix.plugin"] = {
    plugin_attr = function() return nil end,
    plugin_metadata = function() return nil end,
}
core.schema = { check = function() error("core.schema.check is not supported", 2) end }
