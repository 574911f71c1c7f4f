//! The status API (`apisix.status`; apisix/init.lua `status`, `status_ready`): probes for who runs the process. The surprise:
//! as in nginx's locations, what begins with `/status` is `/status`.
use crate::control::not_found;
use crate::message::{Reply, Request};
use crate::server::{Answer, Handler};
use serde_json::json;

/// Whether a configuration is in force; the error says what is missing.
pub type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The status API as a handler.
pub struct Status {
    ready: Ready,
}

impl Status {
    pub fn new(ready: Ready) -> Status {
        Status { ready }
    }

    fn dispatch(&self, request: &Request) -> Reply {
        if request.path.starts_with("/status/ready") {
            return match (self.ready)() {
                Ok(()) => ok(),
                Err(error) => Reply::text(503, json!({"status": "error", "error": error}).to_string()),
            };
        }
        if request.path.starts_with("/status") { ok() } else { not_found() }
    }
}

fn ok() -> Reply {
    Reply::text(200, json!({"status": "ok"}).to_string())
}

impl Handler for Status {
    fn answer(&self, request: Request) -> Answer<'_> {
        Box::pin(async move { self.dispatch(&request) })
    }

    /// Bodies are not read; this much is taken from the connection and dropped.
    fn max_body(&self, _path: &str) -> usize {
        64 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::testing::request;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn says_whether_it_is_ready() {
        let ready = Arc::new(AtomicBool::new(false));
        let seen = ready.clone();
        let status = Status::new(Box::new(move || {
            if seen.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("worker id: 0 has not received configuration".into())
            }
        }));
        let get = |path: &str| {
            let reply = status.dispatch(&request("GET", path, ""));
            (reply.status, String::from_utf8(reply.body).unwrap())
        };
        assert_eq!(get("/status"), (200, r#"{"status":"ok"}"#.to_owned()));
        let not = r#"{"status":"error","error":"worker id: 0 has not received configuration"}"#;
        assert_eq!(get("/status/ready"), (503, not.to_owned()));
        ready.store(true, Ordering::Relaxed);
        assert_eq!(get("/status/ready"), (200, r#"{"status":"ok"}"#.to_owned()));
        assert_eq!(get("/other").0, 404);
    }
}
