//! The page of config.yaml: what is read, as `sluice_config` records it.

use super::table::{cell, code};
use sluice_config::environment::Environment;
use sluice_config::settings::Settings;
use sluice_config::settings::key::{Key, keys};
use std::collections::HashMap;
use std::fmt::Write as _;

/// What the recorder cannot see: the forms of lists, and defaults that are computed.
const NOTES: &[(&str, &str, &str)] = &[
    (
        "apisix.node_listen",
        "`9080`",
        "a port, a list of ports, or a list of `{ip, port, backlog}`; without `ip` on 0.0.0.0 and, with `enable_ipv6`, on [::]",
    ),
    ("apisix.ssl.listen", "`[{port: 9443}]`", "a list of `{ip, port, backlog, enable_http3}`"),
    ("apisix.control.ip", "`127.0.0.1`", ""),
    ("apisix.control.port", "`9090`", ""),
    ("apisix.proxy_cache", "", "zones of the cache, as written"),
    ("deployment.admin.admin_listen.ip", "`0.0.0.0`", ""),
    ("deployment.admin.admin_listen.port", "`9180`", ""),
    ("deployment.admin.admin_key", "", "a list of `{name, key, role}`; role is `admin` or `viewer`"),
    ("deployment.admin.allow_admin", "`[127.0.0.0/24]`", ""),
    (
        "deployment.etcd.host",
        "`[\"http://127.0.0.1:2379\"]`",
        "also from the environment variable `APISIX_DEPLOYMENT_ETCD_HOST`",
    ),
    ("deployment.etcd.health_check_timeout", "`10`", "seconds"),
    ("deployment.etcd.timeout", "", "seconds"),
    ("deployment.etcd.watch_timeout", "", "seconds"),
    ("deployment.etcd.resync_delay", "", "seconds"),
    ("deployment.admin.admin_key_required", "", "`false` lets requests without a key in"),
    ("apisix.ssl.ssl_protocols", "`TLSv1.2 TLSv1.3`", "of these two; older ones are reported and ignored"),
    ("apisix.dns_resolver", "", "addresses of name servers; those of /etc/resolv.conf where empty"),
    ("apisix.dns_resolver_valid", "", "seconds; stands in for the TTL of answers"),
    ("apisix.max_post_args_readable_size", "", "MiB of a body that is read for `post_arg` predicates; 0: no limit"),
    ("apisix.lru.secret.ttl", "", "seconds"),
    ("apisix.lru.secret.neg_ttl", "", "seconds"),
    ("nginx_config.http.client_max_body_size", "", "0: no limit"),
    ("nginx_config.http.charset", "", "added to text types' Content-Type; `off` for none"),
    (
        "sluice.listen_unix",
        "`[]`",
        "Unix sockets on which plain HTTP is served: a path, or {path, mode, proxy_protocol}; mode is octal text, `\"0666\"` when absent",
    ),
    ("sluice.wakeup_batching", "", "microseconds a worker gathers events when its last turn was small"),
    ("sluice.limits.requests_per_connection", "", "requests on one connection before it is closed"),
    (
        "nginx_config.worker_processes",
        "`auto`",
        "`auto` is one per core; also from the environment variable `APISIX_WORKER_PROCESSES`",
    ),
    ("nginx_config.http.real_ip_from", "`[127.0.0.1, \"unix:\"]`", ""),
    ("plugins", "", "names of the plugins that may be configured; all by default"),
    ("stream_plugins", "", "names of the plugins that stream routes may have; all by default"),
    (
        "apisix.stream_proxy.tcp",
        "",
        "a list of ports, `ip:port`, ranges such as `9100-9110`, or `{addr, tls, proxy_protocol, proxy_protocol_to_upstream}`; \
         without `ip` on 0.0.0.0",
    ),
    ("apisix.proxy_mode", "`http`", "whether routes, stream routes or both are served"),
    (
        "apisix.proxy_protocol.enable_tcp_pp",
        "",
        "a PROXY protocol header is expected on all TCP ports of `stream_proxy`",
    ),
    ("apisix.proxy_protocol.enable_tcp_pp_to_upstream", "", "nodes of stream routes get a PROXY protocol header"),
    ("sluice.limits.stream_preread_bytes", "", "bytes of a connection that plugins on stream routes may wait for"),
    ("sluice.limits.stream_preread_timeout", "", "how long they may wait, in all"),
    ("discovery", "", "as written"),
    ("graphql.max_size", "", "bytes of a GraphQL request"),
];

/// `config.md`.
pub fn page() -> String {
    let keys = keys();
    let mut out = "# config.yaml\n\nTimes are nginx's (`60s`, `1h30m`, `500ms`; a bare number counts seconds), sizes too (`16k`, `10m`). \
                   `${{NAME}}` and `${{NAME:=default}}` take a value from the environment. An unknown key is reported and ignored. \
                   A key that is read need not have an effect yet: see [getting started](../guide/getting-started.md).\n"
        .to_owned();
    let mut part = "";
    let mut shown: Vec<&Key> =
        keys.iter().filter(|key| key.ignored.is_none() && (key.kind != "mapping" || is_opaque(&keys, key))).collect();
    let order = ["apisix", "nginx_config", "nginx_config.http", "deployment", "sluice"];
    shown.sort_by_key(|key| order.iter().position(|o| *o == group(&key.path)).unwrap_or(order.len()));
    for key in shown {
        let group = group(&key.path);
        if group != part || !out.contains("\n## ") {
            let title = if group.is_empty() { "Others" } else { group };
            let _ = write!(out, "\n## {title}\n\n| key | type | default | |\n|---|---|---|---|\n");
            part = group;
        }
        row(key, &mut out);
    }
    out.push_str("\n## Ignored\n\nKeys of APISIX that mean nothing here; a notice at start names them with their line.\n\n| key | why |\n|---|---|\n");
    for (key, why) in keys.iter().filter_map(|key| Some((key, key.ignored.as_ref()?))) {
        let _ = writeln!(out, "| {} | {} |", code(&key.path), cell(why));
    }
    let attributes = Settings::defaults(&Environment::Fixed(HashMap::new())).plugins.plugin_attr;
    let text = serde_json::to_string_pretty(&attributes).unwrap_or_default();
    let _ = write!(
        out,
        "\n## Defaults of `plugin_attr`\n\nWhat config.yaml says is merged into these, key by key.\n\n```json\n{text}\n```\n"
    );
    out
}

/// A mapping of which no key is recorded.
fn is_opaque(keys: &[Key], key: &Key) -> bool {
    let below = format!("{}.", key.path);
    !keys.iter().any(|other| other.path.starts_with(&below))
}

/// Sections of the page: the first word of the path, and `nginx_config.http` apart.
fn group(path: &str) -> &str {
    let http = "nginx_config.http";
    if path.starts_with("nginx_config.http.") {
        return http;
    }
    match path.split_once('.') {
        Some((first @ ("apisix" | "nginx_config" | "deployment" | "sluice"), _)) => first,
        _ => "",
    }
}

fn row(key: &Key, out: &mut String) {
    let noted = NOTES.iter().find(|(path, ..)| *path == key.path);
    let default = match (noted, &key.default) {
        (Some((_, default, _)), None) => (*default).to_owned(),
        (_, Some(default)) => code(default),
        (None, None) => String::new(),
    };
    let kind = if key.words.is_empty() {
        key.kind.to_owned()
    } else {
        key.words.iter().map(|w| code(w)).collect::<Vec<_>>().join(", ")
    };
    let kind = if kind == "any" { String::new() } else { kind };
    let about = match noted {
        Some((_, _, about)) if !about.is_empty() => (*about).to_owned(),
        _ => format!("<!-- about setting {} -->", key.path),
    };
    let _ = writeln!(out, "| {} | {kind} | {default} | {about} |", code(&key.path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_rows_and_notes_have_keys() {
        let page = page();
        assert!(page.contains("| `apisix.node_listen` |  | `9080` |"), "{page}");
        assert!(page.contains("| `nginx_config.http.keepalive_timeout` | time | `60s` |"));
        assert!(page.contains("| `nginx_config.http_configuration_snippet` | nginx snippets are not supported |"));
        let known: Vec<String> = keys().into_iter().map(|k| k.path).collect();
        for (path, ..) in NOTES {
            assert!(known.iter().any(|k| k == path), "no such key: {path}");
        }
    }
}
