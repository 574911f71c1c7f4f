//! Propagation, sampling and the form of spans.
use super::config::SamplerOptions;
use super::propagation::{Parent, traceparent, tracestate};
use super::*;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;
use sluice_plugin::testing::Harness;
use sluice_plugin::{Scope, define};

const PARENT: &str = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";

fn harness(config: Value, metadata: Value) -> Harness {
    let all = [(NAME.to_owned(), metadata)].into_iter().collect();
    let env = Env::for_tests().with_metadata(Arc::new(all));
    Harness::with_env(define::<OpenTelemetry>(), config, env).unwrap()
}

fn sent(headers: &[(&str, &str)], config: Value, metadata: Value) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    for (name, value) in headers {
        cx.request.headers.append(name, value);
    }
    assert!(harness(config, metadata).request(&mut cx).is_none());
    cx
}

fn passed(cx: &Context) -> Parent {
    Fields::read(&cx.request.headers).parent.unwrap()
}

fn sampler(name: &str) -> Value {
    json!({"sampler": {"name": name}})
}

#[test]
fn a_trace_goes_on_whether_it_is_sampled_or_not() {
    let parent = Parent::parse(PARENT.as_bytes()).unwrap();
    for (name, sampled) in
        [("always_on", true), ("always_off", false), ("parent_base", true), ("trace_id_ratio", false)]
    {
        let cx = sent(&[("traceparent", PARENT), ("baggage", "a=b")], sampler(name), json!({}));
        let own = passed(&cx);
        assert_eq!((own.trace_id, own.sampled), (parent.trace_id, sampled), "{name}");
        assert_ne!(own.span_id, parent.span_id);
        assert_eq!(cx.request.headers.get_str("baggage"), Some("a=b"));
        assert_eq!(cx.custom_variable("opentelemetry_trace_id"), None);
    }
}

#[test]
fn a_root_decides_where_nobody_called() {
    let root = |name: &str, fraction: f64| {
        let root = json!({"name": name, "options": {"fraction": fraction}});
        passed(&sent(&[], json!({"sampler": {"name": "parent_base", "options": {"root": root}}}), json!({}))).sampled
    };
    assert!(root("always_on", 0.0) && root("trace_id_ratio", 1.0));
    assert!(!root("always_off", 1.0) && !root("trace_id_ratio", 0.0));
    let ratio = Sampler::new(&SamplerConfig {
        name: "trace_id_ratio".into(),
        options: SamplerOptions { fraction: 0.5, root: None },
    });
    assert!(ratio.samples(None, 0x7fff_ffff_u128 << 96) && !ratio.samples(None, 0x8000_0000_u128 << 96));
}

#[test]
fn the_id_may_come_from_the_request() {
    let metadata = json!({"trace_id_source": "x-request-id", "set_ngx_var": true});
    let id = "550E8400E29B41D4A716446655440000";
    let of = |fields: &[(&str, &str)]| sent(fields, json!({}), metadata.clone());
    let cx = of(&[("x-request-id", id)]);
    assert_eq!(cx.custom_variable("opentelemetry_trace_id"), Some(id.to_ascii_lowercase().as_bytes()));
    assert_eq!(cx.custom_variable("opentelemetry_context_traceparent").map(<[u8]>::len), Some(55));
    assert_eq!(cx.custom_variable("opentelemetry_span_id").map(<[u8]>::len), Some(16));
    let wanted = given_id(id.as_bytes()).unwrap();
    for wrong in ["550e8400-e29b-41d4-a716-446655440000", "", &"0".repeat(32), &"z".repeat(32)] {
        assert_ne!(passed(&of(&[("x-request-id", wrong)])).trace_id, wanted, "{wrong}");
    }
    assert_ne!(passed(&of(&[("x-request-id", id), ("x-request-id", id)])).trace_id, wanted);
    let cx = of(&[]);
    assert_eq!(given_id(cx.known_request_id().unwrap().as_bytes()), Some(passed(&cx).trace_id));
    assert_ne!(passed(&sent(&[("x-request-id", id)], json!({}), json!({}))).trace_id, wanted);
}

#[test]
fn tracestate_passes_with_its_trace_alone() {
    let of = |fields: &[(&str, &str)]| {
        let cx = sent(fields, json!({}), json!({}));
        let all = cx.request.headers.get_all("tracestate").map(|v| String::from_utf8(v.to_vec()).unwrap());
        all.collect::<Vec<_>>()
    };
    assert_eq!(of(&[("traceparent", PARENT), ("tracestate", "a=1,b=2")]), ["a=1,b=2"]);
    assert_eq!(of(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2 ")]), ["a=1,b=2"]);
    assert_eq!(of(&[("traceparent", PARENT), ("tracestate", "A=1")]), [""; 0]);
    assert_eq!(of(&[("tracestate", "a=1")]), [""; 0]);
    assert_eq!(tracestate("1t@sys=x, b= y").as_deref(), Some("1t@sys=x,b= y"));
    assert_eq!(tracestate(&["a=1"; 33].join(",")), None);
}

#[test]
fn a_traceparent_is_valid_or_not_there() {
    let no = |text: &str| assert_eq!(Parent::parse(text.as_bytes()), None, "{text}");
    no(&PARENT.to_ascii_uppercase());
    no(&PARENT[..54]);
    no(&format!("{PARENT}-x"));
    no(&PARENT.replacen("00-", "ff-", 1));
    no(&PARENT.replace("80f198ee56343ba864fe8b2a57d3eff7", &"0".repeat(32)));
    no(&PARENT.replace("e457b5a2e4d86bd1", &"0".repeat(16)));
    assert!(Parent::parse(format!("{}-more", PARENT.replacen("00-", "01-", 1)).as_bytes()).is_some());
    assert_eq!(Parent::parse(PARENT.replace("-01", "-03").as_bytes()).map(|p| p.sampled), Some(true));
}

#[test]
fn without_metadata_requests_pass_as_they_are() {
    let harness = Harness::new(define::<OpenTelemetry>(), json!({"sampler": {"name": "always_on"}})).unwrap();
    let mut cx = Context::for_tests("GET", "/");
    assert!(harness.request(&mut cx).is_none());
    assert_eq!(cx.request.headers.get("traceparent"), None);
}

#[test]
fn schemas_refuse_what_apisix_refuses() {
    let metadata = |mut config: Value| {
        let definition = define::<OpenTelemetry>().metadata_schema(metadata_schema);
        sluice_plugin::testing::check(definition, Scope::Metadata, &mut config)
    };
    assert!(metadata(json!({"resource": {"service.name": {"nested": "table"}}})).is_err());
    assert!(metadata(json!({"collector": {"request_headers": {"Authorization": ["a"]}}})).is_err());
    assert!(metadata(json!({"resource": {"service.name": "APISIX", "weight": 1.5, "debug": true}})).is_ok());
    let mut config = json!({"sampler": {"name": "sometimes"}});
    assert!(sluice_plugin::testing::check(define::<OpenTelemetry>(), Scope::Route, &mut config).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parents_round_trip(trace_id in 1u128.., span_id in 1u64.., sampled: bool) {
        let text = traceparent(trace_id, span_id, sampled);
        prop_assert_eq!(Parent::parse(&text), Some(Parent { trace_id, span_id, sampled }));
    }

    #[test]
    fn what_is_encoded_is_read_by_others(
        name in "\\PC{0,40}",
        texts in prop::collection::vec("\\PC{0,200}", 0..5),
        int: i64, double in -1e9f64..1e9, yes: bool,
        parent in prop::option::of(1u64..),
    ) {
        let mut attributes = Vec::new();
        for text in &texts {
            otlp::attribute(SPAN_ATTRIBUTES, "t", &Scalar::Text(text.as_bytes()), &mut attributes);
        }
        for value in [Scalar::Int(int), Scalar::Double(double), Scalar::Bool(yes)] {
            otlp::attribute(SPAN_ATTRIBUTES, "other", &value, &mut attributes);
        }
        let head = SpanHead {
            trace_id: 7, span_id: 8, parent_id: parent, trace_state: "a=b", name: &name, kind: SERVER,
            start: 1, end: u64::MAX, error: Some("upstream error: 502"),
        };
        let mut span = Vec::new();
        otlp::span(&head, &attributes, &mut span);
        let body = otlp::export(&resource(&BTreeMap::new()), "scope", &[span.clone(), span]);
        let read = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        let of_resource = &read.resource_spans[0];
        prop_assert_eq!(of_resource.resource.as_ref().unwrap().attributes.len(), 2);
        let spans = &of_resource.scope_spans[0].spans;
        prop_assert_eq!(spans.len(), 2);
        let span = &spans[1];
        prop_assert_eq!(&span.name, &name);
        prop_assert_eq!(&span.trace_id, &7u128.to_be_bytes());
        prop_assert_eq!(&span.parent_span_id, &parent.map(|p| p.to_be_bytes().to_vec()).unwrap_or_default());
        prop_assert_eq!((span.kind, span.start_time_unix_nano, span.end_time_unix_nano), (2, 1, u64::MAX));
        prop_assert_eq!(span.status.as_ref().map(|s| (s.code, s.message.as_str())), Some((2, "upstream error: 502")));
        let values: Vec<Any> =
            span.attributes.iter().map(|a| a.value.clone().unwrap().value.unwrap()).collect();
        let mut wanted: Vec<Any> = texts.into_iter().map(Any::StringValue).collect();
        wanted.extend([Any::IntValue(int), Any::DoubleValue(double), Any::BoolValue(yes)]);
        prop_assert_eq!(values, wanted);
    }
}
