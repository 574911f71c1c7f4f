//! Tests of `file_logger`.
use super::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, RouteInfo, Scope, define};

const FILE_LOGGER: Definition = define::<FileLogger>().metadata_schema(metadata_schema);

fn env(metadata: Value) -> Env {
    let metadata = [("file-logger".to_string(), metadata)].into_iter().collect();
    Env::for_tests().with_metadata(Arc::new(metadata))
}

fn in_dir(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

fn context(target: &str) -> Context {
    let mut cx = Context::for_tests("GET", target);
    cx.route = Some(Arc::new(RouteInfo { route_id: "1".into(), ..RouteInfo::default() }));
    cx.response.set_status(200);
    cx
}

/// The lines of a file, once all is written.
fn lines(harness: &Harness, dir: &tempfile::TempDir, path: &str) -> Vec<Value> {
    let files = harness.env.shared.get_or_insert("file-logger", Files::default);
    files.open(&in_dir(dir, path), &harness.env).expect("open").sync();
    let text = std::fs::read_to_string(dir.path().join(path)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn schema_is_apisix_s() {
    let mut schema = (FILE_LOGGER.schema)();
    schema.as_object_mut().map(|o| o.remove("description"));
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.values_mut().for_each(|p| drop(p.as_object_mut().map(|p| p.remove("description"))));
    }
    let expressions = json!({"type": "array", "minItems": 1, "items": {"type": "array"}});
    let limit = json!({"type": "integer", "minimum": 1, "default": 524288});
    let expected = json!({"type": "object", "properties": {
        "path": {"type": "string"},
        "log_format": {"type": "object"},
        "log_format_extra": {"type": "object"},
        "include_req_body": {"type": "boolean", "default": false},
        "include_req_body_expr": expressions,
        "include_resp_body": {"type": "boolean", "default": false},
        "include_resp_body_expr": expressions,
        "max_req_body_bytes": limit,
        "max_resp_body_bytes": limit,
        "match": {"type": "array", "maxItems": 20, "items": {"type": "array"}},
    }});
    assert_eq!(schema, expected);
}

#[test]
fn rejects() {
    let error = |mut config: Value| check(FILE_LOGGER, Scope::Route, &mut config).map_err(|e| e.0);
    assert_eq!(error(json!({"path": "a"})), Ok(()));
    let wrong = error(json!({"path": 1}));
    assert_eq!(wrong, Err(r#"property "path" validation failed: wrong type: expected string, got number"#.into()));
    let wrong = error(json!({"path": "a", "match": [["arg_a", "<>", "b"]]}));
    let message = wrong.expect_err("an unknown operator");
    assert!(message.starts_with("failed to validate the 'match' expression: "), "{message}");
    let wrong = Harness::new(FILE_LOGGER, json!({})).map(drop).map_err(|e| e.0);
    assert_eq!(wrong, Err(r#"property "path" is not set in either the plugin conf or the metadata"#.into()));
}

#[test]
fn writes_lines() {
    let dir = tempfile::tempdir().expect("directory");
    let config = json!({"path": in_dir(&dir, "file.log"), "log_format": {"host": "$host", "client_ip": "$remote_addr", "s": "$status"}});
    let harness = Harness::with_env(FILE_LOGGER, config, env(json!({}))).expect("builds");
    harness.log(&mut context("/hello"));
    harness.log(&mut context("/hello"));
    let expected = json!({"host": "localhost", "client_ip": "127.0.0.1", "s": 200, "route_id": "1"});
    assert_eq!(lines(&harness, &dir, "file.log"), [expected.clone(), expected]);
    let mut text = Vec::new();
    harness.env.metrics.render(std::time::Instant::now(), &mut text);
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("/file.log\",result=\"written\"} 2\n"), "{text}");
}

#[test]
fn metadata_stands_in() {
    let dir = tempfile::tempdir().expect("directory");
    let metadata = json!({"path": in_dir(&dir, "meta.log"), "log_format": {"host": "$host"}});
    let harness = Harness::with_env(FILE_LOGGER, json!({}), env(metadata.clone())).expect("builds");
    harness.log(&mut context("/a"));
    assert_eq!(lines(&harness, &dir, "meta.log"), [json!({"host": "localhost", "route_id": "1"})]);
    let config = json!({"path": in_dir(&dir, "own.log"), "log_format": {"uri": "$request_uri"}});
    let harness = Harness::with_env(FILE_LOGGER, config, env(metadata)).expect("builds");
    harness.log(&mut context("/a"));
    assert_eq!(lines(&harness, &dir, "own.log"), [json!({"uri": "/a", "route_id": "1"})]);
}

#[test]
fn a_path_is_opened_once() {
    let dir = tempfile::tempdir().expect("directory");
    let env = env(json!({}));
    let files = Files::default();
    let first = files.open(&in_dir(&dir, "a.log"), &env).expect("open");
    assert!(Arc::ptr_eq(&first, &files.open(&in_dir(&dir, "a.log"), &env).expect("open")));
    assert!(!Arc::ptr_eq(&first, &files.open(&in_dir(&dir, "b.log"), &env).expect("open")));
}

#[test]
fn asks_for_the_body_only_where_it_logs_it() {
    let dir = tempfile::tempdir().expect("directory");
    let config = json!({
        "path": in_dir(&dir, "b.log"), "include_req_body": true, "include_req_body_expr": [["arg_body", "==", "yes"]],
        "max_req_body_bytes": 4,
    });
    let harness = Harness::with_env(FILE_LOGGER, config, env(json!({}))).expect("builds");
    for target in ["/a?body=yes", "/a?body=no"] {
        let mut cx = context(target);
        cx.request.framing = sluice_http::h1::Framing::Length(6);
        assert_eq!(harness.request(&mut cx), None);
        // The harness puts an empty body where one is asked for.
        assert_eq!(cx.request_body.is_some(), target.ends_with("yes"));
        cx.request_body = Some(b"secret".to_vec());
        harness.log(&mut cx);
    }
    let logged = lines(&harness, &dir, "b.log");
    let bodies: Vec<_> = logged.iter().map(|line| line["request"].get("body").cloned()).collect();
    assert_eq!(bodies, [Some(json!("secr")), None]);
}

#[test]
fn reloads_keep_the_file_open() {
    let dir = tempfile::tempdir().expect("directory");
    let env = env(json!({}));
    let mut config = json!({"path": in_dir(&dir, "a.log")});
    check(FILE_LOGGER, Scope::Route, &mut config).expect("valid");
    let config: Config = serde_json::from_value(config).expect("configuration");
    let build =
        || FileLogger::build(Config { path: config.path.clone(), log: config.log.clone() }, &env).expect("builds");
    let before = build();
    env.shared.collect();
    let after = build();
    assert!(Arc::ptr_eq(&before.file, &after.file));
}
