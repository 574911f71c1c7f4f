//! What Lua code can call, and the Lua modules built on it.
//!
//! The primitives here are few and plain; `lua/*.lua` gives them the names and habits of `ngx` and `apisix.core`. They
//! reach the modules as one table that scripts never see.
mod decode;
mod dictionary;
mod json;
mod regex;
mod request;
mod text;
mod time;

use crate::engine::Engine;
use mlua::{Lua, Table, Value};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) use json::{number, to_lua};

/// The modules in order; each gets the primitives and what those before it made.
const MODULES: [(&str, &str); 6] = [
    ("=sandbox", include_str!("lua/sandbox.lua")),
    ("=ngx", include_str!("lua/ngx.lua")),
    ("=libraries", include_str!("lua/libraries.lua")),
    ("=apisix.core", include_str!("lua/core.lua")),
    ("=run", include_str!("lua/run.lua")),
    ("=template", include_str!("lua/template.lua")),
];

/// Fills a new machine; the result holds the functions of `run.lua`.
pub(crate) fn install(lua: &Lua, engine: &Arc<Engine>, left: &Rc<Cell<u64>>) -> mlua::Result<Table> {
    let primitives = lua.create_table()?;
    request::install(lua, &primitives)?;
    text::install(lua, &primitives)?;
    json::install(lua, &primitives)?;
    decode::install(lua, &primitives)?;
    regex::install(lua, &primitives)?;
    time::install(lua, &primitives)?;
    dictionary::install(lua, &primitives, engine)?;
    let (left, limited) = (left.clone(), engine.limits.instructions > 0);
    primitives.set("exhausted", lua.create_function(move |_, ()| Ok(limited && left.get() == 0))?)?;
    primitives.set("environment", engine.limits.environment)?;
    primitives.set("pid", std::process::id())?;
    primitives.set("null", Value::NULL)?;
    primitives.set(
        "log",
        lua.create_function(|_, (level, line): (i64, mlua::LuaString)| {
            log(level, &line.to_string_lossy());
            Ok(())
        })?,
    )?;
    let parts = lua.create_table()?;
    for (name, source) in MODULES {
        lua.load(source).set_name(name).call::<()>((primitives.clone(), parts.clone()))?;
    }
    parts.get("run")
}

/// What configured code writes is never held back. nginx's levels: 4 is ERR, 5 WARN, 6 NOTICE, 7 INFO, 8 DEBUG; lower ones are worse.
fn log(level: i64, line: &str) {
    match level {
        ..=4 => tracing::error!(always = true, "[lua] {line}"),
        5 => tracing::warn!(always = true, "[lua] {line}"),
        6 | 7 => tracing::info!(always = true, "[lua] {line}"),
        _ => tracing::debug!(always = true, "[lua] {line}"),
    }
}
