//! Lua of the configuration: LuaJIT behind a small trait, with the part of `ngx`, `apisix.core`, `cjson` and `resty.*`
//! that functions in configuration use.
//!
//! Each thread has one virtual machine, made by the first script that runs on it; a gateway without scripts has none. A
//! script is compiled once per thread and keeps its upvalues until its configuration changes, as in APISIX. What a script
//! sees of the request comes through [`Host`], so that this crate knows nothing of the gateway.
//!
//! Bounds: [`Limits`]. Scripts are the administrator's own code, but an error in one must not take a worker down: an
//! endless loop is ended by counting instructions, memory is limited per machine, and there are no files, processes,
//! sockets, C libraries or byte code. The surprise: LuaJIT's compiler is off while instructions are counted, because
//! compiled loops are not counted; `instruction_limit: 0` turns it on and the bound off. As OpenResty's, LuaJIT is built with
//! its Lua 5.2 extensions.
mod api;
mod engine;
mod host;
mod machine;
mod script;
mod template;
mod xml;

pub use engine::{Engine, Limits};
pub use host::{Body, Host, Phase, State};
pub use machine::{Input, Outcome, Paused, RenderError, evaluate, execute, render};
pub use script::{Form, LuaError, Script, check};

#[cfg(test)]
mod tests;
