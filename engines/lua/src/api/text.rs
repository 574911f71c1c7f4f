//! Encodings and digests.
use super::request::put;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use md5::{Digest, Md5};
use mlua::{Lua, LuaString, Table, Value};

/// Padding may be missing, as nginx takes it.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_BARE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT.with_encode_padding(false));
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT.with_encode_padding(false));

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    let bytes = |name: &str, f: fn(&[u8]) -> Vec<u8>| -> mlua::Result<()> {
        let function = lua.create_function(move |lua, text: LuaString| lua.create_string(f(&text.as_bytes())))?;
        s.set(name, function)
    };
    bytes("base64", |b| BASE64.encode(b).into_bytes())?;
    bytes("base64_bare", |b| BASE64_BARE.encode(b).into_bytes())?;
    bytes("base64url", |b| BASE64_URL.encode(b).into_bytes())?;
    bytes("md5_bin", |b| Md5::digest(b).to_vec())?;
    bytes("md5", |b| hex(&Md5::digest(b)))?;
    bytes("sha1_bin", |b| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, b).as_ref().to_vec())?;
    bytes("sha256_bin", |b| digest::digest(&digest::SHA256, b).as_ref().to_vec())?;
    bytes("sha512_bin", |b| digest::digest(&digest::SHA512, b).as_ref().to_vec())?;
    bytes("hex", hex)?;
    bytes("escape_uri", |b| escape(b, is_component))?;
    bytes("escape_whole_uri", |b| escape(b, is_uri))?;
    bytes("unescape_uri", unescape)?;
    s.set("unbase64", lua.create_function(|lua, text: LuaString| decoded(lua, BASE64.decode(text.as_bytes()).ok()))?)?;
    s.set(
        "unbase64url",
        lua.create_function(|lua, text: LuaString| decoded(lua, BASE64_URL.decode(text.as_bytes()).ok()))?,
    )?;
    s.set("crc32", lua.create_function(|_, text: LuaString| Ok(f64::from(crc32fast::hash(&text.as_bytes()))))?)?;
    s.set("hmac", lua.create_function(keyed)?)?;
    s.set("decode_args", lua.create_function(decode_args)?)?;
    s.set("random", lua.create_function(random)?)?;
    Ok(())
}

fn decoded(lua: &Lua, bytes: Option<Vec<u8>>) -> mlua::Result<Option<LuaString>> {
    bytes.map(|b| lua.create_string(b)).transpose()
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| if n < 10 { b'0' + n } else { b'a' + n - 10 }).collect()
}

fn keyed(lua: &Lua, (name, key, text): (String, LuaString, LuaString)) -> mlua::Result<LuaString> {
    let algorithm = match name.as_str() {
        "sha1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "sha256" => hmac::HMAC_SHA256,
        "sha512" => hmac::HMAC_SHA512,
        other => return Err(mlua::Error::runtime(format!("unknown digest {other}"))),
    };
    let key = hmac::Key::new(algorithm, &key.as_bytes());
    lua.create_string(hmac::sign(&key, &text.as_bytes()))
}

/// Random bytes; at most 1024.
fn random(lua: &Lua, count: usize) -> mlua::Result<LuaString> {
    let mut bytes = vec![0; count.min(1024)];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| mlua::Error::runtime("no randomness"))?;
    lua.create_string(bytes)
}

/// What `ngx.escape_uri` leaves alone in a component.
fn is_component(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte)
}

/// What it leaves alone in a whole URI (`ngx.escape_uri(text, 0)`).
fn is_uri(byte: u8) -> bool {
    byte > 32 && byte < 127 && !b" #%?\"<>\\^`{|}".contains(&byte)
}

fn escape(text: &[u8], keep: fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if keep(*byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

/// `%xx` and `+`; a broken escape stays.
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    out
}

/// `ngx.decode_args`: an argument without `=` is `true`, a name that comes twice has a list. At most `limit` (0: all).
fn decode_args(lua: &Lua, (text, limit): (LuaString, Option<usize>)) -> mlua::Result<Table> {
    let limit = match limit {
        None => 100,
        Some(0) => usize::MAX,
        Some(limit) => limit,
    };
    let table = lua.create_table()?;
    let bytes = text.as_bytes();
    for part in bytes.split(|b| *b == b'&').filter(|p| !p.is_empty()).take(limit) {
        let mut halves = part.splitn(2, |b| *b == b'=');
        let name = unescape(halves.next().unwrap_or_default());
        let value = halves.next().map(unescape);
        if name.is_empty() {
            continue;
        }
        let value = match value {
            Some(value) => Value::String(lua.create_string(value)?),
            None => Value::Boolean(true),
        };
        put(lua, &table, lua.create_string(name)?, value)?;
    }
    Ok(table)
}
