//! JSON as lua-cjson reads and writes it.
//!
//! Its habits: `/` is written `\/`, numbers with 14 digits, an empty table is an object unless it has `array_mt`, an array
//! that was read has `array_mt`, and keys come in the table's order.
use mlua::{Lua, LuaString, Table, Value};
use serde_json::Value as Json;
use sluice_expr::value::write_number;

/// lua-cjson's default (`encode_max_depth`, `decode_max_depth`).
const DEPTH: usize = 1000;
/// A table with a hole this large is not an array.
const ARRAY: i64 = 1 << 20;
const ARRAY_MT: &str = "cjson.array_mt";

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    let array_mt = lua.create_table()?;
    lua.set_named_registry_value(ARRAY_MT, &array_mt)?;
    s.set("array_mt", array_mt)?;
    s.set(
        "json_encode",
        lua.create_function(|lua, value: Value| {
            let array_mt: Table = lua.named_registry_value(ARRAY_MT)?;
            let mut out = Vec::new();
            match encode(&value, &array_mt, 0, &mut out) {
                Ok(()) => Ok((Some(lua.create_string(&out)?), None)),
                Err(why) => Ok((None, Some(why))),
            }
        })?,
    )?;
    s.set(
        "json_decode",
        lua.create_function(|lua, text: LuaString| match serde_json::from_slice::<Json>(&text.as_bytes()) {
            Ok(value) => Ok((to_lua(lua, &value)?, None)),
            Err(error) => Ok((Value::Nil, Some(decode_error(&text.as_bytes(), &error)))),
        })?,
    )?;
    Ok(())
}

/// lua-cjson's wording, as far as it can be told.
fn decode_error(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return format!("Expected value but found T_END at character {}", text.len() + 1);
    }
    let at = error.column().saturating_sub(1)
        + text.split(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(|l| l.len() + 1).sum::<usize>();
    format!("Expected value but found invalid token at character {}", at + 1)
}

/// A value of the configuration for Lua.
pub(crate) fn to_lua(lua: &Lua, value: &Json) -> mlua::Result<Value> {
    Ok(match value {
        Json::Null => Value::NULL,
        Json::Bool(b) => Value::Boolean(*b),
        Json::Number(n) => Value::Number(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                list.raw_push(to_lua(lua, item)?)?;
            }
            list.set_metatable(Some(lua.named_registry_value::<Table>(ARRAY_MT)?))?;
            Value::Table(list)
        }
        Json::Object(fields) => {
            let table = lua.create_table_with_capacity(0, fields.len())?;
            for (name, item) in fields {
                table.raw_set(lua.create_string(name)?, to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
    })
}

/// What of a value JSON can hold; functions and the like are an error.
pub(super) fn from_lua(value: &Value, depth: usize) -> mlua::Result<Json> {
    if depth > 32 {
        return Err(mlua::Error::runtime("too deep"));
    }
    Ok(match value {
        Value::Nil => Json::Null,
        Value::LightUserData(_) => Json::Null,
        Value::Boolean(b) => Json::Bool(*b),
        Value::Integer(n) => Json::from(*n),
        Value::Number(n) => Json::from(*n),
        Value::String(text) => Json::String(text.to_string_lossy()),
        Value::Table(table) if table.raw_len() > 0 => {
            let items = table.sequence_values::<Value>().map(|v| from_lua(&v?, depth + 1));
            Json::Array(items.collect::<mlua::Result<_>>()?)
        }
        Value::Table(table) => {
            let mut fields = serde_json::Map::new();
            for pair in table.pairs::<Value, Value>() {
                let (name, item) = pair?;
                fields.insert(name.to_string()?, from_lua(&item, depth + 1)?);
            }
            Json::Object(fields)
        }
        other => return Err(mlua::Error::runtime(format!("a {}", other.type_name()))),
    })
}

/// A number, whichever way it is held.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) => Some(*n),
        _ => None,
    }
}

/// The length of a table that is an array: all keys are positive integers and there is no large hole.
fn array_len(table: &Table, array_mt: &Table) -> Result<Option<i64>, String> {
    let says = table.metatable().is_some_and(|m| m == *array_mt);
    let (mut highest, mut count) = (0, 0);
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair.map_err(|e| e.to_string())?;
        match number(&key) {
            Some(n) if n.fract() == 0.0 && n >= 1.0 && n <= ARRAY as f64 => {
                highest = highest.max(n as i64);
                count += 1;
            }
            _ if says => continue,
            _ => return Ok(None),
        }
    }
    if highest > 10 && highest > count * 2 && !says {
        return Err("Cannot serialise table: excessively sparse array".into());
    }
    Ok((highest > 0 || says).then_some(highest))
}

fn encode(value: &Value, array_mt: &Table, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if depth > DEPTH {
        return Err(format!("Cannot serialise, excessive depth ({depth})"));
    }
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(data) if data.0.is_null() => out.extend_from_slice(b"null"),
        Value::Boolean(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Integer(n) => write_number(*n as f64, out),
        Value::Number(n) if n.is_finite() => write_number(*n, out),
        Value::Number(_) => return Err("Cannot serialise number: must not be NaN or Infinity".into()),
        Value::String(text) => string(&text.as_bytes(), out),
        Value::Table(table) => match array_len(table, array_mt)? {
            Some(n) => {
                out.push(b'[');
                for i in 1..=n {
                    if i > 1 {
                        out.push(b',');
                    }
                    encode(&table.raw_get(i).map_err(|e| e.to_string())?, array_mt, depth + 1, out)?;
                }
                out.push(b']');
            }
            None => object(table, array_mt, depth, out)?,
        },
        other => return Err(format!("Cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

fn object(table: &Table, array_mt: &Table, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'{');
    let mut first = true;
    for pair in table.pairs::<Value, Value>() {
        let (key, item) = pair.map_err(|e| e.to_string())?;
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match &key {
            Value::String(name) => string(&name.as_bytes(), out),
            Value::Integer(_) | Value::Number(_) => {
                let mut name = Vec::new();
                write_number(number(&key).unwrap_or_default(), &mut name);
                string(&name, out);
            }
            _ => return Err("Cannot serialise table: table key must be a number or string".into()),
        }
        out.push(b':');
        encode(&item, array_mt, depth + 1, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            0..=31 | 127 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            other => out.push(*other),
        }
    }
    out.push(b'"');
}
