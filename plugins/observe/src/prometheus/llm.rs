//! Metrics of requests to language models and of their cache. The surprise: the plugins that speak to models tell what they
//! did in variables (`request_type`, `llm_prompt_tokens`, `ai_cache_status` …), so that families need not know each other.
use super::families::Families;
use super::labels::{Labels, Naming};
use super::{Latency, Prometheus};
use sluice_expr::value::parse_number;
use sluice_plugin::Context;
use sluice_telemetry::GaugeHandle;

/// The gauge that [`begin`] moved up.
struct Active(GaugeHandle);

fn is_llm(cx: &Context) -> bool {
    matches!(cx.custom_variable("request_type"), Some(b"ai_chat" | b"ai_stream"))
}

fn number(cx: &Context, name: &str) -> Option<f64> {
    cx.custom_variable(name).and_then(parse_number)
}

/// A request to a model starts.
pub fn begin(plugin: &Prometheus, cx: &mut Context) {
    if !is_llm(cx) || cx.get::<Active>().is_some() {
        return;
    }
    let labels = Labels::new(cx, Naming::Both);
    let gauge = labels.with(&plugin.families.llm_active_connections, &plugin.disabled, |f, values| f.with(values));
    gauge.inc();
    cx.insert(Active(gauge));
}

/// A request whose `request_type` was set, or with extra labels, is over.
pub fn end(plugin: &Prometheus, cx: &mut Context, latency: &Latency) {
    if let Some(Active(gauge)) = cx.take::<Active>() {
        gauge.dec();
    }
    if is_llm(cx) {
        tokens_and_latency(plugin, cx, latency);
    }
    cache(plugin, cx);
}

fn tokens_and_latency(plugin: &Prometheus, cx: &Context, latency: &Latency) {
    let (families, disabled): (&Families, _) = (&plugin.families, &plugin.disabled);
    let mut labels = Labels::new(cx, plugin.naming);
    // Error responses have a time to first token as well; `llm_latency` is of served responses only.
    let first_token = number(cx, "llm_time_to_first_token").filter(|ms| *ms != 0.0);
    if let Some(first_token) = first_token.filter(|_| cx.response.status < 400) {
        let total = number(cx, "apisix_upstream_response_time").or(latency.upstream).unwrap_or(first_token);
        labels.kind = "total";
        labels.with(&families.llm_latency, disabled, |f, values| f.observe(values, total));
        if cx.custom_variable("request_type") == Some(b"ai_stream") {
            labels.kind = "ttft";
            labels.with(&families.llm_latency, disabled, |f, values| f.observe(values, first_token));
        }
    }
    let prompt = number(cx, "llm_prompt_tokens").unwrap_or(0.0);
    labels.with(&families.llm_prompt_tokens, disabled, |f, values| f.add(values, prompt as u64));
    labels.with(&families.llm_prompt_tokens_dist, disabled, |f, values| f.observe(values, prompt));
    let completion = number(cx, "llm_completion_tokens").unwrap_or(0.0);
    labels.with(&families.llm_completion_tokens, disabled, |f, values| f.add(values, completion as u64));
    labels.with(&families.llm_completion_tokens_dist, disabled, |f, values| f.observe(values, completion));
}

fn cache(plugin: &Prometheus, cx: &Context) {
    let status = cx.custom_variable("ai_cache_status");
    let embedding = number(cx, "ai_cache_embedding_latency");
    if status.is_none() && embedding.is_none() {
        return;
    }
    let (families, disabled): (&Families, _) = (&plugin.families, &plugin.disabled);
    let mut labels = Labels::new(cx, Naming::Both);
    let layer = cx.custom_variable("ai_cache_hit_layer").map(String::from_utf8_lossy);
    match status {
        Some(b"HIT") => {
            labels.kind = layer.as_deref().unwrap_or("exact");
            labels.with(&families.ai_cache_hits, disabled, |f, values| f.add(values, 1));
        }
        Some(b"MISS") => labels.with(&families.ai_cache_misses, disabled, |f, values| f.add(values, 1)),
        Some(b"BYPASS") => labels.with(&families.ai_cache_bypasses, disabled, |f, values| f.add(values, 1)),
        _ => {}
    }
    if let Some(embedding) = embedding {
        labels.with(&families.ai_cache_embedding_latency, disabled, |f, values| f.observe(values, embedding));
    }
}
