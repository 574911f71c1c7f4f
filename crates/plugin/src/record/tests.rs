//! What records tell, and what they keep to themselves.
use super::*;
use crate::chain::Chain;
use crate::context::BodyChunk;
use crate::info::{Info, Phases};
use crate::plugin::{Flow, Plugin};
use crate::reply::Reply;

struct Nowhere;
impl RecordSink for Nowhere {
    fn deliver(&self, _: &str, _: Value) {}
}

/// Changes a bit of everything, and answers in `access`.
struct Busy;
impl Plugin for Busy {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        cx.request.headers.set("x-new", "1");
        cx.request.headers.set("authorization", "Bearer two");
        cx.request.headers.remove("x-old");
        cx.upstream.target = Some(b"/other?token=secret&a=b".to_vec());
        cx.set_variable("tier", "gold");
        Flow::Next
    }
    fn access<'a>(&'a self, _: &'a mut Context) -> Flow<'a> {
        Flow::reply(Reply::status(403))
    }
    fn header_filter(&self, cx: &mut Context) {
        cx.response.headers.set("x-answer", "2");
    }
    fn body_filter(&self, _: &mut Context, chunk: &mut BodyChunk) {
        chunk.data.clear();
    }
}

fn chain() -> Chain {
    Chain::new(vec![ChainEntry {
        info: Info::new("busy", 1, Phases::ALL),
        priority: 1,
        filter_reads_body: false,
        overrides: false,
        plugin: Arc::new(Busy),
        filter: None,
        error_response: None,
        source: ChainSource::Service,
        config: Arc::new(json!({})),
    }])
}

fn step(chain: &Chain, phase: Phase, cx: &mut Context) {
    let mut at = 0;
    loop {
        let status = match chain.step(phase, &mut at, 0, cx) {
            crate::chain::Step::Done => return,
            crate::chain::Step::Reply(reply) => reply.status,
            _ => continue,
        };
        return cx.hook_replied(status);
    }
}

#[test]
fn hooks_tell_what_they_changed() {
    let mut cx = Context::for_tests("GET", "/a?apikey=k&b=c");
    cx.request.headers.append("x-old", "0");
    cx.request.headers.append("authorization", "Bearer one");
    Record::begin(&mut cx, "id", Arc::new(Nowhere), true);
    let chain = chain();
    step(&chain, Phase::Rewrite, &mut cx);
    step(&chain, Phase::Access, &mut cx);
    cx.response.set_status(403);
    chain.header_filter(false, 0, &mut cx);
    for _ in 0..2 {
        chain.body_filter(false, 0, &mut cx, &mut BodyChunk { data: b"abc".to_vec(), last: false });
    }
    cx.note(|| json!({"retry": 1}));
    let record = cx.record().unwrap();
    assert_eq!(record.notes(), [json!({"retry": 1})]);
    let hooks = record.hooks();
    let names: Vec<&str> = hooks.as_array().unwrap().iter().map(|h| h["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["rewrite", "access", "header_filter", "body_filter"]);
    let changes = json!([
        {"what": "request.header.x-old", "removed": "0"},
        {"what": "request.header.x-new", "to": "1"},
        {"what": "upstream.target", "to": "/other?token=***&a=b"},
        {"what": "variable.tier", "to": "gold"},
    ]);
    assert_eq!(hooks[0]["changes"], changes);
    assert_eq!((&hooks[0]["from"], &hooks[0]["plugin"]), (&json!("service"), &json!("busy")));
    assert_eq!((&hooks[1]["replied"], &hooks[1]["changes"]), (&json!(403), &Value::Null));
    assert_eq!(hooks[2]["changes"], json!([{"what": "response.header.x-answer", "to": "2"}]));
    assert_eq!((&hooks[3]["runs"], &hooks[3]["body"]), (&json!(2), &json!({"bytes_in": 6, "bytes_out": 0})));
    assert!(!hooks.to_string().contains("Bearer"));
    assert_eq!(masked_target("/a?apikey=k&b=c"), "/a?apikey=***&b=c");
}

#[test]
fn kept_records_make_room() {
    let kept = Explained::default();
    for n in 0..300 {
        kept.keep(&n.to_string(), b"{}");
    }
    assert_eq!((kept.ids().len(), kept.ids()[0].as_str()), (256, "299"));
    assert!(kept.get("299").is_some() && kept.get("43").is_none());
    kept.keep("large", &vec![b' '; 8 << 20]);
    assert_eq!(kept.ids(), ["large"]);
}
