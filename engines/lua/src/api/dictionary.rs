//! `ngx.shared`: dictionaries that all workers share.
use crate::engine::{Engine, Shared, Write};
use mlua::{Lua, LuaString, Table, Value};
use std::sync::Arc;

fn shared(value: &Value) -> Option<Shared> {
    Some(match value {
        Value::String(text) => Shared::Bytes(text.as_bytes().to_vec()),
        Value::Integer(n) => Shared::Number(*n as f64),
        Value::Number(n) => Shared::Number(*n),
        Value::Boolean(b) => Shared::Bool(*b),
        _ => return None,
    })
}

fn to_lua(lua: &Lua, value: &Shared) -> mlua::Result<Value> {
    Ok(match value {
        Shared::Bytes(bytes) => Value::String(lua.create_string(bytes)?),
        Shared::Number(n) => Value::Number(*n),
        Shared::Bool(b) => Value::Boolean(*b),
    })
}

pub(super) fn install(lua: &Lua, s: &Table, engine: &Arc<Engine>) -> mlua::Result<()> {
    let e = engine.clone();
    s.set(
        "dict_get",
        lua.create_function(move |lua, (name, key): (String, LuaString)| {
            let found = e.get(&name, &key.as_bytes());
            let Some((value, flags)) = found else { return Ok((Value::Nil, None)) };
            Ok((to_lua(lua, &value)?, (flags != 0.0).then_some(flags)))
        })?,
    )?;
    let e = engine.clone();
    type Put = (String, LuaString, Value, Option<f64>, Option<f64>, u8);
    s.set(
        "dict_put",
        lua.create_function(move |_, (name, key, value, seconds, flags, when): Put| {
            let Some(value) = shared(&value) else { return Ok((None, Some("bad value type"))) };
            let when = match when {
                1 => Write::IfNew,
                2 => Write::IfThere,
                _ => Write::Always,
            };
            let done = e.put(&name, &key.as_bytes(), value, seconds.unwrap_or(0.0), flags.unwrap_or(0.0), when);
            Ok(match (done, when) {
                (Ok(true), _) => (Some(true), None),
                (Ok(false), Write::IfNew) => (Some(false), Some("exists")),
                (Ok(false), _) => (Some(false), Some("not found")),
                (Err(why), _) => (None, Some(why)),
            })
        })?,
    )?;
    let e = engine.clone();
    s.set(
        "dict_delete",
        lua.create_function(move |_, (name, key): (String, LuaString)| {
            e.delete(&name, &key.as_bytes());
            Ok(true)
        })?,
    )?;
    let e = engine.clone();
    type Add = (String, LuaString, f64, Option<f64>, Option<f64>);
    s.set(
        "dict_incr",
        lua.create_function(move |_, (name, key, by, initial, seconds): Add| {
            Ok(match e.add(&name, &key.as_bytes(), by, initial, seconds.unwrap_or(0.0)) {
                Ok(sum) => (Some(sum), None),
                Err(why) => (None, Some(why)),
            })
        })?,
    )?;
    let e = engine.clone();
    s.set(
        "dict_ttl",
        lua.create_function(move |_, (name, key): (String, LuaString)| {
            Ok(match e.ttl(&name, &key.as_bytes()) {
                Some(seconds) => (Some(seconds), None),
                None => (None, Some("not found")),
            })
        })?,
    )?;
    let e = engine.clone();
    s.set(
        "dict_flush",
        lua.create_function(move |_, name: String| {
            e.flush(&name);
            Ok(())
        })?,
    )?;
    let e = engine.clone();
    s.set(
        "dict_keys",
        lua.create_function(move |lua, (name, limit): (String, Option<usize>)| {
            let keys = e.keys(&name, limit.unwrap_or(1024));
            let keys = keys.iter().map(|k| lua.create_string(k)).collect::<mlua::Result<Vec<_>>>()?;
            lua.create_sequence_from(keys)
        })?,
    )?;
    Ok(())
}
