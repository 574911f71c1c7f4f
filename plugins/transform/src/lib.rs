//! The transform family: plugins that change requests and responses on their way.

mod brotli;
mod client_control;
mod compress;
mod compression;
mod echo;
mod error_page;
mod example_plugin;
mod fault_injection;
mod gzip;
mod mocking;
mod proxy_rewrite;
mod query_edits;
mod real_ip;
mod redirect;
mod reply_parts;
mod request_id;
mod request_rewrite;
mod request_validation;
mod response_rewrite;
mod uri_escape;
mod uri_rewrite;

use sluice_plugin::{Definition, define};

/// The plugins of this family, alphabetical.
pub static PLUGINS: &[Definition] = &[
    define::<brotli::Brotli>(),
    define::<client_control::ClientControl>(),
    define::<compress::Compress>(),
    define::<echo::Echo>(),
    define::<error_page::ErrorPage>().metadata_schema(error_page::metadata_schema),
    define::<example_plugin::ExamplePlugin>().metadata::<example_plugin::Metadata>().control(example_plugin::CONTROL),
    define::<fault_injection::FaultInjection>(),
    define::<gzip::Gzip>(),
    define::<mocking::Mocking>(),
    define::<proxy_rewrite::ProxyRewrite>(),
    define::<real_ip::RealIp>(),
    define::<redirect::Redirect>(),
    define::<request_id::RequestId>(),
    define::<request_rewrite::RequestRewrite>(),
    define::<request_validation::RequestValidation>(),
    define::<response_rewrite::ResponseRewrite>(),
    define::<uri_rewrite::UriRewrite>(),
];
