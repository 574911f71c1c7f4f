//! Calls to servers by a fake client: shapes, failures, sequences. Calls through routes are in tests/cases/aggregate.
use super::*;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{HttpError, HttpRequest, HttpResponse, Scope, define};

/// Echoes what it was asked, at paths that name a status.
fn server(request: &HttpRequest) -> Result<HttpResponse, HttpError> {
    let path = request.url.strip_prefix("http://s").unwrap_or(&request.url);
    let answer = |status: u16, body: String| Ok(HttpResponse { status, headers: Vec::new(), body: body.into_bytes() });
    match path {
        "/gone" => Err(HttpError::new("connection refused")),
        "/bad" => answer(503, "{\"e\":1}".into()),
        "/text" => answer(200, "plain".into()),
        "/empty" => answer(204, String::new()),
        "/user" => answer(200, r#"{"data":{"id":7,"name":"anna","pass":"x"}}"#.into()),
        _ => {
            let headers: Map<String, Value> =
                request.headers.iter().map(|(n, v)| (n.clone(), String::from_utf8_lossy(v).into())).collect();
            let body = String::from_utf8_lossy(&request.body);
            answer(200, json!({"path": path, "method": request.method, "headers": headers, "body": body}).to_string())
        }
    }
}

fn reply(config: Value, cx: &mut Context) -> (u16, Value, Option<String>) {
    let plugin = Harness::with_env(define::<Aggregate>(), config, Env::for_tests().with_http(server)).unwrap();
    let reply = plugin.request(cx).unwrap();
    let ReplyBody::Bytes(body) = &reply.body else { panic!("no body") };
    let partial = reply.headers.iter().find(|(n, _)| n == "X-Aggregate-Partial");
    let partial = partial.map(|(_, v)| String::from_utf8(v.clone()).unwrap());
    (reply.status, serde_json::from_slice(body).unwrap(), partial)
}

fn said(config: Value) -> (u16, Value, Option<String>) {
    let mut cx = Context::for_tests("GET", "/?id=a%2Fb%3F&up=..");
    cx.request.headers.append("Authorization", "secret");
    cx.request.headers.append("X-Team", "blue");
    reply(config, &mut cx)
}

#[test]
fn answers_are_grouped_flattened_or_listed() {
    let calls = json!([
        {"name": "user", "url": "http://s/user", "pick": "/data", "select": ["id", "name"], "rename": {"name": "who"}},
        {"name": "note", "url": "http://s/text"},
        {"name": "none", "url": "http://s/empty"}
    ]);
    let merged = |merge: &str| said(json!({"calls": calls, "merge": merge}));
    let user = json!({"id": 7, "who": "anna"});
    assert_eq!(merged("group"), (200, json!({"user": user, "note": "plain", "none": null}), None));
    assert_eq!(merged("flat"), (200, json!({"id": 7, "who": "anna", "note": "plain"}), None));
    assert_eq!(merged("list"), (200, json!([user, "plain", null]), None));
}

#[test]
fn a_partial_answer_says_what_it_lacks() {
    let calls = |required: bool| {
        json!([
            {"name": "a", "url": "http://s/bad", "required": required},
            {"name": "b", "url": "http://s/gone"},
            {"name": "c", "url": "http://s/text"}
        ])
    };
    let errors = json!({"a": {"status": 503, "message": "status 503"}, "b": {"message": "connection refused"}});
    let (status, body, partial) = said(json!({"calls": calls(false), "partial_code": 206}));
    assert_eq!((status, partial.as_deref()), (206, Some("a, b")));
    assert_eq!(body, json!({"a": null, "b": null, "c": "plain", "_errors": errors}));
    let (status, body, partial) = said(json!({"calls": calls(true)}));
    assert_eq!((status, partial), (502, None));
    assert_eq!(body, json!({"message": "call a failed", "errors": errors}));
    let (_, body, partial) = said(json!({"calls": calls(false), "merge": "list"}));
    assert_eq!((body, partial.as_deref()), (json!([null, null, "plain"]), Some("a, b")));
}

#[test]
fn a_sequence_knows_what_was_said_before() {
    let (_, body, _) = said(json!({"mode": "sequence", "calls": [
        {"name": "user", "url": "http://s/user"},
        {"name": "next", "url": "http://s/of/$call.user.body.data.id?s=$call.user.status&n=$call.user.body.none",
            "method": "POST", "body": "{\"name\": \"$call.user.body.data.name\"}"}
    ]}));
    assert_eq!(body["next"]["path"], "/of/7?s=200&n=");
    assert_eq!(body["next"]["body"], "{\"name\": \"anna\"}");
    assert_eq!(body["next"]["headers"], json!({"content-type": "application/json"}));
    let (status, body, _) = said(json!({"mode": "sequence", "calls": [
        {"name": "a", "url": "http://s/gone", "required": true}, {"name": "b", "url": "http://s/gone"}
    ]}));
    assert_eq!((status, body["errors"].as_object().unwrap().len()), (502, 1));
}

#[test]
fn values_cannot_leave_their_place() {
    let call = |more: Value| {
        let mut call = json!({"name": "x", "url": "http://s/x"});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said(json!({"calls": [call]})).1["x"].clone()
    };
    assert_eq!(call(json!({"url": "http://s/of/$arg_id?q=$arg_id"}))["path"], "/of/a%2Fb%3F?q=a%2Fb%3F");
    let (_, body, _) = said(json!({"calls": [{"name": "x", "url": "http://s/of/$arg_up/y"}]}));
    assert_eq!(body["_errors"]["x"]["message"], "a step of the path is . or ..");
    assert_eq!(call(json!({"forward_headers": ["X-Team"]}))["headers"], json!({"x-team": "blue"}));
    assert_eq!(call(json!({"headers": {"X-Id": "<$arg_id>"}}))["headers"], json!({"x-id": "<a/b?>"}));
}

#[test]
fn the_clients_body_is_sent_where_it_is_asked_for() {
    let mut cx = Context::for_tests("POST", "/");
    cx.request.headers.append("Content-Type", "text/csv");
    cx.request_body = Some(b"a,b".to_vec());
    let (_, body, _) =
        reply(json!({"calls": [{"name": "x", "url": "http://s/x", "method": "PUT", "forward_body": true}]}), &mut cx);
    assert_eq!((&body["x"]["body"], &body["x"]["method"]), (&json!("a,b"), &json!("PUT")));
    assert_eq!(body["x"]["headers"], json!({"content-type": "text/csv"}));
}

#[test]
fn what_is_wrong_is_said_when_it_is_written() {
    let refused =
        |calls: Value| check(define::<Aggregate>(), Scope::Route, &mut json!({"calls": calls})).unwrap_err().0;
    let call = json!({"name": "a", "uri": "/x"});
    assert_eq!(refused(json!([call, call])), "calls[1]: there are two calls a");
    assert_eq!(
        refused(json!([{"name": "a", "uri": "/x", "headers": {"Transfer-Encoding": "x"}}])),
        "calls[0]: the field Transfer-Encoding cannot be set"
    );
    for calls in [
        json!([]),
        json!([{"name": "a"}]),
        json!([{"name": "a", "uri": "/x", "url": "http://s"}]),
        json!([{"name": "a b", "uri": "/x"}]),
        json!([{"name": "a", "url": "http://$arg_host/"}]),
    ] {
        assert!(!refused(calls).is_empty());
    }
}
