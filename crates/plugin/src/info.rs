//! What a plugin says of itself: name, priority, phases, where it may be configured.

/// The phases of a request, in the order in which they run (docs: ARCHITECTURE.md, "The way of a request").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Rewrite,
    Access,
    BeforeProxy,
    HeaderFilter,
    BodyFilter,
    Log,
}

impl Phase {
    pub const ALL: [Phase; 6] =
        [Phase::Rewrite, Phase::Access, Phase::BeforeProxy, Phase::HeaderFilter, Phase::BodyFilter, Phase::Log];

    /// APISIX's name of the phase.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Rewrite => "rewrite",
            Phase::Access => "access",
            Phase::BeforeProxy => "before_proxy",
            Phase::HeaderFilter => "header_filter",
            Phase::BodyFilter => "body_filter",
            Phase::Log => "log",
        }
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    pub const REWRITE: Phases = Phases(1 << Phase::Rewrite as u8);
    pub const ACCESS: Phases = Phases(1 << Phase::Access as u8);
    pub const BEFORE_PROXY: Phases = Phases(1 << Phase::BeforeProxy as u8);
    pub const HEADER_FILTER: Phases = Phases(1 << Phase::HeaderFilter as u8);
    pub const BODY_FILTER: Phases = Phases(1 << Phase::BodyFilter as u8);
    pub const LOG: Phases = Phases(1 << Phase::Log as u8);
    /// A plugin that only holds configuration (or serves an endpoint) and runs in no phase.
    pub const NONE: Phases = Phases(0);

    /// All phases.
    pub const ALL: Phases = Phases(0b11_1111);

    /// Both sets.
    pub const fn and(self, other: Phases) -> Phases {
        Phases(self.0 | other.0)
    }
    pub const fn has(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Where a plugin's configuration is being checked (APISIX: `core.schema.TYPE_CONSUMER`, `TYPE_METADATA`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// On a route, service, plugin config, global rule, consumer group, or (not an auth plugin) consumer.
    Route,
    /// An auth plugin on a consumer or credential: its secrets.
    Consumer,
    /// `plugin_metadata`.
    Metadata,
    /// A stream plugin on a stream route or its service.
    Stream,
}

/// The constant part of a plugin's definition.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// APISIX's name.
    pub name: &'static str,
    /// As `/v1/schema` tells it; APISIX's figure where the plugin is APISIX's.
    pub version: f64,
    /// Higher runs first. APISIX's figure where the plugin is APISIX's.
    pub priority: i32,
    /// The phases in which it has hooks. A hook without its phase here never runs.
    pub phases: Phases,
    /// Finds the consumer of a request (APISIX: `type = "auth"`).
    pub auth: bool,
    /// Checks requests and does nothing else (APISIX: `type = "validation"`); only `/v1/schema` tells.
    pub validation: bool,
    /// Fields of the configuration that are secrets: encrypted at rest, masked in logs (APISIX: `encrypt_fields`).
    pub secrets: &'static [&'static str],
    /// The plugin may read the request's body: before its first hook, [`crate::Plugin::wants_request_body`] is asked.
    pub request_body: bool,
    /// Global rules skip the plugin where the route configures it too (APISIX: `run_policy = "prefer_route"`).
    pub prefer_route: bool,
    /// It encodes response bodies (compression): its `header_filter` and `body_filter` run after those of all other plugins
    /// of the request's chains, whatever its priority, as nginx's own filters run after Lua's.
    pub encodes: bool,
    /// Its build may refuse a configuration that its schema and its check allow, because of others that are in force: the
    /// Admin API builds it before it stores the configuration.
    pub refuses: bool,
    /// It is for the whole gateway and not configured on objects, as `/v1/schema` tells (APISIX: `scope = "global"`).
    pub global: bool,
    /// It reads [`crate::RouteInfo::objects`], which routes carry only for such plugins.
    pub objects: bool,
}

impl Info {
    /// A plugin with nothing special; refine with struct update syntax or the methods below.
    pub const fn new(name: &'static str, priority: i32, phases: Phases) -> Info {
        Info {
            name,
            version: 0.1,
            priority,
            phases,
            auth: false,
            validation: false,
            secrets: &[],
            request_body: false,
            prefer_route: false,
            encodes: false,
            refuses: false,
            global: false,
            objects: false,
        }
    }
    pub const fn version(self, version: f64) -> Info {
        Info { version, ..self }
    }
    pub const fn auth(self) -> Info {
        Info { auth: true, ..self }
    }
    pub const fn validation(self) -> Info {
        Info { validation: true, ..self }
    }
    pub const fn secrets(self, secrets: &'static [&'static str]) -> Info {
        Info { secrets, ..self }
    }
    pub const fn request_body(self) -> Info {
        Info { request_body: true, ..self }
    }
    pub const fn prefer_route(self) -> Info {
        Info { prefer_route: true, ..self }
    }
    pub const fn refuses(self) -> Info {
        Info { refuses: true, ..self }
    }
    pub const fn global(self) -> Info {
        Info { global: true, ..self }
    }
    pub const fn objects(self) -> Info {
        Info { objects: true, ..self }
    }
    pub const fn encodes(self) -> Info {
        Info { encodes: true, ..self }
    }
}
