//! Consumers as auth plugins find them: one index per auth plugin, from the plugin's key (an API key, a user name) to
//! the consumer and, where the key stands on a credential, to that (apisix/consumer.lua).
use serde_json::{Map, Value};
use sluice_http::Request;
use sluice_parts::Parts;
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;

/// A stored consumer.
#[derive(Debug, Default)]
pub struct Consumer {
    pub username: Arc<str>,
    pub group_id: Option<Arc<str>>,
    pub labels: Map<String, Value>,
    /// `custom_id` label and other fields of the stored object, for plugins that read them.
    pub raw: Value,
}

/// One way to be recognised: an auth plugin's configuration on a consumer or on one of its credentials.
pub struct Identity {
    pub consumer: Arc<Consumer>,
    pub credential_id: Option<Arc<str>>,
    /// The plugin's consumer configuration, parsed by the plugin ([`Identity::config`]).
    parsed: Arc<dyn Any + Send + Sync>,
    /// The same as JSON.
    pub raw: Value,
}

impl Identity {
    pub fn new(
        consumer: Arc<Consumer>,
        credential_id: Option<Arc<str>>,
        parsed: Arc<dyn Any + Send + Sync>,
        raw: Value,
    ) -> Identity {
        Identity { consumer, credential_id, parsed, raw }
    }
    /// Makes this identity the request's consumer without a [`crate::Context`] as a whole, so that an identity found in
    /// [`crate::Context::consumers`] needs no clone: pass the context's `request` and `consumer`.
    pub fn attach_to(&self, request: &mut Request, consumer: &mut Option<ConsumerMatch>, plugin: &'static str) {
        attach(request, consumer, &self.consumer, self.credential_id.clone(), plugin);
    }
    /// The plugin's consumer configuration as its own type.
    pub fn config<T: 'static>(&self) -> Option<&T> {
        self.parsed.downcast_ref()
    }
}

/// The consumer that a request was recognised as.
#[derive(Clone)]
pub struct ConsumerMatch {
    pub consumer: Arc<Consumer>,
    pub credential_id: Option<Arc<str>>,
    /// Name of the auth plugin that found it.
    pub plugin: &'static str,
}

/// The user whom an auth plugin that knows no consumers recognised, as the identity provider describes him (APISIX:
/// `ctx.external_user`). Kept with [`crate::Context::insert`].
pub struct ExternalUser(pub Value);

/// The identities of one auth plugin by key. Several may have the same key; the last in the order of [`claim`] has it.
type Keys = Parts<SmallVec<[Arc<Identity>; 1]>>;

/// Consumers before credentials, each by name: the order in which they take their keys.
fn claim(identity: &Identity) -> (bool, &str, Option<&str>) {
    let credential = identity.credential_id.as_deref();
    (credential.is_some(), &identity.consumer.username, credential)
}

/// All consumers of a snapshot. Cloning shares everything; a change copies little.
#[derive(Clone, Default)]
pub struct Consumers {
    by_plugin: Vec<(&'static str, Keys)>,
    by_name: Parts<Arc<Consumer>>,
}

impl Consumers {
    /// Adds a consumer by its name, or changes it.
    pub fn add(&mut self, consumer: Arc<Consumer>) {
        self.by_name.insert(consumer.username.clone(), consumer);
    }
    /// Takes a consumer out; its keys are taken out by themselves.
    pub fn remove(&mut self, username: &str) {
        self.by_name.remove(username);
    }
    /// Adds a key of an auth plugin. A later one of the same key wins, as in APISIX: credentials over consumers, and among
    /// equals by name.
    pub fn add_key(&mut self, plugin: &'static str, key: &str, identity: Arc<Identity>) {
        let index = match self.by_plugin.iter().position(|(name, _)| *name == plugin) {
            Some(i) => i,
            None => {
                self.by_plugin.push((plugin, Keys::default()));
                self.by_plugin.len() - 1
            }
        };
        if let Some((_, keys)) = self.by_plugin.get_mut(index) {
            let mut all = keys.get(key).cloned().unwrap_or_default();
            all.retain(|known| claim(known) != claim(&identity));
            let at = all.iter().position(|known| claim(known) > claim(&identity)).unwrap_or(all.len());
            all.insert(at, identity);
            keys.insert(key.into(), all);
        }
    }
    /// Takes out the keys of a consumer and its credentials.
    pub fn remove_key(&mut self, plugin: &str, key: &str, username: &str) {
        let Some(index) = self.by_plugin.iter().position(|(name, _)| *name == plugin) else { return };
        let Some((_, keys)) = self.by_plugin.get_mut(index) else { return };
        let Some(mut all) = keys.get(key).cloned() else { return };
        all.retain(|known| *known.consumer.username != *username);
        if !all.is_empty() {
            keys.insert(key.into(), all);
            return;
        }
        keys.remove(key);
        if keys.is_empty() {
            self.by_plugin.remove(index);
        }
    }
    /// Whether any consumer has a configuration of this auth plugin.
    pub fn any(&self, plugin: &str) -> bool {
        self.by_plugin.iter().any(|(name, _)| *name == plugin)
    }
    /// The identity that an auth plugin's key belongs to.
    #[inline]
    pub fn find(&self, plugin: &str, key: &str) -> Option<&Arc<Identity>> {
        self.by_plugin.iter().find(|(name, _)| *name == plugin)?.1.get(key)?.last()
    }
    /// A consumer by name (anonymous consumers).
    pub fn by_name(&self, username: &str) -> Option<&Arc<Consumer>> {
        self.by_name.get(username)
    }
}

impl crate::Context {
    /// Makes this identity the request's consumer (apisix/consumer.lua `attach_consumer`): variables, and the fields
    /// `X-Consumer-Username`, `X-Credential-Identifier`, `X-Consumer-Custom-ID` for the upstream.
    pub fn attach_consumer(&mut self, identity: &Identity, plugin: &'static str) {
        self.attach(&identity.consumer, identity.credential_id.clone(), plugin);
    }

    /// Makes the anonymous consumer of a plugin's configuration the request's; false where it does not exist.
    pub fn attach_anonymous(&mut self, username: &str, plugin: &'static str) -> bool {
        let Some(consumer) = self.consumers.by_name(username).cloned() else { return false };
        self.attach(&consumer, None, plugin);
        true
    }

    fn attach(&mut self, consumer: &Arc<Consumer>, credential_id: Option<Arc<str>>, plugin: &'static str) {
        attach(&mut self.request, &mut self.consumer, consumer, credential_id, plugin);
    }
}

fn attach(
    request: &mut Request,
    slot: &mut Option<ConsumerMatch>,
    consumer: &Arc<Consumer>,
    credential_id: Option<Arc<str>>,
    plugin: &'static str,
) {
    let headers = &mut request.headers;
    headers.set("X-Consumer-Username", consumer.username.as_bytes());
    match &credential_id {
        Some(id) => headers.set("X-Credential-Identifier", id.as_bytes()),
        None => {
            headers.remove("X-Credential-Identifier");
        }
    }
    match consumer.labels.get("custom_id").and_then(Value::as_str) {
        Some(id) => headers.set("X-Consumer-Custom-ID", id.as_bytes()),
        None => {
            headers.remove("X-Consumer-Custom-ID");
        }
    }
    *slot = Some(ConsumerMatch { consumer: consumer.clone(), credential_id, plugin });
}
