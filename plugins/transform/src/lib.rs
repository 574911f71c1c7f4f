//! The transform family: plugins that change requests and responses on their way.

mod brotli;
mod client_control;
mod echo;
mod error_page;
mod example_plugin;
mod fault_injection;
mod gzip;
mod mocking;
mod proxy_rewrite;
mod real_ip;
mod redirect;
mod reply_parts;
mod request_id;
mod response_rewrite;
mod uri_escape;

use sluice_plugin::{Definition, define};

/// The plugins of this family, alphabetical.
pub static PLUGINS: &[Definition] = &[
    define::<brotli::Brotli>(),
    define::<client_control::ClientControl>(),
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
    define::<response_rewrite::ResponseRewrite>(),
];
