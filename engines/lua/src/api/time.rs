//! The clock. Dates are made in Lua with `os.date`.
use mlua::{Lua, Table};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    // Milliseconds, as nginx has them.
    s.set(
        "now",
        lua.create_function(|_, ()| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(since.as_millis() as f64 / 1000.0)
        })?,
    )
}
