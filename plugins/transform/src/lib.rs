//! Plugins that change requests and responses. One plugin, one file; [`PLUGINS`] is the family's list.

use sluice_plugin::{Definition, define};

mod client_control;
mod echo;
mod fault_injection;
mod gzip;
mod mocking;
mod real_ip;
mod reply_parts;

pub use client_control::ClientControl;
pub use echo::Echo;
pub use fault_injection::FaultInjection;
pub use gzip::Gzip;
pub use mocking::Mocking;
pub use real_ip::RealIp;

/// The plugins of this family, by name.
pub static PLUGINS: &[Definition] = &[
    define::<ClientControl>(),
    define::<Echo>(),
    define::<FaultInjection>(),
    define::<Gzip>(),
    define::<Mocking>(),
    define::<RealIp>(),
];
