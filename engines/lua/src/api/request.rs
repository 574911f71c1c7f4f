//! Request and response: thin calls to [`crate::Host`].
use super::json::{from_lua, to_lua};
use crate::host::{Fields, with};
use mlua::{Lua, LuaString, Table, Value};
use sluice_expr::Value as Variable;

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    s.set("var", lua.create_function(variable)?)?;
    s.set("set_var", lua.create_function(set_variable)?)?;
    s.set("fact", lua.create_function(fact)?)?;
    s.set("set_fact", lua.create_function(set_fact)?)?;
    s.set("active", lua.create_function(|_, ()| Ok(crate::host::HOST.is_set()))?)?;
    s.set("req_headers", lua.create_function(|lua, ()| table(lua, with(|h| h.request_headers())?))?)?;
    s.set(
        "req_header",
        lua.create_function(|lua, name: LuaString| {
            let name = name.to_string_lossy();
            values(lua, with(|h| h.request_header(&name))?)
        })?,
    )?;
    s.set(
        "set_req_header",
        lua.create_function(|_, (name, value, append): (LuaString, Value, bool)| {
            let (name, list) = (name.to_string_lossy(), strings(value)?);
            refuse(with(|h| h.set_request_header(&name, &list, append))?)
        })?,
    )?;
    s.set("resp_headers", lua.create_function(|lua, ()| table(lua, with(|h| h.response_headers())?))?)?;
    s.set(
        "resp_header",
        lua.create_function(|lua, name: LuaString| {
            let name = name.to_string_lossy();
            values(lua, with(|h| h.response_header(&name))?)
        })?,
    )?;
    s.set(
        "set_resp_header",
        lua.create_function(|_, (name, value, append): (LuaString, Value, bool)| {
            let (name, list) = (name.to_string_lossy(), strings(value)?);
            refuse(with(|h| h.set_response_header(&name, &list, append))?)
        })?,
    )?;
    s.set("status", lua.create_function(|_, ()| with(|h| h.status()))?)?;
    s.set("set_status", lua.create_function(|_, status: u16| refuse(with(|h| h.set_status(status))?))?)?;
    s.set(
        "set_method",
        lua.create_function(|_, method: LuaString| {
            let method = method.to_string_lossy();
            refuse(with(|h| h.set_method(&method))?)
        })?,
    )?;
    s.set("set_path", lua.create_function(|_, path: LuaString| refuse(with(|h| h.set_path(&path.as_bytes()))?))?)?;
    s.set("set_query", lua.create_function(|_, query: LuaString| refuse(with(|h| h.set_query(&query.as_bytes()))?))?)?;
    s.set(
        "body",
        lua.create_function(|lua, ()| {
            let body = with(|h| h.request_body().map(<[u8]>::to_vec))?;
            body.map(|b| lua.create_string(b)).transpose()
        })?,
    )?;
    s.set(
        "set_body",
        lua.create_function(|_, body: LuaString| refuse(with(|h| h.set_request_body(&body.as_bytes()))?))?,
    )?;
    Ok(())
}

fn refuse(done: Result<(), &'static str>) -> mlua::Result<()> {
    done.map_err(mlua::Error::runtime)
}

fn variable(lua: &Lua, name: LuaString) -> mlua::Result<Value> {
    let name = name.to_string_lossy();
    let found = with(|h| h.variable(&name).map(|v| v.to_owned_value()))?;
    found.map_or(Ok(Value::Nil), |v| variable_to_lua(lua, &v))
}

fn variable_to_lua(lua: &Lua, value: &Variable<'_>) -> mlua::Result<Value> {
    Ok(match value {
        Variable::Bytes(bytes) => Value::String(lua.create_string(bytes)?),
        Variable::Number(n) => Value::Number(*n),
        Variable::Bool(b) => Value::Boolean(*b),
        Variable::List(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                list.push(variable_to_lua(lua, item)?)?;
            }
            Value::Table(list)
        }
    })
}

fn set_variable(_: &Lua, (name, value): (LuaString, Option<LuaString>)) -> mlua::Result<()> {
    let name = name.to_string_lossy();
    refuse(with(|h| match &value {
        Some(value) => h.set_variable(&name, Some(&value.as_bytes())),
        None => h.set_variable(&name, None),
    })?)
}

fn fact(lua: &Lua, name: LuaString) -> mlua::Result<Value> {
    let name = name.to_string_lossy();
    let found = with(|h| h.fact(&name))?;
    if found.is_null() { Ok(Value::Nil) } else { to_lua(lua, &found) }
}

fn set_fact(_: &Lua, (name, value): (LuaString, Value)) -> mlua::Result<()> {
    let name = name.to_string_lossy();
    // What JSON cannot hold stays Lua's own.
    let Ok(value) = from_lua(&value, 0) else { return Ok(()) };
    with(|h| h.set_fact(&name, &value))
}

/// One value as it is, several as a list.
fn values(lua: &Lua, list: Vec<Vec<u8>>) -> mlua::Result<Value> {
    match list.as_slice() {
        [] => Ok(Value::Nil),
        [one] => Ok(Value::String(lua.create_string(one)?)),
        many => {
            let table = lua.create_table_with_capacity(many.len(), 0)?;
            for value in many {
                table.push(lua.create_string(value)?)?;
            }
            Ok(Value::Table(table))
        }
    }
}

/// Fields by lower-case name; a name that comes twice has a list.
fn table(lua: &Lua, fields: Fields) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, value) in fields {
        let name = lua.create_string(name.to_ascii_lowercase())?;
        put(lua, &table, name, Value::String(lua.create_string(value)?))?;
    }
    Ok(table)
}

/// Adds a value under a name that may be there already.
pub(super) fn put(lua: &Lua, table: &Table, name: LuaString, value: Value) -> mlua::Result<()> {
    match table.raw_get::<Value>(&name)? {
        Value::Nil => table.raw_set(name, value),
        Value::Table(list) => list.push(value),
        first => table.raw_set(name, lua.create_sequence_from([first, value])?),
    }
}

/// What is written to a header: nothing, text, or a list.
fn strings(value: Value) -> mlua::Result<Vec<Vec<u8>>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Boolean(b) => Ok(b.to_string().into_bytes()),
        Value::Integer(_) | Value::Number(_) => Ok(value.to_string()?.into_bytes()),
        other => Err(mlua::Error::runtime(format!("bad header value of type {}", other.type_name()))),
    };
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Table(list) => list.sequence_values::<Value>().map(|v| one(&v?)).collect(),
        other => Ok(vec![one(&other)?]),
    }
}
