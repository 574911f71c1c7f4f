//! The transform family: plugins that change requests and responses on their way.

mod proxy_rewrite;
mod redirect;
mod request_id;
mod response_rewrite;
mod uri_escape;

use sluice_plugin::{Definition, define};

/// The plugins of this family, for the binary's list.
pub const PLUGINS: &[Definition] = &[
    define::<proxy_rewrite::ProxyRewrite>(),
    define::<redirect::Redirect>(),
    define::<request_id::RequestId>(),
    define::<response_rewrite::ResponseRewrite>(),
];
