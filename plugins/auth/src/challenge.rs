//! What an auth plugin answers to a request that it could not authenticate: 401 with a challenge, or the anonymous
//! consumer of its configuration (apisix/plugins/*-auth.lua, `rewrite`).
use sluice_plugin::{Context, Flow, Reply};

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

    /// Lets the request pass as the anonymous consumer, or refuses it with this message.
    #[cold]
    pub fn fallback<'a>(&self, cx: &mut Context, message: &str) -> Flow<'a> {
        let Some(name) = &self.anonymous_consumer else { return self.refuse(message) };
        if cx.attach_anonymous(name, self.plugin) {
            return Flow::Next;
        }
        tracing::error!(plugin = self.plugin, "failed to get anonymous consumer {name}");
        self.refuse("Invalid user authorization")
    }

    fn refuse<'a>(&self, message: &str) -> Flow<'a> {
        Flow::reply(Reply::message(401, message).header("WWW-Authenticate", self.value.as_bytes()))
    }
}
