//! The signals that the gateway obeys. Surprise: from [`Signals::listen`] on none of them has its default effect any more.
use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals {
    /// Drain, then end.
    pub term: Signal,
    pub quit: Signal,
    pub int: Signal,
    /// Read the configuration again.
    pub hup: Signal,
    /// Open log files anew.
    pub usr1: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }
}
