//! `batch-requests`: the list's form and its requests as bytes. The rest is in `tests/cases/batch-requests/`.
use super::*;
use sluice_plugin::testing::block_on;
use sluice_plugin::{Registry, define};

fn handler(metadata: Value) -> Endpoint {
    let metadata = [(NAME.to_string(), metadata)].into_iter().collect();
    endpoints(&Env::for_tests().with_metadata(Arc::new(metadata))).remove(0)
}

fn ask(endpoint: &Endpoint, body: &str) -> (u16, String) {
    let mut cx = Context::for_tests("POST", URI);
    cx.request_body = Some(body.into());
    let Flow::Wait(future) = (endpoint.handler)(&mut cx) else { panic!("it waits") };
    let Outcome::Reply(reply) = block_on(future) else { panic!("it answers") };
    assert_eq!(reply.headers, [("Content-Type".into(), b"application/json".to_vec())]);
    let sluice_plugin::reply::ReplyBody::Bytes(bytes) = reply.body else { panic!("it has a body") };
    let body: Value = serde_json::from_slice(&bytes).unwrap();
    (reply.status, body["error_msg"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_is_refused() {
    let endpoint = handler(json!({"max_body_size": 400, "max_pipeline_items": 2}));
    assert_eq!(endpoint.body_limit, 400);
    let refused = |body: &str, status: u16, message: &str| {
        let (got, text) = ask(&endpoint, body);
        assert_eq!((got, text.contains(message)), (status, true), "{body}: {got} {text}");
    };
    refused("", 400, "no request body, you should give at least one pipeline setting");
    refused(
        "invalid json string",
        400,
        "invalid request body: invalid json string, err: Expected value but found invalid token at character 1",
    );
    refused(&"1234".repeat(200), 413, "request size 800 is greater than the maximum size 400 allowed");
    refused("{}", 400, "bad request body: object matches none of the required: [\"pipeline\"]");
    refused(r#"{"pipeline": []}"#, 400, "expect array to have at least 1 items");
    refused(r#"{"pipeline": [{"path": "/", "method": "put"}]}"#, 400, "matches none of the enum values");
    refused(r#"{"pipeline": [{"path": "/", "unknown": 1}]}"#, 400, "bad request body");
    refused(r#"{"pipeline": [{"path": "/"}], "timeout": 0}"#, 400, "bad request body");
    refused(
        r#"{"pipeline": [{"path": "/"}, {"path": "/"}, {"path": "/"}]}"#,
        400,
        "too many pipeline requests, 3 exceeds the maximum of 2",
    );
    refused(r#"{"pipeline": [{"path": "/", "headers": {"a b": "c"}}]}"#, 400, "invalid header name: a b");
    refused(r#"{"pipeline": [{"path": "/"}], "headers": {"a": "b\r\nc: d"}}"#, 400, "invalid value of header a");
}

fn wires(batch: Value) -> Vec<String> {
    let mut batch = batch;
    Schema::new(pipeline::schema()).unwrap().check(&mut batch).unwrap();
    let batch: pipeline::Batch = serde_json::from_value(batch).unwrap();
    let mut cx = Context::for_tests("POST", URI);
    cx.request.headers.append("Cookie", "c=1");
    cx.request.headers.append("X-Both", "outer");
    cx.request.headers.append("Content-Type", "application/json");
    cx.request.headers.append("Transfer-Encoding", "chunked");
    let requests = batch.requests(&cx, "X-Real-IP").unwrap();
    requests.into_iter().map(|wire| String::from_utf8(wire.bytes).unwrap()).collect()
}

#[test]
fn requests_take_what_they_do_not_say_from_the_list_and_from_outside() {
    let all = wires(json!({
        "query": {"a": "all", "b": 2}, "headers": {"X-List": "list", "X-Both": "list", "X-Real-IP": "9.9.9.9"},
        "pipeline": [
            {"path": "/x?y=1", "query": {"a": "own ü", "t": true, "f": false}, "headers": {"x-LIST": ["1", "2"]}},
            {"path": "/p q", "method": "POST", "body": "hello", "version": 1.0},
        ],
    }));
    assert_eq!(
        all[0],
        "GET /x?y=1&a=own%20%C3%BC&t&b=2 HTTP/1.1\r\ncookie: c=1\r\nhost: localhost\r\nx-both: list\r\nx-list: 1\r\n\
         x-list: 2\r\nx-real-ip: 127.0.0.1\r\n\r\n"
    );
    assert_eq!(
        all[1],
        "POST /p%20q?a=all&b=2 HTTP/1.0\r\ncookie: c=1\r\nhost: localhost\r\nx-both: list\r\nx-list: list\r\n\
         x-real-ip: 127.0.0.1\r\ncontent-length: 5\r\n\r\nhello"
    );
}

#[test]
fn framing_is_not_the_clients_to_choose() {
    let headers =
        json!({"Content-Length": "50", "Transfer-Encoding": "chunked", "Connection": "close", "Upgrade": "x"});
    let all = wires(json!({"pipeline": [{"path": "/a\r\nHost: evil", "headers": headers}]}));
    assert_eq!(
        all[0],
        "GET /a%0D%0AHost:%20evil HTTP/1.1\r\ncookie: c=1\r\nhost: localhost\r\nx-both: outer\r\n\
         x-real-ip: 127.0.0.1\r\n\r\n"
    );
}

#[test]
fn metadata_has_bounds() {
    let registry = Registry::new(&[&[define::<BatchRequests>().metadata::<Metadata>()]]).unwrap();
    let check = |mut metadata: Value| {
        registry.check(NAME, sluice_plugin::Scope::Metadata, &mut metadata).map(|()| metadata).map_err(|e| e.0)
    };
    assert_eq!(check(json!({})), Ok(json!({"max_body_size": 1048576, "max_pipeline_items": 1000})));
    assert!(check(json!({"max_body_size": 0})).unwrap_err().contains("max_body_size"));
    assert_eq!(registry.document(NAME).unwrap()["scope"], "global");
}
