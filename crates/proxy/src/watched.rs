//! What is told of a request that has ended: to watchers (`sluice tail`, `sluice top`), and to `debug-logger` where it chose
//! the request to be explained. The surprise: all of it is cold; a request that nobody looks at pays two branches that the
//! debug mode pays already.
use crate::debug::Observed;
use crate::exchange::Exchange;
use serde_json::{Value, json};
use sluice_config::RouteUpstream;
use sluice_config::explain::{self, Question};
use sluice_net::timer;
use sluice_plugin::record::masked_target;
use sluice_plugin::{Attempt, Context, Source, UpstreamRef};
use sluice_telemetry::watch::{Passing, Tried};
use std::sync::Arc;
use std::time::Duration;

fn micros(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e7).round() / 10.0
}

impl Exchange<'_> {
    /// The key of the upstream that was asked, or would have been.
    fn upstream_key(&self, cx: &Context) -> Option<Arc<str>> {
        match &cx.upstream.upstream {
            Some(UpstreamRef::Id(id)) => Some(format!("upstreams/{id}").into()),
            Some(UpstreamRef::Inline(own)) => Some(own.key.clone()),
            None => match &self.route.as_ref()?.upstream {
                RouteUpstream::Found(upstream) => Some(upstream.key.clone()),
                RouteUpstream::Missing | RouteUpstream::None => None,
            },
        }
    }

    /// Shows the request to those who watch.
    #[cold]
    pub(crate) fn show(&self, observed: &Observed, cx: &Context) {
        let Some(watchers) = &observed.watchers else { return };
        let tried = |own: &Attempt| Tried { node: own.address, status: own.status, duration: own.response_time };
        let attempts: Vec<Tried> = cx.attempts.iter().map(tried).collect();
        let upstream = self.upstream_key(cx);
        let passing = Passing {
            time: timer::unix_ms_coarse(),
            client: cx.client_ip_text(),
            method: cx.request.method_text(),
            host: cx.request.host(),
            target: cx.request.target(),
            status: cx.response.status,
            duration: cx.started.elapsed(),
            bytes: cx.bytes_sent,
            source: Source::of(cx).as_str(),
            route: cx.route.as_ref().map(|route| &*route.route_id),
            route_name: cx.route.as_ref().and_then(|route| route.route_name.as_deref()),
            consumer: cx.consumer.as_ref().map(|found| &*found.consumer.username),
            upstream: upstream.as_deref(),
            attempts: &attempts,
        };
        watchers.iter().for_each(|watcher| watcher.passed(self.worker.id, &passing));
    }

    /// Completes the record of an explained request and hands it over.
    #[cold]
    pub(crate) fn explain(&self, cx: &mut Context) {
        let Some(record) = cx.trace.as_mut().and_then(|trace| trace.record.take()) else { return };
        let asked = &record.asked;
        let question = Question {
            method: asked.method.clone(),
            url: asked.url.clone(),
            headers: asked.headers.clone(),
            body: cx.request_body.clone(),
            client: asked.client,
        };
        let mut out = match explain::explain(&self.snapshot, &question) {
            Ok(explanation) => explanation,
            Err(error) => json!({"error": error}),
        };
        let took = cx.started.elapsed();
        if let Some(query) = out["request"]["args"].as_str() {
            let masked = masked_target(&format!("?{query}"));
            out["request"]["args"] = json!(masked.get(1..));
        }
        out["id"] = json!(record.id);
        out["time"] = json!(timer::unix_ms_coarse());
        out["revision"] = json!(self.snapshot.revision);
        if let Some(found) = &cx.consumer {
            out["consumer"] = json!({
                "username": found.consumer.username, "group": found.consumer.group_id, "credential": found.credential_id,
            });
            out["plugins"] = self.chain.entries().iter().map(explain::plugin).collect();
        }
        out["hooks"] = record.hooks();
        out["node_choice"] = json!({
            "upstream": self.upstream_key(cx),
            "name": cx.upstream.node_name,
            "attempts": cx.attempts.iter().map(attempt).collect::<Vec<_>>(),
        });
        let (of_cache, events): (Vec<&Value>, Vec<&Value>) =
            record.notes().iter().partition(|note| note["cache"].is_object() || note["cache_store"].is_object());
        out["events"] = json!(events);
        out["cache"] = cache(cx, &of_cache);
        out["response"] = json!({
            "status": cx.response.status,
            "source": Source::of(cx).as_str(),
            "bytes": cx.bytes_sent,
            "took_us": micros(took),
        });
        record.deliver(out);
    }
}

fn attempt(own: &Attempt) -> Value {
    json!({
        "node": own.address,
        "status": own.status,
        "connect_us": own.connect_time.map(micros),
        "header_us": own.header_time.map(micros),
        "response_us": micros(own.response_time),
    })
}

/// What a cache decided, where one was asked: what its plugin noted, or the word that it gave the response.
fn cache(cx: &Context, notes: &[&Value]) -> Value {
    let last = |name: &str| notes.iter().rev().map(|note| &note[name]).find(|noted| noted.is_object());
    if let Some(decision) = last("cache") {
        let mut decision = decision.clone();
        decision["store"] = last("cache_store").cloned().unwrap_or_default();
        return decision;
    }
    let value = cx.custom_variable("upstream_cache_status").or_else(|| cx.response.headers.get("apisix-cache-status"));
    value.map_or(Value::Null, |value| json!({"status": String::from_utf8_lossy(value)}))
}
