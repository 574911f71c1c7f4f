//! `ngx.re`: matching from a position, and replacing.
//!
//! Compiled expressions are kept per machine, whether or not `o` asks for it.
use mlua::{Lua, LuaString, MultiValue, Table, Value};
use sluice_expr::{Captures, Regex, Replacement};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Expressions kept; beyond it all are forgotten (`lua_regex_cache_max_entries`).
const KEPT: usize = 1024;

type Kept = Rc<RefCell<HashMap<(Vec<u8>, Vec<u8>), Rc<Regex>>>>;

fn regex(kept: &Kept, pattern: &LuaString, options: &Option<LuaString>) -> Result<Rc<Regex>, String> {
    let options = options.as_ref().map(|o| o.as_bytes().to_vec()).unwrap_or_default();
    let key = (pattern.as_bytes().to_vec(), options);
    if let Some(found) = kept.borrow().get(&key) {
        return Ok(found.clone());
    }
    let wanted: String = key.1.iter().map(|b| char::from(*b)).collect();
    let made = Rc::new(Regex::new(&pattern.to_string_lossy(), &wanted).map_err(|e| e.0)?);
    let mut kept = kept.borrow_mut();
    if kept.len() >= KEPT {
        kept.clear();
    }
    kept.insert(key, made.clone());
    Ok(made)
}

pub(super) fn install(lua: &Lua, s: &Table) -> mlua::Result<()> {
    let kept = Kept::default();
    let of_find = kept.clone();
    let find = move |lua: &Lua, (subject, pattern, options, from): (LuaString, LuaString, Option<LuaString>, usize)| {
        match regex(&of_find, &pattern, &options) {
            Ok(regex) => match_from(lua, &regex, &subject.as_bytes(), from),
            Err(why) => Ok(MultiValue::from_vec(vec![Value::Nil, Value::String(lua.create_string(why)?)])),
        }
    };
    s.set("re_find", lua.create_function(find)?)?;
    type Replace = (LuaString, LuaString, LuaString, Option<LuaString>, bool);
    let replace = move |lua: &Lua, (subject, pattern, by, options, all): Replace| {
        let done = regex(&kept, &pattern, &options).and_then(|regex| {
            let by = Replacement::compile(&by.to_string_lossy()).map_err(|e| e.0)?;
            Ok(regex.replace(&subject.as_bytes(), &by, if all { usize::MAX } else { 1 }))
        });
        Ok(match done {
            Ok((text, count)) => (Some(lua.create_string(text)?), Some(count), None),
            Err(why) => (None, None, Some(why)),
        })
    };
    s.set("re_replace", lua.create_function(replace)?)?;
    Ok(())
}

/// The first match at or after byte `from`: its bounds (from 1, inclusive), its groups by number and name, and the bounds
/// of each group. Nothing where there is none.
fn match_from(lua: &Lua, regex: &Regex, subject: &[u8], from: usize) -> mlua::Result<MultiValue> {
    let none = Ok(MultiValue::new());
    // The part after `from` is searched alone: its first byte is not the subject's beginning.
    if from > 0 && (regex.as_str().starts_with('^') || regex.as_str().starts_with("\\A")) {
        return none;
    }
    let Some(part) = subject.get(from..) else { return none };
    let mut captures = Captures::default();
    if !regex.captures_into(part, &mut captures) {
        return none;
    }
    let Some((start, end)) = captures.get(0) else { return none };
    let groups = lua.create_table()?;
    let bounds = lua.create_table()?;
    for i in 0..=regex.group_count().max(captures.len().saturating_sub(1)) {
        match (captures.get(i), captures.slice(i, part)) {
            (Some((a, b)), Some(text)) => {
                groups.raw_set(i, lua.create_string(text)?)?;
                bounds.raw_set(i, lua.create_sequence_from([from + a + 1, from + b])?)?;
            }
            _ => groups.raw_set(i, false)?,
        }
    }
    for (i, name) in regex.group_names() {
        let value: Value = groups.raw_get(i)?;
        groups.raw_set(name, value)?;
    }
    let number = |n: usize| Value::Integer(n as i64);
    Ok(MultiValue::from_vec(vec![
        number(from + start + 1),
        number(from + end),
        Value::Table(groups),
        Value::Table(bounds),
    ]))
}
