//! Every form of listening, defaults, notices and errors with their lines.

use super::apisix::HttpRouter;
use super::deployment::{ConfigProvider, Role};
use super::http::Escape;
use super::*;
use std::time::Duration;

fn parse(text: &str) -> (Result<Settings, Vec<ConfigError>>, Vec<Notice>) {
    Settings::parse(&"c.yaml".into(), text.as_bytes(), &Environment::fixed([("PORT", "9999"), ("ON", "true")]))
}

fn good(text: &str) -> Settings {
    match parse(text).0 {
        Ok(settings) => settings,
        Err(errors) => panic!("{}", lines(&errors).join("\n")),
    }
}

fn lines<T: ToString>(problems: &[T]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn errors(text: &str) -> Vec<String> {
    match parse(text).0 {
        Ok(_) => Vec::new(),
        Err(errors) => lines(&errors),
    }
}

fn addresses(node_listen: &str) -> Vec<String> {
    let settings = good(&format!("apisix:\n  node_listen: {node_listen}\n"));
    settings.apisix.node_listen.iter().map(|listen| listen.address.to_string()).collect()
}

#[test]
fn an_empty_file_means_apisix_defaults() {
    for text in ["", "# nothing\n", "apisix: {}\nnginx_config:\n"] {
        let settings = good(text);
        assert_eq!(settings.notices, [], "{text}");
        assert_eq!(settings.apisix.router.http, HttpRouter::RadixtreeHostUri);
        assert_eq!(settings.apisix.ssl.listen[0].address.to_string(), "0.0.0.0:9443");
        assert_eq!(settings.apisix.control.as_ref().unwrap().listen.to_string(), "127.0.0.1:9090");
        assert_eq!(settings.apisix.status, None);
        assert_eq!(settings.deployment.role, Role::Traditional);
        assert_eq!(settings.deployment.admin.listen.to_string(), "0.0.0.0:9180");
        assert_eq!(settings.nginx.http.client_max_body_size, None);
        assert_eq!(settings.nginx.http.upstream.keepalive, 320);
        assert!(settings.plugins.is_enabled("key-auth"));
        assert_eq!(settings.plugins.prometheus_export().unwrap().to_string(), "127.0.0.1:9091");
    }
    assert_eq!(Settings::defaults(&Environment::fixed([])).apisix.node_listen.len(), 2);
}

#[test]
fn every_form_of_node_listen() {
    assert_eq!(addresses("9081"), ["0.0.0.0:9081", "[::]:9081"]);
    assert_eq!(addresses("[9081, 9082]"), ["0.0.0.0:9081", "[::]:9081", "0.0.0.0:9082", "[::]:9082"]);
    assert_eq!(addresses("[{port: 9081}]"), ["0.0.0.0:9081", "[::]:9081"]);
    assert_eq!(addresses("[{ip: 127.0.0.2}]"), ["127.0.0.2:9080"]);
    assert_eq!(addresses("[{ip: 127.0.0.2, port: 9083}, 9081]"), ["127.0.0.2:9083", "0.0.0.0:9081", "[::]:9081"]);
    assert_eq!(addresses("[{ip: \"[::1]\", port: 9083}]"), ["[::1]:9083"]);
    assert_eq!(addresses("{port: 9081}"), ["0.0.0.0:9081", "[::]:9081"]);
    assert_eq!(addresses("[9081, 9081]"), ["0.0.0.0:9081", "[::]:9081"], "taken once");
    assert_eq!(addresses("${{PORT}}"), ["0.0.0.0:9999", "[::]:9999"]);
    assert_eq!(addresses("9081\n  enable_ipv6: false"), ["0.0.0.0:9081"]);
    let settings = good(
        "apisix:\n  enable_http2: false\n  node_listen:\n    - {port: 1, enable_http2: true, backlog: 5}\n    - 2\n",
    );
    let listen = &settings.apisix.node_listen;
    assert_eq!((listen[0].http2, listen[0].backlog), (true, Some(5)));
    assert_eq!((listen[2].http2, listen[2].backlog), (false, None));
    assert!(lines(&settings.notices)[0].starts_with("c.yaml:4:17: apisix.node_listen[0].enable_http2: deprecated"));
    assert_eq!(
        errors("apisix:\n  node_listen: [0, 70000, x, {ip: a}]\n"),
        [
            "c.yaml:2:17: apisix.node_listen[0]: expected a port from 1 to 65535, got number 0",
            "c.yaml:2:20: apisix.node_listen[1]: expected a port from 1 to 65535, got number 70000",
            "c.yaml:2:27: apisix.node_listen[2]: expected a port or {ip, port}, got string \"x\"",
            "c.yaml:2:31: apisix.node_listen[3].ip: expected an IP address, got string \"a\"",
        ]
    );
}

#[test]
fn proxy_protocol_and_tls_ports() {
    let settings = good(
        "apisix:\n  enable_ipv6: false\n  proxy_protocol: {listen_http_port: 9181, listen_https_port: 9182}\n  \
         ssl:\n    listen: [{port: 9444, enable_http3: true}]\n    ssl_protocols: TLSv1.1 TLSv1.3\n",
    );
    let plain = &settings.apisix.node_listen[1];
    assert_eq!((plain.address.port(), plain.proxy_protocol, plain.tls), (9181, true, false));
    let tls = &settings.apisix.ssl.listen;
    assert_eq!((tls[0].address.port(), tls[0].http3, tls[0].tls), (9444, true, true));
    assert_eq!((tls[1].address.port(), tls[1].proxy_protocol, tls[1].http3), (9182, true, false));
    assert!(!settings.apisix.ssl.tls12 && settings.apisix.ssl.tls13);
    assert_eq!(lines(&settings.notices), ["c.yaml:6:5: apisix.ssl.ssl_protocols: ignored: TLSv1.1 is not supported"]);
    assert!(good("apisix: {ssl: {enable: false}}").apisix.ssl.listen.is_empty());
}

#[test]
fn stream_proxy_listens_where_proxy_mode_says_so() {
    let with = |mode: &str, rest: &str| good(&format!("apisix:\n  proxy_mode: {mode}\n{rest}"));
    let proxy = "  stream_proxy:\n    tcp:\n      - 9100\n      - '127.0.0.1:9101'\n      - {addr: '9102-9103', tls: true}\n      \
                 - {addr: '[::1]:9104', proxy_protocol: true, proxy_protocol_to_upstream: true}\n      - 9100\n";
    let settings = with("http&stream", proxy);
    assert!(settings.apisix.proxy_mode.http && settings.apisix.proxy_mode.stream);
    let listen = &settings.apisix.stream_listen;
    let shown: Vec<_> = listen.iter().map(|l| (l.address.to_string(), l.tls, l.proxy_protocol)).collect();
    assert_eq!(
        shown,
        [
            ("0.0.0.0:9100".into(), false, false),
            ("127.0.0.1:9101".into(), false, false),
            ("0.0.0.0:9102".into(), true, false),
            ("0.0.0.0:9103".into(), true, false),
            ("[::1]:9104".into(), false, true),
        ]
    );
    assert!(listen[4].proxy_protocol_to_upstream);
    assert_eq!(settings.notices, []);
    assert!(with("http", proxy).apisix.stream_listen.is_empty());
    let alone = with("stream", &format!("  proxy_protocol: {{enable_tcp_pp: true}}\n{proxy}"));
    assert!(!alone.apisix.proxy_mode.http && alone.apisix.stream_listen.iter().all(|l| l.proxy_protocol));
    let udp = with("stream", "  stream_proxy: {udp: [9200]}\n");
    assert_eq!(lines(&udp.notices), ["c.yaml:3:18: apisix.stream_proxy.udp: ignored: UDP is not served yet"]);
    assert_eq!(
        errors(
            "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp: [0, x, '1.2.3:9', {tls: true}, '9-8', 9180]\n"
        )
        .len(),
        6,
        "five that are no address, and a port of the Admin API"
    );
}

#[test]
fn two_servers_cannot_have_one_port() {
    assert_eq!(
        errors("apisix:\n  node_listen: 9180\n"),
        ["c.yaml:2:3: apisix.node_listen: port 9180 of HTTP is taken by the Admin API"]
    );
    assert_eq!(
        errors("apisix:\n  control:\n    port: 9091\n  node_listen: 9443\n").len(),
        2,
        "control with prometheus, HTTP with HTTPS"
    );
    let text =
        "apisix: {node_listen: 9180}\ndeployment: {role: data_plane, role_data_plane: {config_provider: yaml}}\n";
    assert!(errors(text).is_empty(), "a data plane has no Admin API");
}

#[test]
fn all_errors_at_once_with_their_lines() {
    let text = "\
apisix:
  enable_http2: maybe
  router:
    http: radixtree_uir
  data_encryption:
    keyring: short
  dns_resolver: [1.1.1.1, nowhere]
nginx_config:
  http:
    keepalive_timeout: 60x
    client_max_body_size: 10mb
deployment:
  role: dataplane
  etcd:
    host: [127.0.0.1]
plugins: key-auth
plugin_attr:
  prometheus:
    export_uri: 5
    export_addr: {port: 0}
sluice:
  wakeup_batching: -1
graphql: ${{GONE}}
";
    assert_eq!(
        errors(text),
        [
            "c.yaml:2:3: apisix.enable_http2: expected true or false, got string \"maybe\"",
            "c.yaml:4:5: apisix.router.http: expected radixtree_uri or radixtree_host_uri or radixtree_uri_with_parameter or \
             priority, got string \"radixtree_uir\" (did you mean \"radixtree_uri\"?)",
            "c.yaml:6:5: apisix.data_encryption.keyring: expected a key of 16 or 32 bytes, got one of 5",
            "c.yaml:7:27: apisix.dns_resolver[1]: expected an IP address, with or without a port, got string \"nowhere\"",
            "c.yaml:10:5: nginx_config.http.keepalive_timeout: expected a time such as 60s, 1h30m or 500ms, got string \"60x\"",
            "c.yaml:11:5: nginx_config.http.client_max_body_size: expected a size such as 0, 16k or 10m, got string \"10mb\"",
            "c.yaml:13:3: deployment.role: expected traditional or control_plane or data_plane or standalone, got string \
             \"dataplane\" (did you mean \"data_plane\"?)",
            "c.yaml:15:12: deployment.etcd.host[0]: expected an address that begins with http:// or https://, got string \
             \"127.0.0.1\"",
            "c.yaml:16:1: plugins: expected a list of strings, got string \"key-auth\"",
            "c.yaml:19:5: plugin_attr.prometheus.export_uri: expected a string, got number 5",
            "c.yaml:20:19: plugin_attr.prometheus.export_addr.port: expected a port from 1 to 65535, got number 0",
            "c.yaml:22:3: sluice.wakeup_batching: expected an integer from 0 to 10000, got number -1",
            "c.yaml:23:1: graphql: the environment variable GONE is not set: set it, or give a default with ${{GONE:=value}}",
        ]
    );
}

#[test]
fn what_has_no_effect_is_named_with_its_line() {
    let text = "\
apisix:
  enable_htp2: true
  extra_lua_path: /x
nginx_config:
  http_configuration_snippet: |
    # nothing
  http_server_configuration_snippet: |
    location /x {}
  http:
    lua_shared_dict: {a: 1m}
something: 1
";
    let (settings, notices) = parse(text);
    assert!(settings.is_ok());
    assert_eq!(
        lines(&notices),
        [
            "c.yaml:2:3: apisix.enable_htp2: ignored: unknown key (did you mean \"enable_http2\"?)",
            "c.yaml:3:3: apisix.extra_lua_path: ignored: Lua code is not loaded",
            "c.yaml:7:3: nginx_config.http_server_configuration_snippet: ignored: nginx snippets are not supported",
            "c.yaml:10:5: nginx_config.http.lua_shared_dict: ignored: Lua shared dictionaries have no meaning here",
            "c.yaml:11:1: something: ignored: unknown key",
        ]
    );
}

#[test]
fn values_arrive() {
    let settings = good(
        "deployment:\n  role: data_plane\n  role_data_plane: {config_provider: json}\n\
         nginx_config:\n  worker_processes: 4\n  http:\n    real_ip_recursive: on\n    real_ip_from: [10.0.0.0/8]\n    \
         access_log_format_escape: json\n    client_max_body_size: 10m\n    keepalive_timeout: 1m30\n\
         plugins: [key-auth]\nplugin_attr: {prometheus: {export_addr: {port: 9099}}, zipkin: null, own: {a: 1}}\n\
         sluice: {wakeup_batching: 50, workers_pinned: \"${{ON}}\", limits: {header_bytes: 64k}, data_dir: d}\n",
    );
    assert_eq!(settings.deployment.config_provider, ConfigProvider::Json);
    assert!(!settings.apisix.enable_admin);
    assert_eq!(settings.nginx.worker_processes, Some(4));
    let http = &settings.nginx.http;
    assert!(http.real_ip_recursive && !http.real_ip_from_unix);
    assert_eq!(http.real_ip_from[0].to_string(), "10.0.0.0/8");
    assert_eq!(http.access_log_format_escape, Escape::Json);
    assert_eq!(http.client_max_body_size, Some(10 << 20));
    assert_eq!(http.keepalive_timeout, Duration::from_secs(90));
    assert!(settings.plugins.is_enabled("key-auth") && !settings.plugins.is_enabled("cors"));
    assert_eq!(settings.plugins.prometheus_export().unwrap().to_string(), "127.0.0.1:9099");
    assert_eq!(settings.plugins.plugin_attr["prometheus"]["metric_prefix"], "apisix_");
    assert!(!settings.plugins.plugin_attr.contains_key("zipkin"));
    assert_eq!(settings.plugins.plugin_attr["own"]["a"], 1);
    assert_eq!(settings.sluice.wakeup_batching, Duration::from_micros(50));
    assert!(settings.sluice.workers_pinned);
    assert_eq!(settings.sluice.limits.header_bytes, 64 << 10);
    let json = serde_json::to_string(&settings).unwrap();
    assert!(!json.contains("qeddd145sfvddff3"), "keys are not shown");
}

#[test]
fn a_file_cut_anywhere_does_not_panic() {
    let text = include_str!("../../tests/fixtures/config.yaml");
    assert!(parse(text).0.is_ok(), "{:?}", errors(text));
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = parse(&text[..end]);
    }
}

#[test]
fn a_data_plane_says_where_its_configuration_comes_from() {
    let missing = "c.yaml:1:14: deployment.role: role data_plane needs role_data_plane.config_provider";
    assert_eq!(errors("deployment: {role: data_plane}"), [missing]);
    let text = "deployment:\n  role: data_plane\n  role_data_plane: {x: 1}\n";
    assert_eq!(errors(text), ["c.yaml:3:3: deployment.role_data_plane: config_provider is missing"]);
    let text = "deployment: {role: control_plane}\napisix: {enable_admin: false}\n";
    assert!(good(text).apisix.enable_admin, "a control plane always has its Admin API");
    let hosts =
        Environment::fixed([("APISIX_DEPLOYMENT_ETCD_HOST", "[\"http://e:1\"]"), ("APISIX_WORKER_PROCESSES", "3")]);
    let settings = Settings::defaults(&hosts);
    assert_eq!(settings.deployment.etcd.host, ["http://e:1"]);
    assert_eq!(settings.nginx.worker_processes, Some(3));
}

#[test]
fn unix_sockets() {
    let settings = good(
        "sluice:\n  listen_unix: [run/a.sock, \"unix:/b.sock\", {path: /c, mode: \"0660\", proxy_protocol: true}]\n",
    );
    let all: Vec<_> =
        settings.sluice.listen_unix.iter().map(|l| (l.path.to_str().unwrap(), l.mode, l.proxy_protocol)).collect();
    assert_eq!(all, [("run/a.sock", 0o666, false), ("/b.sock", 0o666, false), ("/c", 0o660, true)]);
    let wrong = "sluice:\n  listen_unix: [5, {mode: \"0660\"}, {path: /c, mode: \"0999\"}]\n";
    assert_eq!(
        errors(wrong),
        [
            "c.yaml:2:17: sluice.listen_unix[0]: expected the path of a socket, at most 107 bytes, got number 5",
            "c.yaml:2:20: sluice.listen_unix[1]: expected a path or {path, mode, proxy_protocol}, got a mapping",
            "c.yaml:2:47: sluice.listen_unix[2].mode: expected permissions in octal, as text such as \"0660\", got string \"0999\"",
        ]
    );
}

#[test]
fn tls_without_a_value_is_off() {
    assert!(!good("apisix: {ssl: {enable: null}}\n").apisix.ssl.enable);
    assert_eq!(good("apisix: {ssl: {enable: null}}\n").apisix.ssl.listen.len(), 0);
    assert!(good("apisix: {ssl: {}}\n").apisix.ssl.enable);
}
