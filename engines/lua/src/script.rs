//! Source from the configuration, checked, with what it is called with.
use crate::engine::Engine;
use crate::host::Phase;
use crate::machine;
use crate::template;
use serde_json::Value as Json;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What source is, and so how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A chunk that returns `function(conf, ctx)`: of the serverless plugins.
    Functions,
    /// The same, run before a plugin: `_meta.pre_function`. What it returns has no effect.
    PreFunction,
    /// `function(vars) … end`, an expression: `filter_func` of a route.
    Predicate,
    /// A chunk that returns an object with a function per phase: `script` of a route.
    Object,
    /// A template of `body-transformer`, for [`crate::render`].
    Template,
}

/// Why source cannot be used, or what went wrong while it ran; Lua's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LuaError(pub String);

/// Source that every thread compiles for itself when it first runs it.
#[derive(Debug)]
pub struct Script {
    /// Of form, owner, sources and configuration: an unchanged script keeps its upvalues when others change.
    pub(crate) id: u64,
    pub(crate) form: Form,
    /// Chunk name and source.
    pub(crate) sources: Vec<(String, Vec<u8>)>,
    pub(crate) config: Json,
    /// Calls that may wait (`ngx.sleep`) run as a coroutine, which costs a little.
    pub(crate) waits: bool,
    /// For messages: the plugin, or `script` and `filter_func`.
    pub(crate) name: String,
    pub(crate) engine: Arc<Engine>,
}

impl Script {
    /// `owner`: the stored object, such as `routes/1`; `name`: what runs it, for messages.
    pub fn new(
        engine: Arc<Engine>,
        form: Form,
        owner: &str,
        name: &str,
        sources: &[String],
        config: &Json,
    ) -> Arc<Script> {
        let chunk_name = |source: &String| match form {
            Form::PreFunction => machine::PRE_FUNCTION.to_owned(),
            Form::Object => owner.replacen("routes/", "route#", 1),
            Form::Template => "=template".to_owned(),
            _ => source.clone(),
        };
        let text = |source: &String| match form {
            Form::Predicate => format!("return {source}").into_bytes(),
            Form::Template => template::source(source.as_bytes()),
            _ => source.clone().into_bytes(),
        };
        let sources: Vec<_> = sources.iter().map(|s| (chunk_name(s), text(s))).collect();
        let waits = sources.iter().any(|(_, s)| contains(s, "sleep"));
        let mut hasher = DefaultHasher::new();
        (form, owner, name, &sources, config.to_string()).hash(&mut hasher);
        let id = hasher.finish();
        Arc::new(Script { id, form, sources, config: config.clone(), waits, name: name.to_owned(), engine })
    }

    /// Whether a piece of the request's body is likely read.
    pub fn reads_body(&self) -> bool {
        const WORDS: [&str; 6] = ["body", "post_arg", "graphql", "post_args", "body_data", "body_file"];
        self.sources.iter().any(|(_, source)| WORDS.iter().any(|w| contains(source, w)))
    }

    /// Whether an object has, most likely, a function for this phase.
    pub fn names(&self, phase: Phase) -> bool {
        self.sources.iter().any(|(_, source)| contains(source, phase.as_str()))
    }
}

fn contains(source: &[u8], word: &str) -> bool {
    source.windows(word.len()).any(|w| w == word.as_bytes())
}

/// Compiles source, and runs it as far as the form demands; the error is Lua's.
///
/// Functions: apisix/plugins/serverless/init.lua `check_schema`; the others: apisix/admin/routes.lua.
pub fn check(engine: &Arc<Engine>, form: Form, source: &str) -> Result<(), LuaError> {
    machine::check(engine, form, source)
}
