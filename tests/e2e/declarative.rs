//! `dump`, `diff` and `sync` against a running gateway, and against a server that has no transactions, as APISIX.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use sluice_testkit::{Authority, Behaviour, Gateway, Upstream};

use crate::start::{binary, gateway};

const KEY: &str = "a-key-for-tests";

fn run(server: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env("SLUICE_SERVER", server).env("SLUICE_ADMIN_KEY", KEY);
    command.output().unwrap()
}

/// The command's stdout, after its exit code was as expected.
fn expect(code: i32, server: &str, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    out.into_owned()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A gateway with a store of its own, and the address of its Admin API.
fn with_admin_api() -> (Gateway, String) {
    let (admin, stream) = (free_port(), free_port());
    let settings = json!({
        "apisix": {"proxy_mode": "http&stream", "stream_proxy": {"tcp": [{"addr": format!("127.0.0.1:{stream}")}]}},
        "deployment": {
            "role": "traditional",
            "role_traditional": {"config_provider": "etcd"},
            "admin": {
                "admin_key": [{"name": "admin", "key": KEY, "role": "admin"}],
                "admin_listen": {"ip": "127.0.0.1", "port": admin},
            },
        },
    });
    (gateway(&settings, &json!({})), format!("http://127.0.0.1:{admin}"))
}

/// An object of every kind.
fn every_kind() -> Value {
    let pair = Authority::new("tests").unwrap().server(&["shop.example.com"]).unwrap();
    let team = json!({"team": "shop"});
    json!({
        "secrets": [{"id": "vault/main", "uri": "http://127.0.0.1:8200", "prefix": "kv/apisix", "token": "tok"}],
        "ssls": [{"id": "shop", "cert": pair.cert, "key": pair.key, "snis": ["shop.example.com"]}],
        "protos": [{"id": "echo", "content": "syntax = \"proto3\";\npackage e;\nmessage M { string t = 1; }\n"}],
        "plugin_metadata": [{"id": "cors", "allow_origins": {"shop": "https://shop.example.com"}}],
        "upstreams": [
            {"id": "main", "type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}, "labels": team},
            {"id": "tcp", "nodes": [{"host": "127.0.0.1", "port": 1981, "weight": 1}]},
        ],
        "services": [{"id": "shop", "upstream_id": "main", "hosts": ["shop.example.com"], "plugins": {"cors": {}}, "labels": team}],
        "plugin_configs": [{"id": "headers", "plugins": {"response-rewrite": {"headers": {"set": {"X-A": "b"}}}}}],
        "consumer_groups": [{"id": "gold", "plugins": {"limit-count": {"count": 9, "time_window": 60, "group": "gold"}}}],
        "consumers": [
            {"username": "anna", "group_id": "gold"},
            {"id": "anna/credentials/one", "plugins": {"key-auth": {"key": "annas-key"}}},
        ],
        "global_rules": [{"id": "id", "plugins": {"request-id": {}}}],
        "routes": [{"id": 1, "name": "orders", "uri": "/orders/*", "service_id": "shop", "plugin_config_id": "headers",
            "plugins": {"key-auth": {}}, "labels": team}],
        "stream_routes": [{"id": "tcp", "upstream_id": "tcp"}],
    })
}

fn write(folder: &Path, name: &str, value: &Value) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, value.to_string()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn every_kind_goes_there_and_back() {
    let (gateway, server) = with_admin_api();
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "all.json", &every_kind());

    assert!(expect(2, &server, &["diff", &file]).ends_with("14 to create, 0 to update, 0 to delete, 0 unchanged\n"));
    expect(1, &server, &["sync", &file]);
    assert!(expect(0, &server, &["sync", &file, "--dry-run"]).contains("14 to create"));
    assert!(
        expect(0, &server, &["sync", &file, "--yes", "--message", "first"])
            .contains("14 changes made in one transaction")
    );
    assert_eq!(expect(0, &server, &["diff", &file]), "0 to create, 0 to update, 0 to delete, 14 unchanged\n");
    gateway
        .wait_until("/orders/1", std::time::Duration::from_secs(5), |answer| {
            answer.status == 404 || answer.status == 401
        })
        .unwrap();

    // A dump, masked or not, is what is there.
    let (masked, open) = (folder.path().join("masked.yaml"), folder.path().join("open.yaml"));
    let (masked, open) = (masked.to_str().unwrap(), open.to_str().unwrap());
    expect(0, &server, &["dump", "--file", masked]);
    expect(0, &server, &["dump", "--file", open, "--with-secrets"]);
    expect(0, &server, &["diff", masked]);
    expect(0, &server, &["diff", open]);
    let (masked, text) = (std::fs::read_to_string(masked).unwrap(), std::fs::read_to_string(open).unwrap());
    assert!(masked.contains("********") && !masked.contains("annas-key") && !masked.contains("create_time"));
    assert!(text.contains("annas-key") && text.ends_with("#END\n"));

    // A change, by label and by kind.
    std::fs::write(open, text.replace("name: orders", "name: purchases")).unwrap();
    let plan: Value = serde_json::from_str(&expect(2, &server, &["diff", open, "--output", "json"])).unwrap();
    assert_eq!(plan["changes"][0]["path"], "routes/1");
    assert_eq!(plan["changes"][0]["fields"], json!([{"path": "name", "from": "orders", "to": "purchases"}]));
    expect(2, &server, &["diff", open, "--label", "team=shop"]);
    expect(0, &server, &["diff", open, "--label", "team=other"]);
    expect(0, &server, &["diff", open, "--exclude", "routes"]);
    let done: Value = serde_json::from_str(&expect(0, &server, &["sync", open, "--yes", "--output", "json"])).unwrap();
    assert_eq!(done["applied"]["changes"], 1);

    // What the files no longer have goes, dependents first, unless it is to stay.
    let less = write(folder.path(), "less/upstreams.json", &json!({"upstreams": every_kind()["upstreams"]}));
    expect(0, &server, &["diff", &less, "--no-delete"]);
    assert!(
        expect(0, &server, &["sync", &less, "--yes"]).contains("0 to create, 0 to update, 12 to delete, 2 unchanged")
    );
    expect(0, &server, &["diff", &less]);
    let none = write(folder.path(), "none.json", &json!({}));
    expect(1, &server, &["sync", &none, "--yes"]);
}

#[test]
fn mistakes_are_told_and_nothing_is_written() {
    let (_gateway, server) = with_admin_api();
    let folder = tempfile::tempdir().unwrap();
    let fails = |name: &str, value: Value, told: &str| {
        let output = run(&server, &["sync", &write(folder.path(), name, &value), "--yes"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(told), "{text}");
    };
    let route = json!({"id": 1, "uri": "/", "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    fails("twice.json", json!({"routes": [route, route]}), "routes/1 is defined twice; first at");
    fails("wrong.json", json!({"routes": [route, {"id": 2, "uri": 4}]}), "wrong.json:1:");
    fails(
        "mask.json",
        json!({"consumers": [{"username": "a", "plugins": {"key-auth": {"key": "********"}}}]}),
        "masked",
    );
    let dangling = json!({"upstreams": [{"id": "u", "nodes": {"a:1": 1}}], "routes": [{"id": 2, "uri": "/", "service_id": "none"}]});
    fails("dangling.json", dangling, "nothing was changed: ");
    let output = expect(0, &server, &["dump", "--output", "json"]);
    assert_eq!(output, "{}\n");

    let mut command = Command::new(binary());
    let refused = command.args(["dump", "--server", &server]).env("SLUICE_ADMIN_KEY", "wrong").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"));
    let usage = Command::new(binary()).args(["diff", "--nonsense"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(1), "2 means that there is a difference");
}

#[test]
fn a_server_without_transactions_is_written_to_in_order() {
    let server = Upstream::start().unwrap();
    server.otherwise(Behaviour::answer(200, r#"{"list":[],"total":0}"#));
    let unknown = r#"{"error_msg":"Unsupported resource type: transactions"}"#;
    server.on("/apisix/admin/transactions", Behaviour::answer(404, unknown));
    let stored = json!({"list": [{"key": "/apisix/routes/old", "value": {"id": "old", "uri": "/", "service_id": "old"}}], "total": 1});
    server.on("/apisix/admin/routes", Behaviour::answer(200, stored.to_string()));
    let stored = json!({"list": [{"key": "/apisix/services/old", "value": {"id": "old"}}], "total": 1});
    server.on("/apisix/admin/services", Behaviour::answer(200, stored.to_string()));
    let disabled = r#"{"error_msg":"stream mode is disabled, can not add stream routes"}"#;
    server.on("/apisix/admin/stream_routes", Behaviour::answer(400, disabled));

    let folder = tempfile::tempdir().unwrap();
    let wanted = json!({
        "routes": [{"id": "new", "uri": "/new", "service_id": "s"}],
        "services": [{"id": "s", "upstream_id": "u"}],
        "upstreams": [{"id": "u", "nodes": {"127.0.0.1:1": 1}}],
    });
    let file = write(folder.path(), "f.json", &wanted);
    let address = format!("http://{}", server.addr());
    assert!(expect(0, &address, &["sync", &file, "--yes"]).ends_with("5 changes made, one by one\n"));
    let writes: Vec<String> = server
        .seen()
        .iter()
        .filter(|seen| seen.method != "GET")
        .map(|seen| format!("{} {}", seen.method, seen.path().trim_start_matches("/apisix/admin/")))
        .collect();
    let expected = [
        "POST transactions",
        "PUT upstreams/u",
        "PUT services/s",
        "PUT routes/new",
        "DELETE routes/old",
        "DELETE services/old",
    ];
    assert_eq!(writes, expected);
    assert!(server.seen().iter().all(|seen| seen.header("X-API-KEY") == Some(KEY)));

    let stream =
        write(folder.path(), "s.json", &json!({"stream_routes": [{"id": 1, "upstream": {"nodes": {"a:1": 1}}}]}));
    let output = run(&address, &["diff", &stream]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stream mode is disabled"));
}

#[test]
fn lint_finds_and_convert_makes_what_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let route = |id, uri| json!({"id": id, "uri": uri, "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    let mut wrong = route("c", "/c");
    wrong["plugins"] = json!({"key-auth": {"header": 5}});
    let text = json!({"routes": [route("a", "/same"), route("b", "/same"), wrong], "services": [{"id": "s"}]});
    let file = write(folder.path(), "f.json", &text);
    let found: Value = serde_json::from_str(&expect(1, "", &["lint", &file, "--output", "json"])).unwrap();
    let rules: Vec<&str> = found["findings"].as_array().unwrap().iter().map(|f| f["rule"].as_str().unwrap()).collect();
    for rule in ["unreachable-route", "invalid", "unused"] {
        assert!(rules.contains(&rule), "{found:#}");
    }
    assert!(found["findings"].as_array().unwrap().iter().all(|f| f["line"] == 1 && f["column"].is_u64()));
    let fine = write(folder.path(), "fine.json", &json!({"routes": [route("a", "/a")]}));
    assert_eq!(expect(0, "", &["lint", &fine, "--strict"]), "0 errors, 0 warnings\n");

    let openapi = json!({
        "openapi": "3.0.3", "info": {"title": "Pets"}, "servers": [{"url": "https://pets.example/v1"}],
        "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
        "paths": {"/pets/{id}": {"get": {"operationId": "one", "security": [{"key": []}]}}},
    });
    let deck = json!({
        "_format_version": "3.0",
        "services": [{"name": "orders", "url": "http://o.example/api", "routes": [{"name": "r", "paths": ["/o", "~/p/(\\d+)$"]}],
            "plugins": [{"name": "rate-limiting", "config": {"minute": 5}}, {"name": "cors", "config": {"credentials": true}}]}],
        "consumers": [{"username": "anna", "keyauth_credentials": [{"key": "k"}]}],
    });
    let config = "deployment: {role: data_plane, role_data_plane: {config_provider: yaml}}\n";
    for (from, input) in [("openapi", openapi), ("deck", deck)] {
        let conf = folder.path().join(from);
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::write(conf.join("config.yaml"), config).unwrap();
        let input = write(folder.path(), &format!("{from}.json"), &input);
        let made = conf.join("apisix.yaml");
        expect(0, "", &["convert", "--from", from, &input, "--file", made.to_str().unwrap()]);
        expect(0, "", &["check", "-c", conf.join("config.yaml").to_str().unwrap()]);
        let text = std::fs::read_to_string(&made).unwrap();
        assert!(text.contains("key-auth"), "{text}");
    }
}
