//! The `deployment` section (apisix/cli/schema.lua, file.lua). The surprise: role `traditional` with
//! `config_provider: yaml` and the Admin API on is APISIX's API-driven standalone mode, not the watched file.

use super::apisix::network;
use super::listen::address_of;
use crate::environment::Environment;
use crate::section::Section;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Traditional,
    ControlPlane,
    DataPlane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigProvider {
    Etcd,
    /// apisix.yaml beside config.yaml.
    Yaml,
    /// apisix.json beside config.yaml.
    Json,
}

#[derive(Clone, Debug, Serialize)]
pub struct Deployment {
    pub role: Role,
    pub config_provider: ConfigProvider,
    pub admin: Admin,
    pub etcd: Etcd,
}

#[derive(Clone, Debug, Serialize)]
pub struct Admin {
    pub listen: SocketAddr,
    pub admin_key_required: bool,
    pub admin_key: Vec<AdminKey>,
    pub enable_admin_cors: bool,
    pub enable_admin_ui: bool,
    /// Peers that may use the Admin API; empty: any.
    pub allow_admin: Vec<IpNet>,
    pub https_admin: bool,
    /// `admin_api_version`
    pub v3: bool,
    pub admin_ssl_cert: Option<String>,
    pub admin_ssl_cert_key: Option<String>,
    pub admin_ssl_ca_cert: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AdminKey {
    pub name: String,
    #[serde(skip)]
    pub key: String,
    /// "admin" or "viewer".
    pub role: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Etcd {
    /// `deployment.etcd` is there, or the environment names hosts; else the configuration is kept on this machine.
    pub configured: bool,
    pub host: Vec<String>,
    pub prefix: String,
    pub timeout: Duration,
    pub watch_timeout: Duration,
    pub resync_delay: Duration,
    pub health_check_timeout: Duration,
    pub startup_retry: u64,
    pub user: Option<String>,
    #[serde(skip)]
    pub password: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    pub verify: bool,
    pub sni: Option<String>,
}

pub(super) fn read(s: &Section<'_>, environment: &Environment) -> Deployment {
    // "standalone" is in APISIX's list of roles, without a meaning of its own: there it runs as traditional with etcd.
    let roles = [
        ("traditional", Role::Traditional),
        ("control_plane", Role::ControlPlane),
        ("data_plane", Role::DataPlane),
        ("standalone", Role::Traditional),
    ];
    let role = s.choice("role", &roles, Role::Traditional);
    let (etcd, yaml, json) =
        (("etcd", ConfigProvider::Etcd), ("yaml", ConfigProvider::Yaml), ("json", ConfigProvider::Json));
    let provider = |key: &'static str, words: &[(&'static str, ConfigProvider)], mine: bool| {
        let section = s.section(key);
        if mine
            && role == Role::DataPlane
            && section.is_present()
            && section.field("config_provider").is_none()
            && let Some(field) = s.field(key)
        {
            field.error("config_provider is missing");
        }
        let provider = section.choice("config_provider", words, ConfigProvider::Etcd);
        section.finish();
        mine.then_some(provider)
    };
    let traditional = provider("role_traditional", &[etcd, yaml], role == Role::Traditional);
    let control = provider("role_control_plane", &[etcd], role == Role::ControlPlane);
    let data = provider("role_data_plane", &[etcd, yaml, json], role == Role::DataPlane);
    let config_provider = traditional.or(control).or(data).unwrap_or(ConfigProvider::Etcd);
    if role == Role::DataPlane
        && !s.section("role_data_plane").is_present()
        && let Some(field) = s.field("role")
    {
        field.error("role data_plane needs role_data_plane.config_provider");
    }
    let deployment = Deployment {
        role,
        config_provider,
        admin: read_admin(s.section("admin")),
        etcd: read_etcd(s.section("etcd"), environment),
    };
    s.ignore(&["certs"], "the certificates of etcd are configured under deployment.etcd.tls");
    s.finish();
    deployment
}

fn read_admin(s: Section<'_>) -> Admin {
    let listen = s.section("admin_listen");
    let ip = listen.field("ip").and_then(|field| address_of(&field)).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let port = listen.port("port").unwrap_or(9180);
    listen.finish();
    let mut admin_key = Vec::new();
    match s.items("admin_key") {
        None => admin_key.push(AdminKey { name: "admin".to_owned(), key: String::new(), role: "admin".to_owned() }),
        Some(items) => {
            for item in items {
                let entry = item.section();
                // A key of digits is a number in YAML.
                let key = match entry.field("key").map(|field| field.value.clone()) {
                    Some(Value::String(key)) => key,
                    Some(Value::Number(key)) => key.to_string(),
                    _ => String::new(),
                };
                let role = entry.choice("role", &[("admin", "admin"), ("viewer", "viewer")], "viewer");
                admin_key.push(AdminKey { name: entry.string("name", ""), key, role: role.to_owned() });
                entry.finish();
            }
        }
    }
    let mut allow_admin = Vec::new();
    match s.items("allow_admin") {
        None if s.is_removed("allow_admin") => {}
        None => allow_admin.extend(network("127.0.0.0/24")),
        Some(items) => {
            for item in items {
                match item.value.as_str().and_then(network) {
                    Some(network) => allow_admin.push(network),
                    None => item.expected("an IP address or a network such as 10.0.0.0/8"),
                }
            }
        }
    }
    let mtls = s.section("admin_api_mtls");
    let file = |key| mtls.optional_string(key).filter(|path| !path.is_empty());
    let admin = Admin {
        listen: SocketAddr::new(ip, port),
        // `admin_key: null` takes the keys away, and with them the question (apisix/admin/init.lua `check_token`).
        admin_key_required: s.boolean("admin_key_required", true) && !s.is_removed("admin_key"),
        admin_key,
        enable_admin_cors: s.boolean("enable_admin_cors", true),
        enable_admin_ui: s.boolean("enable_admin_ui", true),
        allow_admin,
        https_admin: s.boolean("https_admin", false),
        // Any other word is the older form (apisix/admin/v3_adapter.lua).
        v3: s.string("admin_api_version", "v3") == "v3",
        admin_ssl_cert: file("admin_ssl_cert"),
        admin_ssl_cert_key: file("admin_ssl_cert_key"),
        admin_ssl_ca_cert: file("admin_ssl_ca_cert"),
    };
    mtls.finish();
    if admin.https_admin
        && (admin.admin_ssl_cert.is_none() || admin.admin_ssl_cert_key.is_none())
        && let Some(field) = s.field("https_admin")
    {
        field.error("needs admin_api_mtls.admin_ssl_cert and admin_ssl_cert_key");
    }
    s.finish();
    admin
}

fn read_etcd(s: Section<'_>, environment: &Environment) -> Etcd {
    let mut configured = s.is_present();
    let mut host = Vec::new();
    match s.items("host") {
        None => host.push("http://127.0.0.1:2379".to_owned()),
        Some(items) => {
            if let (true, Some(field)) = (items.is_empty(), s.field("host")) {
                field.expected("at least one address");
            }
            for item in items {
                match item.value.as_str().filter(|url| url.starts_with("http://") || url.starts_with("https://")) {
                    Some(url) => host.push(url.to_owned()),
                    None => item.expected("an address that begins with http:// or https://"),
                }
            }
        }
    }
    // The one variable that APISIX reads without being asked to (file.lua, replace_by_reserved_env_vars).
    if let Some(hosts) = environment.get("APISIX_DEPLOYMENT_ETCD_HOST")
        && let Ok(hosts) = serde_json::from_str::<Vec<String>>(&hosts)
    {
        host = hosts;
        configured = true;
    }
    let tls = s.section("tls");
    let etcd = Etcd {
        configured,
        host,
        prefix: s.string("prefix", "/apisix"),
        timeout: Duration::from_secs(s.integer("timeout", 1..=u64::MAX, 30)),
        watch_timeout: Duration::from_secs(s.integer("watch_timeout", 1..=u64::MAX, 50)),
        resync_delay: Duration::from_secs(s.integer("resync_delay", 0..=u64::MAX, 5)),
        health_check_timeout: Duration::from_secs(
            s.field("health_check_timeout").and_then(|field| field.value.as_u64()).unwrap_or(10),
        ),
        startup_retry: s.integer("startup_retry", 0..=u64::MAX, 2),
        user: s.optional_string("user"),
        password: s.optional_string("password"),
        cert: tls.optional_string("cert"),
        key: tls.optional_string("key"),
        verify: tls.boolean("verify", true),
        sni: tls.optional_string("sni"),
    };
    tls.finish();
    s.finish();
    etcd
}
