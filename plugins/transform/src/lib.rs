//! The transform family: plugins that change requests and responses on their way.

mod client_control;
mod echo;
mod fault_injection;
mod gzip;
mod mocking;
mod real_ip;
mod reply_parts;

use sluice_plugin::{Definition, define};

/// The plugins of this family, alphabetical.
pub const PLUGINS: &[Definition] = &[
    define::<client_control::ClientControl>(),
    define::<echo::Echo>(),
    define::<fault_injection::FaultInjection>(),
    define::<gzip::Gzip>(),
    define::<mocking::Mocking>(),
    define::<real_ip::RealIp>(),
];
