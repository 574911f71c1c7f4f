//! Traces with a real collector: what spans say, over HTTP and gRPC, and what a collector that hangs costs.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Collector, Gateway, Upstream};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(15);
const PARENT: &str = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";

fn nodes(upstream: &Upstream) -> Value {
    json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}})
}

/// A gateway with a service, a route with these plugins, and `/metrics`.
fn tracing(upstream: &Upstream, plugins: Value, metadata: Value) -> Gateway {
    let settings = json!({"plugin_attr": {"prometheus": {"enable_export_server": false}}});
    let resources = json!({
        "services": [{"id": "s", "name": "shop", "upstream": nodes(upstream)}],
        "routes": [
            {"id": "r", "name": "orders", "uri": "/orders/*", "service_id": "s", "plugins": plugins},
            {"id": "m", "uri": "/apisix/prometheus/metrics", "plugins": {"public-api": {}}},
        ],
        "plugin_metadata": [metadata],
    });
    gateway(&settings, &resources)
}

fn metadata(address: &str) -> Value {
    json!({
        "id": "opentelemetry",
        "resource": {"service.name": "edge", "weight": 1.5, "debug": true},
        "collector": {"address": address, "request_headers": {"x-tenant": "one"}},
        "batch_span_processor": {"max_export_batch_size": 1, "inactive_timeout": 0.1},
    })
}

fn count(gateway: &Gateway, plugin: &str, result: &str) -> u64 {
    let text = gateway.connect().unwrap().get("/apisix/prometheus/metrics").unwrap().text();
    let name = format!("sluice_log_entries_total{{plugin=\"{plugin}\",result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse::<f64>().unwrap() as u64)
}

#[test]
fn spans_say_what_apisix_s_say_over_http_and_grpc() {
    let (upstream, collector) = (Upstream::start().unwrap(), Collector::start().unwrap());
    upstream.on("/orders/lost", Behaviour::answer(502, "lost"));
    let plugin = json!({"opentelemetry": {
        "sampler": {"name": "always_on"},
        "additional_attributes": ["arg_page", "upstream_addr", "cookie_none"],
        "additional_header_prefix_attributes": ["x-my-*", "X-Other"],
    }});
    for (address, sent) in [(collector.address(), 0), (format!("grpc://{}", collector.grpc_address()), 2)] {
        let gateway = tracing(&upstream, plugin.clone(), metadata(&address));
        upstream.take_seen();
        let mut wire = gateway.connect().unwrap();
        let request = format!(
            "GET /orders/1?page=2 HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: t\r\nX-My-Name: a\r\nX-My-Name: b\r\n\
             X-Other: o\r\ntraceparent: {PARENT}\r\ntracestate: v=1\r\n\r\n"
        );
        assert_eq!(wire.request(request).unwrap().status, 200);
        assert_eq!(wire.get("/orders/lost").unwrap().status, 502);
        let spans = collector.wait_for(sent + 2, LIMIT);
        let span = spans.iter().skip(sent).find(|s| s.status == 0).unwrap();
        assert_eq!((span.name.as_str(), span.kind), ("GET /orders/*", 2));
        assert_eq!(span.trace_id, "80f198ee56343ba864fe8b2a57d3eff7");
        assert_eq!((span.parent_id.as_str(), span.trace_state.as_str()), ("e457b5a2e4d86bd1", "v=1"));
        let passed = upstream.seen()[0].header("traceparent").unwrap().to_owned();
        assert_eq!(passed, format!("00-{}-{}-01", span.trace_id, span.span_id));
        assert!(span.end > span.start && span.end - span.start < 10_000_000_000, "{span:?}");
        assert_eq!(span.header("x-tenant"), Some("one"));
        let resource = [("service.name", json!("edge")), ("weight", json!(1.5)), ("debug", json!(true))];
        resource.iter().for_each(|(name, value)| assert_eq!(&span.resource[*name], value));
        assert!(span.resource["hostname"].is_string());
        let wanted = json!({
            "net.host.name": "shop.test", "http.method": "GET", "http.scheme": "http",
            "http.target": "/orders/1?page=2", "http.user_agent": "t", "http.request.method": "GET",
            "url.scheme": "http", "url.path": "/orders/1", "user_agent.original": "t",
            "apisix.route_id": "r", "apisix.route_name": "orders", "http.route": "/orders/*",
            "apisix.service_id": "s", "apisix.service_name": "shop", "apisix.response_source": "upstream",
            "http.status_code": 200, "http.response.status_code": 200, "arg_page": "2",
            "upstream_addr": upstream.addr().to_string(), "x-my-name": "a, b", "X-Other": "o",
        });
        assert_eq!(json!(span.attributes), wanted);
        let lost = spans.iter().skip(sent).find(|s| s.status == 2).unwrap();
        assert_eq!(lost.message, "upstream error: 502");
        assert_ne!(lost.trace_id, span.trace_id);
        assert_eq!(lost.parent_id, "");
    }
}

#[test]
fn a_refused_request_has_a_span_and_an_unsampled_one_none() {
    let (upstream, collector) = (Upstream::start().unwrap(), Collector::start().unwrap());
    let plugins = json!({"key-auth": {}, "opentelemetry": {"sampler": {"name": "parent_base"}}});
    let gateway = tracing(&upstream, plugins, metadata(&collector.address()));
    let mut wire = gateway.connect().unwrap();
    for flag in ["00", "01"] {
        let parent = PARENT.replace("-01", &format!("-{flag}"));
        let request = format!("GET /orders/1 HTTP/1.1\r\nHost: h\r\ntraceparent: {parent}\r\n\r\n");
        assert_eq!(wire.request(request).unwrap().status, 401);
    }
    let spans = collector.wait_for(1, LIMIT);
    assert_eq!(spans[0].attributes["apisix.response_source"], "apisix");
    assert_eq!(spans[0].attributes["http.status_code"], 401);
    assert_eq!(spans.len(), 1);
}

#[test]
fn a_collector_that_hangs_delays_nobody_and_what_is_lost_is_counted() {
    const REQUESTS: u64 = 100;
    let (upstream, collector) = (Upstream::start().unwrap(), Collector::start().unwrap());
    collector.http().otherwise(Behaviour::Silence);
    let mut metadata = metadata(&collector.address());
    metadata["batch_span_processor"]["max_queue_size"] = json!(20);
    metadata["collector"]["request_timeout"] = json!(1);
    let gateway = tracing(&upstream, json!({"opentelemetry": {"sampler": {"name": "always_on"}}}), metadata);
    let mut wire = gateway.connect().unwrap();
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        assert_eq!(wire.get("/orders/1").unwrap().status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let lost = count(&gateway, "opentelemetry", "discarded");
    assert!((REQUESTS - 20..REQUESTS).contains(&lost), "{lost}");
    // The collector comes back: what still waits arrives.
    collector.http().otherwise(Behaviour::answer(200, ""));
    let end = Instant::now() + LIMIT;
    let total = || {
        let of = |result: &str| count(&gateway, "opentelemetry", result);
        of("delivered") + of("dropped") + of("discarded")
    };
    while total() < REQUESTS {
        assert!(Instant::now() < end, "{} of {REQUESTS}: {}", total(), gateway.log_text());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(total(), REQUESTS);
    assert!(count(&gateway, "opentelemetry", "delivered") > 0);
}

#[test]
fn zipkin_gets_the_spans_of_both_versions() {
    let (upstream, collector) = (Upstream::start().unwrap(), Collector::start().unwrap());
    let names: [&[&str]; 2] = [
        &["apisix.access", "apisix.body_filter", "apisix.proxy", "apisix.request", "apisix.rewrite"],
        &["apisix.proxy", "apisix.request", "apisix.response_span"],
    ];
    let mut sent = 0;
    for (version, names) in [1, 2].into_iter().zip(names) {
        let plugin = json!({
            "endpoint": collector.zipkin_endpoint(), "sample_ratio": 1, "service_name": "edge", "span_version": version,
            "server_addr": "1.2.3.4",
        });
        let mut gateway = tracing(&upstream, json!({"zipkin": plugin}), json!({"id": "file-logger", "log_format": {}}));
        upstream.take_seen();
        let request =
            "GET /orders/1?a=b HTTP/1.1\r\nHost: h\r\nb3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\r\n\r\n";
        assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, 200);
        // What waits goes out when the gateway ends.
        gateway.terminate().unwrap();
        gateway.wait(LIMIT).unwrap();
        let spans = collector.wait_for_zipkin(sent + names.len(), LIMIT).split_off(sent);
        sent += spans.len();
        let mut seen: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, names);
        let named = |name: &str| spans.iter().find(|s| s["name"] == name).unwrap();
        let (request, proxy) = (named("apisix.request"), named("apisix.proxy"));
        assert_eq!((&request["parentId"], &request["kind"]), (&json!("e457b5a2e4d86bd1"), &json!("SERVER")));
        assert_eq!(request["localEndpoint"]["serviceName"], "edge");
        assert_eq!(request["localEndpoint"]["ipv4"], "1.2.3.4");
        assert_eq!(request["remoteEndpoint"]["ipv4"], "127.0.0.1");
        let tags = json!({
            "component": "apisix", "http.method": "GET", "http.url": "/orders/1?a=b", "http.status_code": "200",
            "apisix.response_source": "upstream",
        });
        assert_eq!(request["tags"], tags);
        assert_eq!(proxy["parentId"], request["id"]);
        let seen = &upstream.seen()[0];
        assert_eq!(seen.header("x-b3-traceid"), Some("80f198ee56343ba864fe8b2a57d3eff7"));
        assert_eq!(seen.header("x-b3-spanid"), proxy["id"].as_str());
        assert_eq!(seen.header("x-b3-parentspanid"), request["id"].as_str());
        assert!(spans.iter().all(|s| s["traceId"] == "80f198ee56343ba864fe8b2a57d3eff7"));
    }
}

#[test]
fn the_parts_of_a_request_are_spans_where_it_is_asked_for() {
    let (upstream, collector) = (Upstream::start().unwrap(), Collector::start().unwrap());
    let plugins = json!({"key-auth": {}, "opentelemetry": {"sampler": {"name": "always_on"}}});
    let resources = json!({
        "consumers": [{"username": "anna", "plugins": {"key-auth": {"key": "k"}}}],
        "routes": [{"id": "r", "uri": "/a", "plugins": plugins, "upstream": nodes(&upstream)}],
        "plugin_metadata": [metadata(&collector.address())],
    });
    let gateway = gateway(&json!({"apisix": {"tracing": true}}), &resources);
    let request = "GET /a HTTP/1.1\r\nHost: h\r\napikey: k\r\n\r\n";
    assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, 200);
    let tree = |spans: &[sluice_testkit::Span]| {
        let name = |id: &str| spans.iter().find(|s| s.span_id == id).map_or("", |s| s.name.as_str()).to_owned();
        let mut all: Vec<_> = spans.iter().map(|s| (name(&s.parent_id), s.name.clone(), s.kind, s.status)).collect();
        all.sort();
        all
    };
    let span = |within: &str, name: &str, kind: i32, status: i32| (within.to_owned(), name.to_owned(), kind, status);
    let root = "GET /a";
    let wanted = [
        span("", root, 2, 0),
        span(root, "apisix.phase.access", 2, 0),
        span(root, "apisix.phase.body_filter", 2, 0),
        span(root, "apisix.phase.header_filter", 2, 0),
        span(root, "apisix.phase.log.plugins.opentelemetry", 1, 0),
        span("apisix.phase.access", "http_router_match", 1, 0),
    ];
    let spans = collector.wait_for(6, LIMIT);
    assert_eq!(tree(&spans), wanted);
    assert!(spans.iter().all(|s| s.trace_id == spans[0].trace_id && s.end >= s.start));
    assert_eq!(gateway.connect().unwrap().get("/a").unwrap().status, 401);
    let spans = collector.wait_for(12, LIMIT).split_off(6);
    let refused = spans.iter().find(|s| s.name == "apisix.phase.access").unwrap();
    assert_eq!((refused.status, refused.message.as_str()), (2, "response code 401"));
}

#[test]
fn collectors_with_tls_are_checked_against_the_trusted_certificates() {
    let upstream = Upstream::start().unwrap();
    let authority = sluice_testkit::Authority::new("collectors").unwrap();
    let collector = Collector::start_tls(authority.server(&["127.0.0.1"]).unwrap().server_config().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("trusted.pem");
    let other = sluice_testkit::Authority::new("others").unwrap();
    let addresses = [format!("https://{}", collector.address()), format!("grpcs://{}", collector.grpc_address())];
    for (trusts, sent) in [(&authority, 1), (&other, 0)] {
        std::fs::write(&trusted, trusts.pem()).unwrap();
        for address in &addresses {
            let before = collector.spans().len();
            let settings = json!({"apisix": {"ssl": {"ssl_trusted_certificate": trusted}}});
            let plugins = json!({"opentelemetry": {"sampler": {"name": "always_on"}}});
            let route = json!({"id": "r", "uri": "/*", "plugins": plugins, "upstream": nodes(&upstream)});
            let resources = json!({"routes": [route], "plugin_metadata": [metadata(address)]});
            let gateway = gateway(&settings, &resources);
            assert_eq!(gateway.connect().unwrap().get("/a").unwrap().status, 200);
            match sent {
                0 => drop(gateway.wait_for_log("request failed", LIMIT).unwrap()),
                _ => drop(collector.wait_for(before + 1, LIMIT)),
            }
            assert_eq!(collector.spans().len(), before + sent, "{address}");
        }
    }
}
