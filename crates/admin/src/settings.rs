//! What of config.yaml the Admin API needs.
use ipnet::IpNet;
use sluice_secret::Keyring;
use std::sync::Arc;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Admin,
    /// Reading only.
    Viewer,
}

#[derive(Clone)]
pub struct AdminKey {
    pub name: String,
    pub key: String,
    pub role: Role,
}

/// Keys are not shown.
impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.name, self.role)
    }
}

#[derive(Clone, Debug)]
pub struct AdminSettings {
    pub keys: Vec<AdminKey>,
    /// `admin_key_required`; false: anybody is an admin.
    pub key_required: bool,
    /// `allow_admin`; empty: any address.
    pub allow: Vec<IpNet>,
    /// `enable_admin_cors`
    pub cors: bool,
    /// `admin_api_version: v3`; else the older form of answers.
    pub v3: bool,
    /// The `Server` header.
    pub server: String,
    /// The prefix of keys in answers: etcd's, `/apisix`.
    pub prefix: String,
    /// `apisix.proxy_mode` includes stream.
    pub stream: bool,
    /// `plugins` and `stream_plugins` of config.yaml, in its order; None: all.
    pub plugins: Option<Vec<String>>,
    pub stream_plugins: Option<Vec<String>>,
    /// API-driven standalone mode: the configuration is exchanged as a whole.
    pub api_driven: bool,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Bytes of a request that brings many objects: a transaction, a whole configuration.
    pub max_whole_body: usize,
    /// Operations of a transaction.
    pub max_operations: usize,
    /// What is encrypted at rest, and with which keys.
    pub keyring: Arc<Keyring>,
    /// `xrpc.protocols`: what stream routes may name as their protocol.
    pub protocols: Vec<String>,
}

impl Default for AdminSettings {
    fn default() -> AdminSettings {
        AdminSettings {
            keys: Vec::new(),
            key_required: true,
            allow: Vec::new(),
            cors: true,
            v3: true,
            server: String::from("APISIX"),
            prefix: String::from("/apisix"),
            stream: false,
            plugins: None,
            stream_plugins: None,
            api_driven: false,
            // apisix/admin/init.lua, MAX_REQ_BODY
            max_body: 1536 * 1024,
            max_whole_body: 256 << 20,
            max_operations: 200_000,
            keyring: Arc::default(),
            protocols: Vec::new(),
        }
    }
}
