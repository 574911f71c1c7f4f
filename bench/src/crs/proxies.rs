//! The proxies with the Core Rule Set: Sluice with the plugin `coraza`, nginx with libmodsecurity, and both without rules, to see
//! what the rules alone cost. Both read the same directives.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::peers::{Peer, Site, find, pinned};
use crate::ports;

/// Debian's package libnginx-mod-http-modsecurity.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so";

/// What a proxy is told.
pub struct Plan<'a> {
    pub program: Option<&'a Path>,
    pub upstream: u16,
    /// None: no rules.
    pub directives: Option<&'a [String]>,
    /// Alone on core 0, for figures.
    pub pinned: bool,
}

/// The directives for the corpus: nothing is blocked, everything is logged, all rules are on. The limits are those of the rule
/// set's own test run (tests/docker-compose.yml), which some tests go beyond.
pub fn for_corpus(crs: &Path, audit_log: &Path) -> Vec<String> {
    let variables = [
        "blocking_paranoia_level=4",
        "detection_paranoia_level=4",
        "arg_name_length=100",
        "arg_length=400",
        "total_arg_length=6400",
        "max_num_args=255",
        "max_file_size=64100",
        "combined_file_sizes=65535",
        "crs_validate_utf8_encoding=1",
        "reporting_level=4",
    ];
    let mut all = settings("DetectionOnly");
    all.extend([
        "SecAuditEngine On".to_owned(),
        "SecAuditLogFormat JSON".to_owned(),
        "SecAuditLogType Serial".to_owned(),
        "SecAuditLogParts ABHZ".to_owned(),
        format!("SecAuditLog {}", audit_log.display()),
    ]);
    all.extend(rules(crs, &variables));
    all
}

/// The directives for the cost: as one would protect a service, at this paranoia level.
pub fn for_cost(crs: &Path, level: u8) -> Vec<String> {
    let mut all = settings("On");
    all.push("SecAuditEngine Off".to_owned());
    all.extend(rules(crs, &[&format!("blocking_paranoia_level={level}")]));
    all
}

fn settings(engine: &str) -> Vec<String> {
    let json = r"^application/(?:[a-z0-9.-]+\+)?json";
    let xml = r"^(?:text|application(?:/soap\+)?)/?xml|\+xml";
    [
        format!("SecRuleEngine {engine}"),
        "SecRequestBodyAccess On".to_owned(),
        "SecRequestBodyLimit 13107200".to_owned(),
        "SecRequestBodyNoFilesLimit 1310720".to_owned(),
        "SecResponseBodyAccess On".to_owned(),
        "SecResponseBodyMimeType text/plain text/html text/xml application/json".to_owned(),
        "SecResponseBodyLimit 1048576".to_owned(),
        "SecResponseBodyLimitAction ProcessPartial".to_owned(),
        format!(
            "SecRule REQUEST_HEADERS:Content-Type \"{xml}\" \
             \"id:200000,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=XML\""
        ),
        format!(
            "SecRule REQUEST_HEADERS:Content-Type \"{json}\" \
             \"id:200001,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=JSON\""
        ),
    ]
    .into()
}

fn rules(crs: &Path, variables: &[&str]) -> Vec<String> {
    let set: Vec<String> = variables.iter().map(|v| format!("setvar:tx.{v}")).collect();
    vec![
        format!("Include {}", crs.join("crs-setup.conf.example").display()),
        format!("SecAction \"id:900005,phase:1,pass,nolog,{}\"", set.join(",")),
        format!("Include {}", crs.join("rules/*.conf").display()),
    ]
}

pub fn start(name: &'static str, plan: &Plan<'_>, site: &Site) -> Result<Peer> {
    let home = site.home(name)?;
    match name {
        "sluice" | "sluice+crs" => sluice(name, plan, &home),
        "nginx" | "nginx+crs" => nginx(name, plan, &home),
        _ => bail!("no peer named {name}; there are sluice and nginx"),
    }
}

fn command(plan: &Plan<'_>, program: &Path) -> Command {
    if plan.pinned { pinned(program) } else { Command::new(program) }
}

fn sluice(name: &'static str, plan: &Plan<'_>, home: &Path) -> Result<Peer> {
    let program = plan.program.context("no binary; `cargo xtask crs` builds it")?;
    std::fs::create_dir_all(home.join("conf"))?;
    let port = ports::free(&[std::net::Ipv4Addr::LOCALHOST])?;
    let config = json!({
        "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": port}], "enable_control": false},
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": 1, "error_log": "operator.log", "error_log_level": "warn",
            "http": {"enable_access_log": false, "keepalive_timeout": "300s"}},
        "sluice": {"limits": {"requests_per_connection": 100_000_000}},
        "plugin_attr": {"prometheus": {"enable_export_server": false}},
    });
    let mut route = json!({"id": "all", "uri": "/*", "upstream_id": "u", "plugins": {}});
    if let Some(directives) = plan.directives {
        route["plugins"]["coraza"] = json!({"directives_map": {"crs": directives}, "default_directives": "crs"});
    }
    // `OPTIONS *` has no path of its own.
    let resources: Value = json!({"routes": [route], "upstreams": [{"id": "u", "type": "roundrobin",
        "nodes": {format!("127.0.0.1:{}", plan.upstream): 1},
        "keepalive_pool": {"size": 256, "idle_timeout": 300, "requests": 100_000_000}}]});
    std::fs::write(home.join("conf/config.yaml"), serde_json::to_string_pretty(&config)?)?;
    std::fs::write(home.join("conf/apisix.yaml"), format!("{resources}\n#END\n"))?;
    let mut command = command(plan, program);
    command.arg("run").arg("-c").arg(home.join("conf/config.yaml")).arg("--data-dir").arg(home.join("data"));
    command.current_dir(home);
    Peer::start(name, home, port, port, command)
}

fn nginx(name: &'static str, plan: &Plan<'_>, home: &Path) -> Result<Peer> {
    let program = find("nginx").context("not installed (Debian: nginx-light)")?;
    let port = ports::free(&[std::net::Ipv4Addr::LOCALHOST])?;
    let (root, upstream) = (home.display(), plan.upstream);
    let (mut load, mut rules) = (String::new(), String::new());
    if let Some(directives) = plan.directives {
        if !PathBuf::from(MODULE).is_file() {
            bail!("{MODULE} is missing (Debian: libnginx-mod-http-modsecurity)");
        }
        let file = home.join("rules.conf");
        std::fs::write(&file, directives.join("\n"))?;
        load = format!("load_module {MODULE};");
        rules = format!("modsecurity on; modsecurity_rules_file {};", file.display());
    }
    // The corpus needs its log at `info`, figures want none. Its worker must reach the audit log as our user.
    let level = if plan.pinned { "crit" } else { "info" };
    let config = format!(
        "{load} user root; worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/operator.log {level};
worker_rlimit_nofile 40000;
events {{ worker_connections 16384; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 100000000; client_max_body_size 64m;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  client_body_buffer_size 64k; proxy_buffer_size 8k; proxy_buffers 16 8k;
  upstream u {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{
    listen 127.0.0.1:{port}; {rules}
    location / {{
      proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"
    );
    let file = home.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = command(plan, &program);
    command.arg("-e").arg(home.join("operator.log")).arg("-c").arg(&file);
    Peer::start(name, home, port, port, command)?.count_children()
}
