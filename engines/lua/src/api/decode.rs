//! What templates read: XML, YAML, and templates themselves.
use super::json::to_lua;
use crate::template;
use crate::xml::{self, Node};
use mlua::{Lua, LuaString, Table, Value};
use serde_json::Value as Json;

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    s.set(
        "template_source",
        lua.create_function(|lua, text: LuaString| lua.create_string(template::source(&text.as_bytes())))?,
    )?;
    s.set(
        "xml_decode",
        lua.create_function(|lua, text: LuaString| match xml::parse(&text.as_bytes()) {
            Ok(node) => Ok((node_to_lua(lua, &node)?, None)),
            Err(error) => Ok((Value::Nil, Some(error.to_string()))),
        })?,
    )?;
    s.set(
        "yaml_decode",
        lua.create_function(|lua, text: LuaString| match serde_saphyr::from_str::<Json>(&text.to_string_lossy()) {
            Ok(value) => Ok((to_lua(lua, &value)?, None)),
            Err(error) => Ok((Value::Nil, Some(error.to_string()))),
        })?,
    )
}

fn node_to_lua(lua: &Lua, node: &Node) -> mlua::Result<Value> {
    Ok(match node {
        Node::Text(text) => Value::String(lua.create_string(text)?),
        Node::Table(items, fields) => {
            let table = lua.create_table_with_capacity(items.len(), fields.len())?;
            for item in items {
                table.raw_push(node_to_lua(lua, item)?)?;
            }
            for (name, value) in fields {
                table.raw_set(lua.create_string(name)?, node_to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
    })
}
