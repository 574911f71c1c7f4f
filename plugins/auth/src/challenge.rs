//! What an auth plugin answers to a request that it could not authenticate: 401 with a challenge, or the anonymous
//! consumer of its configuration (apisix/plugins/*-auth.lua, `rewrite`).
use sluice_plugin::{Context, Flow, Reply};

/// Why a request was not authenticated.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub message: &'static str,
    /// What the operator is told, where it is more.
    pub reason: Option<String>,
}

impl Refusal {
    /// The operator's log has nothing to add.
    pub fn plain(message: &'static str) -> Refusal {
        Refusal { message, reason: None }
    }
    /// The client must not learn the reason.
    pub fn because(message: &'static str, reason: impl ToString) -> Refusal {
        Refusal { message, reason: Some(reason.to_string()) }
    }
}

/// Kept in the context while `multi-auth` tries its plugins: the last reason of a failure. It is logged only where no
/// plugin succeeds, so that clients of the second way do not fill the log with failures of the first.
#[derive(Debug, Default)]
pub struct LastReason(pub String);

/// Notes a reason for `multi-auth`, or writes it to the log.
fn report(cx: &mut Context, reason: &str, quiet: bool) {
    match cx.get_mut::<LastReason>() {
        Some(last) => last.0 = reason.to_string(),
        None if quiet => {}
        None => tracing::warn!(route = cx.route_id(), "{reason}"),
    }
}

/// The refusal of one configured plugin.
#[derive(Debug)]
pub struct Challenge {
    plugin: &'static str,
    /// The value of `WWW-Authenticate`.
    value: String,
    anonymous_consumer: Option<String>,
}

impl Challenge {
    /// `scheme` is the challenge's first word. The schema keeps `"` and `\` out of `realm`.
    pub fn new(plugin: &'static str, scheme: &str, realm: &str, anonymous_consumer: Option<String>) -> Challenge {
        Challenge { plugin, value: format!("{scheme} realm=\"{realm}\""), anonymous_consumer }
    }

    /// Whether requests without valid credentials may pass.
    pub fn allows_anonymous(&self) -> bool {
        self.anonymous_consumer.is_some()
    }

    /// Lets the request pass as the anonymous consumer, or refuses it.
    #[cold]
    pub fn fallback<'a>(&self, cx: &mut Context, refusal: &Refusal) -> Flow<'a> {
        report(cx, refusal.reason.as_deref().unwrap_or(refusal.message), refusal.reason.is_none());
        let Some(name) = &self.anonymous_consumer else { return self.refuse(refusal.message) };
        if cx.attach_anonymous(name, self.plugin) {
            return Flow::Next;
        }
        report(cx, &format!("failed to get anonymous consumer {name}"), false);
        self.refuse("Invalid user authorization")
    }

    fn refuse<'a>(&self, message: &str) -> Flow<'a> {
        Flow::reply(Reply::message(401, message).header("WWW-Authenticate", self.value.as_bytes()))
    }
}
