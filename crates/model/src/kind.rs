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
    /// What a field of a service's GraphQL schema costs (apisix/admin/graphql_cost_decorations.lua).
    GraphqlCostDecoration,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; 14] = [
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
        Kind::GraphqlCostDecoration,
    ];

    /// Directory below the etcd prefix, key in `apisix.yaml` and path segment of the Admin API. Credentials are
    /// stored below their consumer (`consumers/<name>/credentials/<id>`), cost decorations below their service.
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
            Kind::GraphqlCostDecoration => "graphql_cost_decorations",
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
            Kind::GraphqlCostDecoration => "graphql cost decoration",
        }
    }

    /// The kind that an object of this kind stands below: its key is `<parent's dir>/<parent>/<dir>/<id>`, and with the
    /// parent it goes.
    pub const fn parent(self) -> Option<Kind> {
        match self {
            Kind::Credential => Some(Kind::Consumer),
            Kind::GraphqlCostDecoration => Some(Kind::Service),
            _ => None,
        }
    }

    /// The kind that stands below this one.
    pub const fn child(self) -> Option<Kind> {
        match self {
            Kind::Consumer => Some(Kind::Credential),
            Kind::Service => Some(Kind::GraphqlCostDecoration),
            _ => None,
        }
    }

    /// The kind of an object in this kind's directory: `jack/credentials/1` among consumers is a credential.
    pub fn of_id(self, id: &str) -> Kind {
        let below = |child: Kind| id.split('/').nth(1) == Some(child.dir());
        self.child().filter(|child| below(*child)).unwrap_or(self)
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
        assert_eq!(Kind::Consumer.of_id("jack/credentials/1"), Kind::Credential);
        assert_eq!(Kind::Consumer.of_id("credentials"), Kind::Consumer);
        assert_eq!(Kind::Service.of_id("shop/graphql_cost_decorations/d1"), Kind::GraphqlCostDecoration);
        assert_eq!(Kind::Route.of_id("a/credentials/1"), Kind::Route);
        for kind in Kind::ALL.into_iter().filter(|kind| kind.parent().is_some()) {
            assert_eq!(kind.parent().and_then(Kind::child), Some(kind));
        }
    }
}
