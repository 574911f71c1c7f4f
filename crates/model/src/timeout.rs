//! Timeouts of a route or upstream. Surprise: fractions of a second are allowed; the total is ours.

use serde::Deserialize;
use std::time::Duration;

/// Seconds to connect, between two writes and between two reads. Bounded by [`Timeout::MAX_SECONDS`] in the durations.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Timeout {
    pub connect: f64,
    pub send: f64,
    pub read: f64,
    /// From the request's head to the response's, all attempts and waits included; ours.
    #[serde(default)]
    pub request: Option<f64>,
}

impl Default for Timeout {
    /// 60 s each, as nginx and APISIX have it.
    fn default() -> Timeout {
        Timeout { connect: 60.0, send: 60.0, read: 60.0, request: None }
    }
}

impl Timeout {
    /// Longest duration handed out: 30 days.
    pub const MAX_SECONDS: f64 = 30.0 * 86_400.0;

    pub fn connect(&self) -> Duration {
        duration(self.connect)
    }

    pub fn send(&self) -> Duration {
        duration(self.send)
    }

    pub fn read(&self) -> Duration {
        duration(self.read)
    }

    pub fn request(&self) -> Option<Duration> {
        self.request.map(duration)
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, Timeout::MAX_SECONDS)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_bounded() {
        let timeout = Timeout { connect: 0.5, send: 1e300, read: f64::NAN, request: Some(2.0) };
        assert_eq!(timeout.connect(), Duration::from_millis(500));
        assert_eq!(timeout.send(), Duration::from_secs(30 * 86_400));
        assert_eq!(timeout.read(), Duration::ZERO);
        assert_eq!(timeout.request(), Some(Duration::from_secs(2)));
    }
}
