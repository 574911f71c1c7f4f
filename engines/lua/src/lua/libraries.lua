-- lua-cjson and the parts of lua-resty-* that functions in configuration use.
local S, parts = ...

local modules, error, type, tostring, setmetatable = parts.modules, error, type, tostring, setmetatable

-- cjson -----------------------------------------------------------------------------------------------------------

local function nothing() end

local function cjson(safe)
    local M = {
        null = S.null,
        array_mt = S.array_mt,
        empty_array_mt = S.array_mt,
        empty_array = setmetatable({}, S.array_mt),
        encode_empty_table_as_object = nothing,
        encode_sparse_array = nothing,
        encode_max_depth = nothing,
        decode_max_depth = nothing,
        decode_array_with_array_mt = nothing,
        encode_escape_forward_slash = nothing,
        encode_keep_buffer = nothing,
        encode_number_precision = nothing,
        encode_invalid_numbers = nothing,
        decode_invalid_numbers = nothing,
        _NAME = "cjson", _VERSION = "2.1.0.14",
    }
    function M.encode(value)
        local text, why = S.json_encode(value)
        if not text and not safe then
            error(why, 2)
        end
        if text then
            return text
        end
        return nil, why
    end
    function M.decode(text)
        if type(text) ~= "string" then
            local why = "bad argument #1 to 'decode' (string expected, got " .. type(text) .. ")"
            if safe then
                return nil, why
            end
            error(why, 2)
        end
        local value, why = S.json_decode(text)
        if why and not safe then
            error(why, 2)
        end
        if why then
            return nil, why
        end
        return value
    end
    M.new = function() return cjson(safe) end
    return M
end
modules["cjson"] = cjson(false)
modules["cjson.safe"] = cjson(true)

-- resty.string, digests -----------------------------------------------------------------------------------------------

modules["resty.string"] = { to_hex = function(bytes) return S.hex(bytes) end, atoi = tonumber }

local function digest(f)
    return {
        new = function()
            return {
                pieces = {},
                update = function(self, text)
                    self.pieces[#self.pieces + 1] = text
                    return true
                end,
                final = function(self) return f(table.concat(self.pieces)) end,
                reset = function(self)
                    self.pieces = {}
                    return true
                end,
            }
        end,
    }
end
modules["resty.md5"] = digest(S.md5_bin)
modules["resty.sha1"] = digest(S.sha1_bin)
modules["resty.sha256"] = digest(S.sha256_bin)
modules["resty.sha512"] = digest(S.sha512_bin)

local hmac = { ALGOS = { SHA1 = "sha1", SHA256 = "sha256", SHA512 = "sha512" } }
function hmac.new(_, key, algorithm)
    local made = { pieces = {} }
    function made:update(text)
        self.pieces[#self.pieces + 1] = text
        return true
    end
    function made:final(text, hex)
        local bytes = S.hmac(algorithm or "sha1", key, table.concat(self.pieces) .. (text or ""))
        return hex and S.hex(bytes) or bytes
    end
    function made:reset()
        self.pieces = {}
        return true
    end
    return made
end
modules["resty.hmac"] = hmac

modules["resty.random"] = { bytes = function(count) return S.random(count) end }

local base64 = { encode_base64url = function(text) return S.base64url(text) end, decode_base64url = function(text) return S.unbase64url(text) end }
modules["ngx.base64"] = base64

local function uuid()
    local bytes = S.random(16)
    local hex = S.hex(bytes:sub(1, 6) .. string.char(bytes:byte(7) % 16 + 64) .. bytes:sub(8, 8)
        .. string.char(bytes:byte(9) % 64 + 128) .. bytes:sub(10))
    return hex:sub(1, 8) .. "-" .. hex:sub(9, 12) .. "-" .. hex:sub(13, 16) .. "-" .. hex:sub(17, 20) .. "-" .. hex:sub(21)
end
modules["resty.jit-uuid"] = setmetatable({ seed = nothing, generate_v4 = uuid }, { __call = uuid })

-- resty.lrucache: bounded by number; what was used longest ago goes. ---------------------------------------------------

local lru = {}
lru.__index = lru
function lru.new(size)
    return setmetatable({ size = size, count = 0, tick = 0, entries = {} }, lru)
end
function lru:get(key)
    local entry = self.entries[key]
    if not entry then
        return nil
    end
    self.tick = self.tick + 1
    entry.used = self.tick
    if entry.expires and entry.expires <= S.now() then
        return nil, entry.value, entry.flags
    end
    return entry.value, nil, entry.flags
end
function lru:set(key, value, ttl, flags)
    if not self.entries[key] then
        if self.count >= self.size then
            local oldest, least
            for k, e in pairs(self.entries) do
                if not least or e.used < least then
                    oldest, least = k, e.used
                end
            end
            self:delete(oldest)
        end
        self.count = self.count + 1
    end
    self.tick = self.tick + 1
    self.entries[key] = { value = value, used = self.tick, flags = flags, expires = ttl and ttl > 0 and S.now() + ttl or nil }
end
function lru:delete(key)
    if self.entries[key] then
        self.entries[key] = nil
        self.count = self.count - 1
    end
end
function lru:flush_all()
    self.entries, self.count = {}, 0
end
function lru:capacity() return self.size end
modules["resty.lrucache"] = lru
modules["resty.lrucache.pureffi"] = lru

-- resty.cookie, for reading ----------------------------------------------------------------------------------------------

local cookie = {}
cookie.__index = cookie
function cookie:new() return setmetatable({}, cookie) end
function cookie:get_all()
    local all, line = {}, ngx.req.get_headers()["cookie"]
    if type(line) == "table" then
        line = table.concat(line, "; ")
    end
    for name, value in (line or ""):gmatch("([^%s;=]+)=([^;]*)") do
        all[name] = all[name] or value
    end
    return next(all) and all or nil, not next(all) and "no cookie found in the current request" or nil
end
function cookie:get(name)
    local all, why = self:get_all()
    if not all then
        return nil, why
    end
    return all[name], all[name] == nil and "no cookie " .. name .. " found" or nil
end
function cookie:set(c)
    if not c.key or not c.value then
        return nil, 'missing cookie field "key" or "value"'
    end
    local parts = { c.key .. "=" .. c.value }
    for _, field in ipairs({ "expires", "max_age", "domain", "path", "samesite" }) do
        if c[field] then
            local name = ({ expires = "Expires", max_age = "Max-Age", domain = "Domain", path = "Path", samesite = "SameSite" })[field]
            parts[#parts + 1] = name .. "=" .. tostring(c[field])
        end
    end
    if c.secure then parts[#parts + 1] = "Secure" end
    if c.httponly then parts[#parts + 1] = "HttpOnly" end
    S.set_resp_header("Set-Cookie", table.concat(parts, "; "), true)
    return true
end
modules["resty.cookie"] = cookie

modules["resty.url"] = {
    parse = function(url)
        local scheme, host, rest = url:match("^(%a[%w+.-]*)://([^/?#]*)(.*)$")
        if not scheme then
            return nil, "bad url"
        end
        local name, port = host:match("^(.-):(%d+)$")
        return { scheme = scheme, host = name or host, port = tonumber(port), path = rest ~= "" and rest or nil }
    end,
}

modules["net.url"] = {
    parse = function(url)
        local made, rest = {}, tostring(url)
        rest = rest:gsub("#(.*)$", function(text) made.fragment = text return "" end)
        rest = rest:gsub("^([%w][%w%+%-%.]*):", function(text) made.scheme = text:lower() return "" end)
        rest = rest:gsub("%?(.*)$", function(text) made.query = ngx.decode_args(text, 0) return "" end)
        rest = rest:gsub("^//([^/]*)", function(text)
            made.authority = text
            made.host, made.port = text:match("^(.-):(%d+)$")
            made.host, made.port = made.host or text, tonumber(made.port)
            return ""
        end)
        -- Each part is written anew, with only what must be escaped.
        made.path = rest:gsub("[^/]+", function(part)
            return (S.unescape_uri(part):gsub("[^%w%-_%.!~%*'%(%):@&=%+%$,;]", function(c)
                return ("%%%02X"):format(c:byte())
            end))
        end)
        return made
    end,
}
