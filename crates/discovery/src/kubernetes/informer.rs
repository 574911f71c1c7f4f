//! List, then watch, for ever (apisix/discovery/kubernetes/informer_factory.lua). The surprise: a list comes in pages and is put
//! in place only when it is whole; APISIX begins with an empty one.
use super::endpoints::Known;
use super::{Access, Cluster, Conf, Namespaces};
use crate::client::{Client, GONE, encoded};
use crate::pause::Pause;
use rand::Rng as _;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Objects a page.
const LIMIT: u32 = 120;
/// Pages of one list; a server that never ends is not followed for ever.
const MAX_PAGES: usize = 100_000;
/// For one page.
const LIST: Duration = Duration::from_secs(30);
/// How long the server is asked to keep a watch.
const WATCH: Duration = Duration::from_secs(1800);
/// How much longer than that nothing may come.
const GRACE: Duration = Duration::from_secs(120);

pub(super) struct Informer {
    access: Access,
    client: Client,
    namespaces: Namespaces,
    cluster: Arc<Cluster>,
    path: &'static str,
    kind: &'static str,
    /// `&labelSelector=…&fieldSelector=…`.
    selectors: String,
}

/// How a watch ended that did not fail.
enum Ended {
    /// By the server, in order: go on from where it stood.
    Over,
    /// What it stood at is too old: list again.
    Gone,
}

impl Informer {
    pub fn new(conf: Conf, access: Access, client: Client, namespaces: Namespaces, cluster: Arc<Cluster>) -> Informer {
        let (path, kind) = if conf.watch_endpoint_slices {
            ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSliceList")
        } else {
            ("/api/v1/endpoints", "EndpointsList")
        };
        let mut selectors = String::new();
        if let Some(labels) = conf.label_selector.as_deref().filter(|labels| !labels.is_empty()) {
            selectors = format!("&labelSelector={}", encoded(labels));
        }
        let namespace = &conf.namespace_selector;
        let field = match (&namespace.equal, &namespace.not_equal) {
            (Some(equal), _) => Some(format!("metadata.namespace={equal}")),
            (None, Some(other)) => Some(format!("metadata.namespace!={other}")),
            (None, None) => None,
        };
        if let Some(field) = field {
            selectors.push_str(&format!("&fieldSelector={}", encoded(&field)));
        }
        Informer { access, client, namespaces, cluster, path, kind, selectors }
    }

    /// Runs for ever.
    pub async fn run(self) {
        let mut pause = Pause::default();
        loop {
            let error = match self.list().await {
                Ok(version) => {
                    pause.reset();
                    self.cluster.catalog.reached("");
                    match self.follow(version).await {
                        Ok(()) => continue,
                        Err(error) => format!("watch failed, {error}"),
                    }
                }
                Err(error) => format!("list failed, {error}"),
            };
            self.cluster.catalog.unreached("", &format_args!("{}: {error}", self.access.url));
            tokio::time::sleep(pause.next()).await;
        }
    }

    async fn request(&self, query: &str) -> Result<reqwest::RequestBuilder, String> {
        let url = format!("{}{}?{query}{}", self.access.url, self.path, self.selectors);
        Ok(self.client.get(&url).bearer_auth(self.access.token().await?))
    }

    /// Reads all objects and puts them in place; returns where a watch begins.
    async fn list(&self) -> Result<String, String> {
        let mut all = self.cluster.known().anew();
        let mut more = String::new();
        for _ in 0..MAX_PAGES {
            let mut query = format!("limit={LIMIT}");
            if !more.is_empty() {
                query.push_str(&format!("&continue={}", encoded(&more)));
            }
            let mut page = self.client.send(self.request(&query).await?, LIST).await?.json()?;
            if page.get("kind").and_then(Value::as_str) != Some(self.kind) {
                return Err("UnexpectedBody".to_owned());
            }
            for object in page.get("items").and_then(Value::as_array).into_iter().flatten() {
                self.put(&mut all, object);
            }
            let metadata = page.get_mut("metadata").map(Value::take).unwrap_or_default();
            let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            more = text("continue");
            if more.is_empty() {
                *self.cluster.known() = all;
                self.cluster.publish();
                self.cluster.listed();
                return Ok(text("resourceVersion"));
            }
        }
        Err(format!("more than {MAX_PAGES} pages"))
    }

    /// Takes an object in where its namespace is looked at; says whose nodes may be others now.
    fn put(&self, known: &mut Known, object: &Value) -> Option<String> {
        let object = known.read(object).filter(|object| self.namespaces.includes(&object.namespace))?;
        let service = object.service.clone();
        known.put(object);
        Some(service)
    }

    /// Watches again and again until it has to be listed anew.
    async fn follow(&self, mut version: String) -> Result<(), String> {
        loop {
            let begun = tokio::time::Instant::now();
            match self.watch(&mut version).await? {
                Ended::Gone => return Ok(()),
                // a server that ends every watch at once is not asked all the time
                Ended::Over => tokio::time::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed())).await,
            }
        }
    }

    async fn watch(&self, version: &mut String) -> Result<Ended, String> {
        // so that the watches of many gateways do not all end at once
        let keep = WATCH + Duration::from_secs(rand::rng().random_range(9..999));
        let mut query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={}", keep.as_secs());
        if !version.is_empty() {
            query.push_str(&format!("&resourceVersion={}", encoded(version)));
        }
        let mut lines = match self.client.lines(self.request(&query).await?, keep + GRACE).await {
            Err(error) if error == GONE => return Ok(Ended::Gone),
            lines => lines?,
        };
        while let Some(line) = lines.next().await? {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let event: Value = serde_json::from_slice(&line).map_err(|error| format!("UnexpectedBody: {error}"))?;
            let (Some(kind), Some(object)) = (event.get("type").and_then(Value::as_str), event.get("object")) else {
                return Err("UnexpectedBody: neither type nor object".to_owned());
            };
            if kind == "ERROR" {
                if object.get("code").and_then(Value::as_u64) == Some(410) {
                    return Ok(Ended::Gone);
                }
                let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
                return Err(format!("ERROR event: {message}"));
            }
            if let Some(now) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
                now.clone_into(version);
            }
            self.take(kind, object);
        }
        Ok(Ended::Over)
    }

    fn take(&self, kind: &str, object: &Value) {
        let service = {
            let mut known = self.cluster.known();
            match kind {
                "ADDED" | "MODIFIED" => self.put(&mut known, object),
                "DELETED" => known.read(object).filter(|o| self.namespaces.includes(&o.namespace)).map(|object| {
                    known.remove(&object);
                    object.service
                }),
                // BOOKMARK says where the watch stands, and nothing else
                _ => None,
            }
        };
        if let Some(service) = service {
            self.cluster.publish_one(&service);
        }
    }
}
