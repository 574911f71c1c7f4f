//! Plugins that find out who sends a request, and what that consumer may do.
mod argument;
pub mod basic_auth;
mod challenge;
pub mod key_auth;

use basic_auth::BasicAuth;
use key_auth::KeyAuth;
use sluice_plugin::{Definition, define};

/// The family's plugins, by name.
pub static PLUGINS: &[Definition] = &[define::<BasicAuth>().auth::<BasicAuth>(), define::<KeyAuth>().auth::<KeyAuth>()];

#[cfg(test)]
mod testing;
