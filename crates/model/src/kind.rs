//! The kinds of resources, by the names that APISIX gives them in etcd keys, files and messages. Surprise: the name
//! used in messages is not always the directory's singular ("plugin config" against "plugin_configs").

/// A kind of resource (apisix/constants.lua, apisix/admin/*.lua).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Route,
    Service,
    Upstream,
    Consumer,
    Credential,
    ConsumerGroup,
    PluginConfig,
    GlobalRule,
    PluginMetadata,
    Ssl,
    Proto,
    Secret,
    StreamRoute,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; 13] = [
        Kind::Route,
        Kind::Service,
        Kind::Upstream,
        Kind::Consumer,
        Kind::Credential,
        Kind::ConsumerGroup,
        Kind::PluginConfig,
        Kind::GlobalRule,
        Kind::PluginMetadata,
        Kind::Ssl,
        Kind::Proto,
        Kind::Secret,
        Kind::StreamRoute,
    ];

    /// Directory below the etcd prefix, key in `apisix.yaml` and path segment of the Admin API. Credentials are
    /// stored below their consumer (`consumers/<name>/credentials/<id>`).
    pub const fn dir(self) -> &'static str {
        match self {
            Kind::Route => "routes",
            Kind::Service => "services",
            Kind::Upstream => "upstreams",
            Kind::Consumer => "consumers",
            Kind::Credential => "credentials",
            Kind::ConsumerGroup => "consumer_groups",
            Kind::PluginConfig => "plugin_configs",
            Kind::GlobalRule => "global_rules",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::Ssl => "ssls",
            Kind::Proto => "protos",
            Kind::Secret => "secrets",
            Kind::StreamRoute => "stream_routes",
        }
    }

    /// The reverse of [`Kind::dir`].
    pub fn from_dir(dir: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.dir() == dir)
    }

    /// The name used in messages ("missing stream route id").
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Route => "route",
            Kind::Service => "service",
            Kind::Upstream => "upstream",
            Kind::Consumer => "consumer",
            Kind::Credential => "credential",
            Kind::ConsumerGroup => "consumer group",
            Kind::PluginConfig => "plugin config",
            Kind::GlobalRule => "global rule",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::Ssl => "ssl",
            Kind::Proto => "proto",
            Kind::Secret => "secret",
            Kind::StreamRoute => "stream route",
        }
    }

    /// Whether the Admin API requires an id in the path or the body (apisix/admin/resource.lua: `no_id_res`).
    pub const fn needs_id(self) -> bool {
        !matches!(self, Kind::Consumer | Kind::PluginMetadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_are_reversible() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_dir(kind.dir()), Some(kind));
        }
        assert_eq!(Kind::from_dir("ssl"), None);
        assert_eq!(Kind::StreamRoute.name(), "stream route");
    }
}
