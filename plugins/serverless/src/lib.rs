//! The serverless family: plugins that run Lua of the configuration, be it in templates, and the other places where configuration has Lua
//! ([`LuaScripts`]).

mod body_transformer;
mod functions;
mod host;
mod scripts;
mod serverless_post_function;
mod serverless_pre_function;
mod variables;

pub use scripts::LuaScripts;

use sluice_plugin::{Definition, define};

/// The plugins of this family, alphabetical.
pub static PLUGINS: &[Definition] = &[
    define::<body_transformer::BodyTransformer>(),
    define::<serverless_post_function::ServerlessPostFunction>(),
    define::<serverless_pre_function::ServerlessPreFunction>(),
];
