-- The table `ngx`, on the primitives. The surprise: there is one for all requests; what belongs to a request stands in
-- `call`, the running call, and in its `request`, which lives from phase to phase.
local S, parts = ...

local type, tostring, tonumber, select, pairs, ipairs = type, tostring, tonumber, select, pairs, ipairs
local setmetatable, getmetatable, rawget, rawset, error = setmetatable, getmetatable, rawget, rawset, error
local concat, floor = table.concat, math.floor
local lower, gsub, sub, find, format = string.lower, string.gsub, string.sub, string.find, string.format
local EXIT, date = parts.EXIT, parts.date
local yield, running = coroutine.yield, coroutine.running

local call
local calls = {}
parts.calls = calls

function calls.enter(new)
    call = new
end

function calls.current()
    return call
end

local function here(what)
    if not call or not S.active() then
        error("no request found", 3)
    end
    return call
end

local function disabled(what)
    error("API disabled in the context of " .. call.nginx_phase .. "_by_lua*", 3)
end

-- Variables. ---------------------------------------------------------------------------------------------------------

-- Getters of core.ctx.register_var, and those whose values are not kept.
local registered, volatile = {}, {}
parts.registered, parts.volatile = registered, volatile

local function text_of(value)
    if type(value) == "boolean" or type(value) == "number" or type(value) == "string" then
        return tostring(value)
    end
    return nil
end

local function new_vars(request)
    -- Values that variables of the gateway cannot hold: tables, and the type of numbers and booleans.
    local kept = {}
    return setmetatable({}, {
        __index = function(_, name)
            if type(name) ~= "string" then
                error("invalid argument, expect string value", 2)
            end
            local value = kept[name]
            if value ~= nil then
                return value
            end
            local getter = registered[name]
            if getter then
                value = getter(request.ctx)
                if value ~= nil and not volatile[name] then
                    kept[name] = value
                    local text = text_of(value)
                    if text and S.active() then
                        pcall(S.set_var, name, text)
                    end
                end
                return value
            end
            return S.var(name)
        end,
        __newindex = function(_, name, value)
            name = tostring(name)
            local kind = type(value)
            if kind == "string" or value == nil then
                kept[name] = nil
                S.set_var(name, value)
            else
                kept[name] = value
                local text = text_of(value)
                if text then
                    S.set_var(name, text)
                end
            end
        end,
    })
end

local ctx_mt = {
    __index = function(ctx, name)
        if type(name) ~= "string" or not S.active() then
            return nil
        end
        return S.fact(name)
    end,
    __newindex = function(ctx, name, value)
        rawset(ctx, name, value)
        if type(name) == "string" and type(value) ~= "function" and S.active() then
            S.set_fact(name, value)
        end
    end,
}

function parts.new_state()
    local request = {}
    local ctx = {}
    request.ctx = ctx
    rawset(ctx, "var", new_vars(request))
    request.ngx_ctx = { api_ctx = ctx }
    rawset(ctx, "ngx_ctx", request.ngx_ctx)
    return setmetatable(request, nil), setmetatable(ctx, ctx_mt)
end

local ngx_var = setmetatable({}, {
    __index = function(_, name)
        here()
        -- nginx's own $uri follows proxy-rewrite, `ctx.var.uri` stays as it was matched (apisix/plugins/proxy-rewrite.lua).
        local value = name == "uri" and S.fact("rewritten_uri") or S.var(tostring(name))
        if type(value) == "number" or type(value) == "boolean" then
            return tostring(value)
        end
        return value
    end,
    __newindex = function(_, name, value)
        here()
        if value ~= nil then
            value = tostring(value)
        end
        S.set_var(tostring(name), value)
    end,
})

-- Headers of the response. -------------------------------------------------------------------------------------------

local function field(name)
    return (gsub(tostring(name), "_", "-"))
end

local header = setmetatable({}, {
    __index = function(_, name)
        here()
        return S.resp_header(field(name))
    end,
    __newindex = function(_, name, value)
        here()
        S.set_resp_header(field(name), value, false)
    end,
})

-- Output. ------------------------------------------------------------------------------------------------------------

local function flat(out, value)
    local kind = type(value)
    if kind == "string" then
        out[#out + 1] = value
    elseif kind == "table" then
        local mt = getmetatable(value)
        if mt and mt.__tostring then
            out[#out + 1] = tostring(value)
        else
            for i = 1, #value do
                flat(out, value[i])
            end
        end
    elseif value == S.null then
        out[#out + 1] = "null"
    elseif kind == "nil" or kind == "boolean" or kind == "number" then
        out[#out + 1] = tostring(value)
    else
        error("bad argument (string, number, boolean, nil, ngx.null, or array table expected, got " .. kind .. ")", 3)
    end
end

local function output(...)
    local c = here()
    if c.nginx_phase ~= "access" then
        disabled()
    end
    local out = c.output or {}
    for i = 1, select("#", ...) do
        flat(out, (select(i, ...)))
    end
    c.output = out
    return out
end

local req, re, resp = {}, {}, {}
ngx = {
    var = ngx_var,
    header = header,
    req = req,
    resp = resp,
    re = re,
    null = S.null,
    OK = 0, ERROR = -1, AGAIN = -2, DONE = -4, DECLINED = -5,
    STDERR = 0, EMERG = 1, ALERT = 2, CRIT = 3, ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, DEBUG = 8,
    config = {
        subsystem = "http", debug = false, nginx_version = 1027001, ngx_lua_version = 10028,
        prefix = function() return S.fact("prefix") or "" end,
        nginx_configure = function() return "" end,
    },
    worker = {
        pid = function() return S.pid end,
        pids = function() return { S.pid } end,
        id = function() return 0 end,
        count = function() return 1 end,
        exiting = function() return false end,
    },
}

for name, code in pairs({
    CONTINUE = 100, SWITCHING_PROTOCOLS = 101, OK = 200, CREATED = 201, ACCEPTED = 202, NO_CONTENT = 204,
    PARTIAL_CONTENT = 206, SPECIAL_RESPONSE = 300, MOVED_PERMANENTLY = 301, MOVED_TEMPORARILY = 302, SEE_OTHER = 303,
    NOT_MODIFIED = 304, TEMPORARY_REDIRECT = 307, PERMANENT_REDIRECT = 308, BAD_REQUEST = 400, UNAUTHORIZED = 401,
    PAYMENT_REQUIRED = 402, FORBIDDEN = 403, NOT_FOUND = 404, NOT_ALLOWED = 405, NOT_ACCEPTABLE = 406,
    REQUEST_TIMEOUT = 408, CONFLICT = 409, GONE = 410, UPGRADE_REQUIRED = 426, TOO_MANY_REQUESTS = 429, CLOSE = 444,
    ILLEGAL = 451, INTERNAL_SERVER_ERROR = 500, METHOD_NOT_IMPLEMENTED = 501, BAD_GATEWAY = 502,
    SERVICE_UNAVAILABLE = 503, GATEWAY_TIMEOUT = 504, VERSION_NOT_SUPPORTED = 505, INSUFFICIENT_STORAGE = 507,
}) do
    ngx["HTTP_" .. name] = code
end

-- Methods are bits, as in nginx.
for i, name in ipairs({
    "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY", "MOVE", "OPTIONS", "PROPFIND", "PROPPATCH", "LOCK",
    "UNLOCK", "PATCH", "TRACE",
}) do
    ngx["HTTP_" .. name] = 2 ^ i
end
local method_names = {}
for name, value in pairs(ngx) do
    if type(name) == "string" and sub(name, 1, 5) == "HTTP_" and type(value) == "number" then
        local method = sub(name, 6)
        if method == "GET" or method == "HEAD" or method == "POST" or method == "PUT" or method == "DELETE"
                or method == "PATCH" or method == "OPTIONS" or method == "TRACE" or method == "MKCOL" or method == "COPY"
                or method == "MOVE" or method == "PROPFIND" or method == "PROPPATCH" or method == "LOCK"
                or method == "UNLOCK" then
            method_names[value] = method
        end
    end
end

function ngx.print(...)
    output(...)
    return 1
end

function ngx.say(...)
    local out = output(...)
    out[#out + 1] = "\n"
    return 1
end

function ngx.flush() return 1 end
function ngx.eof() return 1 end
function ngx.send_headers() return 1 end

function ngx.exit(code)
    local c = here()
    c.exit = tonumber(code) or 0
    error(EXIT, 0)
end

function ngx.redirect(uri, status)
    local c = here()
    if c.nginx_phase ~= "access" then
        disabled()
    end
    status = status or 302
    if status ~= 301 and status ~= 302 and status ~= 303 and status ~= 307 and status ~= 308 then
        error("only ngx.HTTP_MOVED_TEMPORARILY, ngx.HTTP_MOVED_PERMANENTLY, ngx.HTTP_PERMANENT_REDIRECT, "
              .. "ngx.HTTP_SEE_OTHER, and ngx.HTTP_TEMPORARY_REDIRECT are allowed", 2)
    end
    S.set_resp_header("Location", tostring(uri), false)
    c.exit = status
    error(EXIT, 0)
end

function ngx.exec()
    error("ngx.exec: there are no internal locations", 2)
end

function ngx.sleep(seconds)
    local c = here()
    seconds = tonumber(seconds)
    if not seconds or seconds < 0 then
        error("invalid sleep duration \"" .. tostring(seconds) .. "\"", 2)
    end
    local _, main = running()
    if c.nginx_phase ~= "access" or main then
        disabled()
    end
    yield(seconds)
    call = c
end

function ngx.on_abort() return 1 end

function ngx.get_phase()
    return call and S.active() and call.nginx_phase or "init"
end

local function line_of(...)
    local out = {}
    for i = 1, select("#", ...) do
        out[i] = tostring((select(i, ...)))
    end
    return concat(out)
end
parts.line_of = line_of

function ngx.log(level, ...)
    S.log(tonumber(level) or 4, line_of(...))
end

function print(...)
    S.log(6, line_of(...))
end

setmetatable(ngx, {
    __index = function(_, name)
        if name == "status" then
            return here().status or S.status()
        elseif name == "ctx" then
            return call and call.request.ngx_ctx or {}
        elseif name == "arg" then
            return parts.arg
        elseif name == "headers_sent" then
            return call ~= nil and call.nginx_phase ~= "access" and call.nginx_phase ~= "header_filter"
        elseif name == "is_subrequest" then
            return false
        end
    end,
    __newindex = function(_, name, value)
        if name == "status" then
            local c = here()
            value = tonumber(value)
            if c.nginx_phase == "access" then
                c.status = value
            else
                S.set_status(value)
            end
        elseif name == "ctx" then
            here().request.ngx_ctx = value
        else
            rawset(ngx, name, value)
        end
    end,
})

-- The piece of the response's body.
parts.arg = setmetatable({}, {
    __index = function(_, i)
        local c = here()
        if i == 1 then
            return c.chunk
        elseif i == 2 then
            return c.eof
        end
    end,
    __newindex = function(_, i, value)
        local c = here()
        if i == 1 then
            if type(value) == "table" then
                local out = {}
                flat(out, value)
                value = concat(out)
            end
            c.chunk = value == nil and "" or tostring(value)
        elseif i == 2 then
            c.eof = value and true or false
        end
    end,
})
arg = parts.arg

-- The request. -------------------------------------------------------------------------------------------------------

-- Names of headers are found in any case and with `_` for `-`.
local headers_mt = {
    __index = function(t, name)
        if type(name) ~= "string" then
            return nil
        end
        return rawget(t, (gsub(lower(name), "_", "-")))
    end,
}
parts.headers_mt = headers_mt

function req.get_headers(_, raw)
    here()
    local headers = S.req_headers()
    return raw and headers or setmetatable(headers, headers_mt)
end

function req.set_header(name, value)
    here()
    S.set_req_header(tostring(name), value, false)
end

function req.add_header(name, value)
    here()
    S.set_req_header(tostring(name), value, true)
end

function req.clear_header(name)
    here()
    S.set_req_header(tostring(name), nil, false)
end

function req.get_method()
    here()
    return S.var("request_method")
end

function req.set_method(method)
    here()
    local name = type(method) == "number" and method_names[method] or method
    if type(name) ~= "string" then
        error("unsupported HTTP method: " .. tostring(method), 2)
    end
    S.set_method(name)
end

function req.http_version()
    here()
    return tonumber((gsub(S.var("server_protocol") or "", "^HTTP/", "")))
end

function req.raw_header()
    here()
    local lines = { S.var("request") }
    for name, value in pairs(S.req_headers()) do
        if type(value) == "table" then
            value = concat(value, ", ")
        end
        lines[#lines + 1] = name .. ": " .. value
    end
    return concat(lines, "\r\n") .. "\r\n\r\n"
end

function req.start_time()
    here()
    return S.now() - (tonumber(S.var("request_time")) or 0)
end

function req.is_internal() return false end

function req.set_uri(uri)
    here()
    if type(uri) ~= "string" or uri == "" then
        error("attempt to use zero-length uri", 2)
    end
    S.set_path(uri)
end

local function encode_args(args)
    if type(args) ~= "table" then
        error("bad argument #1 to 'encode_args' (table expected, got " .. type(args) .. ")", 2)
    end
    local out = {}
    local function one(name, value)
        if value == true then
            out[#out + 1] = S.escape_uri(name)
        elseif value ~= false and value ~= nil then
            out[#out + 1] = S.escape_uri(name) .. "=" .. S.escape_uri(tostring(value))
        end
    end
    for name, value in pairs(args) do
        name = tostring(name)
        if type(value) == "table" then
            for i = 1, #value do
                one(name, value[i])
            end
        else
            one(name, value)
        end
    end
    return concat(out, "&")
end
ngx.encode_args = encode_args

function ngx.decode_args(text, limit)
    return S.decode_args(text, limit)
end

function req.get_uri_args(limit)
    here()
    return S.decode_args(S.var("args") or "", limit)
end

function req.set_uri_args(args)
    here()
    if type(args) == "table" then
        args = encode_args(args)
    end
    S.set_query(tostring(args))
end

function req.read_body() here() end
function req.discard_body() here() end

function req.get_body_data()
    here()
    local body = S.body()
    if body == "" then
        return nil
    end
    return body
end

function req.get_body_file() return nil end

function req.set_body_data(body)
    here()
    S.set_body(tostring(body))
end

function req.get_post_args(limit)
    here()
    return S.decode_args(S.body() or "", limit)
end

function req.socket()
    error("sockets are not supported", 2)
end

function resp.get_headers(_, raw)
    here()
    local headers = S.resp_headers()
    return raw and headers or setmetatable(headers, headers_mt)
end

function resp.add_header(name, value)
    here()
    S.set_resp_header(tostring(name), value, true)
end

-- Encodings and digests. ---------------------------------------------------------------------------------------------

function ngx.encode_base64(text, bare)
    return (bare and S.base64_bare or S.base64)(tostring(text))
end

function ngx.decode_base64(text)
    return S.unbase64(text)
end

function ngx.escape_uri(text, kind)
    return (kind == 0 and S.escape_whole_uri or S.escape_uri)(tostring(text))
end

function ngx.unescape_uri(text) return S.unescape_uri(tostring(text)) end
function ngx.md5(text) return S.md5(tostring(text)) end
function ngx.md5_bin(text) return S.md5_bin(tostring(text)) end
function ngx.sha1_bin(text) return S.sha1_bin(tostring(text)) end
function ngx.hmac_sha1(key, text) return S.hmac("sha1", key, text) end
function ngx.crc32_short(text) return S.crc32(text) end
function ngx.crc32_long(text) return S.crc32(text) end

function ngx.quote_sql_str(text)
    local escapes = { ["\0"] = "\\0", ["\n"] = "\\n", ["\r"] = "\\r", ["\26"] = "\\Z", ["'"] = "\\'", ['"'] = '\\"', ["\\"] = "\\\\" }
    return "'" .. gsub(text, "[%z\n\r\26'\"\\]", escapes) .. "'"
end

-- Time. --------------------------------------------------------------------------------------------------------------

ngx.now = S.now
function ngx.time() return floor(S.now()) end
function ngx.update_time() end
function ngx.today() return date("%Y-%m-%d") end
function ngx.localtime() return date("%Y-%m-%d %H:%M:%S") end
function ngx.utctime() return date("!%Y-%m-%d %H:%M:%S") end
function ngx.http_time(time) return date("!%a, %d %b %Y %H:%M:%S GMT", time) end
function ngx.cookie_time(time) return date("!%a, %d-%b-%y %H:%M:%S GMT", time) end

local months = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12 }

function ngx.parse_http_time(text)
    local day, month, year, hour, min, sec = string.match(text, "(%d+)[ -](%a+)[ -](%d+) (%d+):(%d+):(%d+)")
    month = months[month]
    if not month then
        return nil
    end
    local y, m, d = tonumber(year), month, tonumber(day)
    -- Days since the epoch of a date of the civil calendar.
    if m <= 2 then
        y, m = y - 1, m + 12
    end
    local days = 365 * y + floor(y / 4) - floor(y / 100) + floor(y / 400) + floor((153 * (m - 3) + 2) / 5) + d - 719469
    return days * 86400 + hour * 3600 + min * 60 + sec
end

-- Regular expressions. -----------------------------------------------------------------------------------------------

function re.match(subject, pattern, options, position, into)
    local at = position and position.pos or 1
    local from, to, groups = S.re_find(tostring(subject), pattern, options, at - 1)
    if not from then
        return nil, to
    end
    if position then
        position.pos = to + 1
    end
    if into then
        for k, v in pairs(groups) do
            into[k] = v
        end
        return into
    end
    return groups
end

function re.find(subject, pattern, options, position, nth)
    local at = position and position.pos or 1
    local from, to, _, bounds = S.re_find(tostring(subject), pattern, options, at - 1)
    if not from then
        return nil, nil, to
    end
    if position then
        position.pos = to + 1
    end
    if nth and nth > 0 then
        local group = bounds[nth]
        if not group then
            return nil, nil
        end
        return group[1], group[2]
    end
    return from, to
end

function re.gmatch(subject, pattern, options)
    local at, done = 0, false
    subject = tostring(subject)
    local _, why = S.re_find("", pattern, options, 0)
    if type(why) == "string" then
        return nil, why
    end
    return function()
        if done then
            return nil
        end
        local from, to, groups = S.re_find(subject, pattern, options, at)
        if not from then
            done = true
            return nil
        end
        at = to < from and to + 1 or to
        if at > #subject or (at == #subject and to >= from) then
            done = at > #subject or at == #subject
        end
        return groups
    end
end

local function replace(all)
    return function(subject, pattern, by, options)
        subject = tostring(subject)
        if type(by) ~= "function" then
            return S.re_replace(subject, pattern, tostring(by), options, all)
        end
        local out, at, count = {}, 0, 0
        while at <= #subject do
            local from, to, groups = S.re_find(subject, pattern, options, at)
            if not from then
                if type(to) == "string" then
                    return nil, nil, to
                end
                break
            end
            out[#out + 1] = sub(subject, at + 1, from - 1)
            out[#out + 1] = tostring(by(groups))
            count = count + 1
            at = to
            if to < from then
                out[#out + 1] = sub(subject, at + 1, at + 1)
                at = at + 1
            end
            if not all then
                break
            end
        end
        out[#out + 1] = sub(subject, at + 1)
        return concat(out), count
    end
end
re.sub, re.gsub = replace(false), replace(true)

function re.split(subject, pattern, options, position, max, into)
    local out, n = into or {}, 0
    local at = position and position.pos and position.pos - 1 or 0
    subject = tostring(subject)
    local start = at
    while not (max and max > 0 and n >= max - 1) and at <= #subject do
        local from, to = S.re_find(subject, pattern, options, at)
        if not from then
            if type(to) == "string" then
                return nil, to
            end
            break
        end
        if to < from then
            -- An empty match separates single characters.
            if from > #subject then
                break
            end
            if from > start + 1 then
                n = n + 1
                out[n] = sub(subject, start + 1, from - 1)
                start = from - 1
            end
            at = from
        else
            n = n + 1
            out[n] = sub(subject, start + 1, from - 1)
            start, at = to, to
        end
    end
    n = n + 1
    out[n] = sub(subject, start + 1)
    if not max or max <= 0 then
        -- As in Perl, empty strings at the end are left out.
        while n > 0 and out[n] == "" do
            out[n] = nil
            n = n - 1
        end
    end
    return out
end

function re.opt() end

-- Shared dictionaries. -----------------------------------------------------------------------------------------------

local dict = {}
dict.__index = dict
local function key_of(key)
    if key == nil then
        return nil, "nil key"
    end
    key = tostring(key)
    if key == "" then
        return nil, "empty key"
    end
    return key
end

function dict:get(key)
    local name, why = key_of(key)
    if not name then
        return nil, why
    end
    return S.dict_get(self.name, name)
end
dict.get_stale = dict.get

local function put(when)
    return function(self, key, value, seconds, flags)
        local name, why = key_of(key)
        if not name then
            return nil, why
        end
        if value == nil then
            S.dict_delete(self.name, name)
            return true
        end
        return S.dict_put(self.name, name, value, seconds, flags, when)
    end
end
dict.set, dict.safe_set, dict.add, dict.safe_add, dict.replace = put(0), put(0), put(1), put(1), put(2)

function dict:incr(key, by, initial, seconds)
    local name, why = key_of(key)
    if not name then
        return nil, why
    end
    return S.dict_incr(self.name, name, tonumber(by), initial, seconds)
end

function dict:delete(key)
    local name = key_of(key)
    if name then
        S.dict_delete(self.name, name)
    end
end

function dict:ttl(key) return S.dict_ttl(self.name, tostring(key)) end
function dict:flush_all() S.dict_flush(self.name) end
function dict:flush_expired() return 0 end
function dict:get_keys(limit) return S.dict_keys(self.name, limit) end

ngx.shared = setmetatable({}, {
    __index = function(t, name)
        local made = setmetatable({ name = tostring(name) }, dict)
        rawset(t, name, made)
        return made
    end,
})

-- What needs sockets, timers or other locations. ---------------------------------------------------------------------

local function unsupported(what)
    return function()
        error(what .. " is not supported", 2)
    end
end
ngx.socket = { tcp = unsupported("ngx.socket.tcp"), udp = unsupported("ngx.socket.udp"), connect = unsupported("ngx.socket.connect") }
ngx.timer = { at = unsupported("ngx.timer.at"), every = unsupported("ngx.timer.every") }
ngx.location = { capture = unsupported("ngx.location.capture"), capture_multi = unsupported("ngx.location.capture_multi") }
ngx.thread = { spawn = unsupported("ngx.thread.spawn"), wait = unsupported("ngx.thread.wait"), kill = unsupported("ngx.thread.kill") }

local modules = parts.modules
modules["ngx"] = ngx
modules["ngx.re"] = re
modules["resty.core"] = {}
modules["resty.core.base"] = {}
modules["ngx.errlog"] = { raw_log = function(level, line) S.log(level, line) end, get_sys_filter_level = function() return 5 end }
modules["ngx.process"] = { type = function() return "worker" end }
