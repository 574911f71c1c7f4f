//! Plugins that find out who sends a request, and what that consumer may do.
mod argument;
mod authority;
pub mod basic_auth;
mod challenge;
pub mod consumer_restriction;
mod credential;
mod digest;
pub mod forward_auth;
pub mod hmac_auth;
pub mod jwt_auth;
pub mod key_auth;
pub mod multi_auth;
pub mod oauth;
pub mod opa;
pub mod openid_connect;
mod provider;
mod session;

use basic_auth::BasicAuth;
use consumer_restriction::ConsumerRestriction;
use forward_auth::ForwardAuth;
use hmac_auth::HmacAuth;
use jwt_auth::JwtAuth;
use key_auth::KeyAuth;
use multi_auth::MultiAuth;
use oauth::OAuth;
use opa::Opa;
use openid_connect::OpenidConnect;
use sluice_plugin::{Definition, define};

/// The family's plugins, by name.
pub static PLUGINS: &[Definition] = &[
    define::<BasicAuth>().auth::<BasicAuth>(),
    define::<ConsumerRestriction>(),
    define::<ForwardAuth>(),
    define::<HmacAuth>().auth::<HmacAuth>(),
    define::<JwtAuth>().auth::<JwtAuth>(),
    define::<KeyAuth>().auth::<KeyAuth>(),
    define::<MultiAuth>().nested(multi_auth::check_nested),
    define::<OAuth>(),
    define::<Opa>(),
    define::<OpenidConnect>(),
];

#[cfg(test)]
mod testing;
