//! The plugin SDK: all that a plugin sees, and nothing of what runs it.
//!
//! A plugin is one file: a `Config`, an [`Info`], `build`, and hooks by phase (see [`Plugin`] and [`Define`]). Hooks are
//! synchronous unless they truly wait ([`Flow::Wait`]); phases without hooks cost nothing ([`Chain`]).

pub mod answer_tap;
mod body_variables;
mod certificate_variables;
pub mod chain;
pub mod consumer;
pub mod context;
pub mod control;
pub mod definition;
pub mod endpoint;
pub mod env;
mod graphql;
pub mod http_client;
pub mod info;
pub mod lookup;
pub mod plugin;
pub mod record;
pub mod registry;
pub mod reply;
pub mod scripts;
mod source;
pub mod stream;
pub mod tap;
pub mod testing;
pub mod timings;
pub mod trace;

pub use answer_tap::{Answer, AnswerTap, Background, BodySource};
pub use chain::{Chain, ChainEntry, ChainSource};
pub use consumer::{Consumer, ConsumerMatch, Consumers, ExternalUser};
pub use context::{
    Alpn, Attempt, BodyChunk, Connection, Context, ParsedBodies, RateLimiting, RouteInfo, RouteObjects, TlsInfo,
    UpstreamRef, UpstreamRequest,
};
pub use control::{ControlEndpoint, ControlRequest};
pub use definition::{BuildError, Define, Definition, define, schema_of};
pub use endpoint::{Endpoint, EndpointHandler};
pub use env::{Clock, Env, Shared, UpstreamCompiler};
pub use http_client::{
    HttpClient, HttpError, HttpOptions, HttpProxy, HttpRequest, HttpResponse, HttpStage, HttpStream,
};
pub use info::{Info, Phase, Phases, Scope};
pub use plugin::{Flow, Outcome, Plugin};
pub use registry::Registry;
pub use reply::Reply;
pub use scripts::{NamedPlugin, Scripts};
pub use source::Source;
pub use stream::{DefineStream, StreamContext, StreamDefinition, StreamFlow, StreamPlugin, define_stream};
pub use tap::{BodyDecoder, RequestTap, Undecodable};
pub use trace::Trace;
