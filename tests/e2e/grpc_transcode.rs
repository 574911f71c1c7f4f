//! JSON clients of gRPC services: what goes in and comes out, statuses, streams, deadlines, and protos that change.

use crate::admin::patiently;
use crate::grpc::Server;
use crate::http2::{connect, get, run, whole};
use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Gateway, Wire, ports::free_port};
use std::time::Duration;

const PROTO: &str = r#"
    syntax = "proto3";
    package t;
    message Msg { string text = 1; int32 n = 2; }
    service T {
        rpc Echo (Msg) returns (Msg);
        rpc Fail (Msg) returns (Msg);
        rpc Bare (Msg) returns (Msg);
        rpc Silent (Msg) returns (Msg);
        rpc Paced (Msg) returns (stream Msg);
    }
"#;

fn resources(server: &Server, proto: &str) -> Value {
    let route = |method: &str, node: String| {
        let plugin = json!({"proto_id": "1", "service": "t.T", "method": method, "deadline": 300});
        let upstream = json!({"scheme": "grpc", "nodes": {node: 1}});
        json!({"id": method, "uri": format!("/{method}"), "upstream": upstream, "plugins": {"grpc-transcode": plugin}})
    };
    let mut routes: Vec<Value> =
        ["Echo", "Fail", "Bare", "Silent", "Paced"].map(|method| route(method, server.addr.to_string())).into();
    routes[4]["plugins"]["grpc-transcode"]["deadline"] = json!(0);
    let mut dead = route("Echo", format!("127.0.0.1:{}", free_port()));
    dead["id"] = json!("dead");
    dead["uri"] = json!("/dead");
    routes.push(dead);
    json!({"routes": routes, "protos": [{"id": "1", "content": proto}]})
}

fn start(server: &Server) -> Gateway {
    gateway(&Value::Null, &resources(server, PROTO))
}

#[test]
fn query_form_and_json_become_a_call_and_its_answer_json() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    let answer = wire.get("/Echo?text=a+b&n=3&unknown=1").unwrap();
    assert_eq!((answer.status, answer.text()), (200, r#"{"text":"a b","n":3}"#.to_owned()));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("seen-path"), answer.header("seen-type")), (Some("/t.T/Echo"), Some("application/grpc")));
    assert_eq!(answer.header_all("trailer"), ["grpc-status", "grpc-message"]);
    assert_eq!(answer.trailers[0], ("grpc-status".to_owned(), "0".to_owned()));
    for (kind, body, text) in [
        ("application/json", r#"{"text": "j", "n": "7"}"#, r#"{"text":"j","n":7}"#),
        ("application/x-www-form-urlencoded", "text=f", r#"{"text":"f","n":0}"#),
    ] {
        let head =
            format!("POST /Echo HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        assert_eq!(wire.request(head + body).unwrap().text(), text, "{kind}");
    }
    let body = r#"{"text": 5}"#;
    let head =
        "PUT /Echo HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n".to_owned();
    assert_eq!(wire.request(head + body).unwrap().status, 400);
    // A body that nothing is read of does not follow the message.
    let ignored = "GET /Echo?text=g HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(wire.request(ignored).unwrap().text(), r#"{"text":"g","n":0}"#);
    run(async {
        let client = connect(gateway.addr()).await;
        let mut sender = client.clone().ready().await.unwrap();
        let response = sender.send_request(get(&gateway, "/Echo?n=1"), true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(whole(response).await.unwrap(), br#"{"text":"","n":1}"#);
    });
}

#[test]
fn failures_have_statuses_of_http() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    for (path, status, code, message) in [("/Fail", 400, "9", "no good"), ("/Bare", 403, "7", "not you")] {
        let answer = wire.get(path).unwrap();
        assert_eq!(
            (answer.status, answer.header("grpc-status"), answer.header("grpc-message")),
            (status, Some(code), Some(message))
        );
        assert_eq!((answer.header("content-type"), &*answer.body), (Some("application/json"), &b""[..]));
    }
    for (path, status) in [("/dead", 502), ("/Silent", 504)] {
        let answer = gateway.connect().unwrap().get(path).unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (status, None), "{path}");
        assert!(answer.text().contains(&status.to_string()), "{path}");
    }
}

#[test]
fn a_stream_is_a_line_for_each_message_as_it_comes() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    wire.send("GET /Paced?text=x HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let first = String::from_utf8(wire.read_past(b"}\n").unwrap()).unwrap();
    assert!(first.contains("application/x-ndjson") && first.contains(r#"{"text":"x","n":0}"#), "{first}");
    server.released.notify_one();
    wire.read_past(b"{\"text\":\"x\",\"n\":0}\n").unwrap();
    wire.read_past(b"grpc-status: 0\r\n").unwrap();
}

#[test]
fn a_proto_that_changes_changes_its_routes_and_a_wrong_one_does_not() {
    let server = Server::start();
    let gateway = start(&server);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/Echo?text=a").unwrap().text(), r#"{"text":"a","n":0}"#);
    let renamed = resources(&server, &PROTO.replace("text", "word"));
    gateway.dir().write_resources(&renamed).unwrap();
    let limit = Duration::from_secs(10);
    gateway.wait_until("/Echo?word=a", limit, |answer| answer.text() == r#"{"word":"a","n":0}"#).unwrap();
    gateway.dir().write_resources(&resources(&server, "message {")).unwrap();
    gateway.wait_for_log("invalid content", limit).unwrap();
    assert_eq!(wire.get("/Echo?word=b").unwrap().text(), r#"{"word":"b","n":0}"#);
}

#[test]
fn the_admin_api_refuses_what_does_not_compile_and_keeps_what_is_used() {
    let server = Server::start();
    let admin = free_port();
    let settings = json!({"deployment": {
        "role": "traditional",
        "role_traditional": {"config_provider": "etcd"},
        "admin": {
            "admin_key": [{"name": "admin", "key": "key", "role": "admin"}],
            "admin_listen": {"ip": "127.0.0.1", "port": admin},
        },
    }});
    let gateway = gateway(&settings, &json!({}));
    let mut api = patiently(|| Wire::connect(("127.0.0.1", admin)));
    let mut write = |method: &str, path: &str, body: Value| {
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "{method} /apisix/admin/{path} HTTP/1.1\r\nHost: a\r\nX-API-KEY: key\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = api.request(head + &body).unwrap();
        (answer.status, answer.json()["error_msg"].as_str().unwrap_or_default().to_owned())
    };
    let broken = "syntax = \"proto3\";\nmessage A { string a = 1; int32 b = 1; }";
    let refused = "invalid content: content.proto:2:37: field number '1' is already used".to_owned();
    assert_eq!(write("PUT", "protos/1", json!({"content": broken})), (400, refused));
    assert_eq!(write("PUT", "protos/1", json!({"content": PROTO})).0, 201);
    let mut route = resources(&server, PROTO)["routes"][0].clone();
    route.as_object_mut().unwrap().remove("id");
    assert_eq!(write("PUT", "routes/1?wait=true", route).0, 201);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/Echo?text=a").unwrap().text(), r#"{"text":"a","n":0}"#);
    let used = "can not delete this proto, route [1] is still using it now".to_owned();
    assert_eq!(write("DELETE", "protos/1", Value::Null), (400, used));
    assert_eq!(write("PUT", "protos/1?wait=true", json!({"content": PROTO.replace("text", "word")})).0, 200);
    assert_eq!(wire.get("/Echo?word=a").unwrap().text(), r#"{"word":"a","n":0}"#);
    assert_eq!(write("DELETE", "protos/1?force=true&wait=true", Value::Null).0, 200);
    assert_eq!(wire.get("/Echo?word=a").unwrap().status, 503);
}
