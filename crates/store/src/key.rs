//! The name of a stored object: its etcd key below the prefix, such as `routes/1` or `consumers/jack/credentials/7`
//! (apisix/admin/resource.lua). The surprise: other keys are stored beside resources (`plugins`), so a key need not
//! have a [`Kind`].
use serde::{Deserialize, Serialize};
use sluice_model::Kind;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

/// What APISIX writes when the list of plugins is to be loaded anew (apisix/admin/init.lua).
pub const PLUGINS: &str = "plugins";

impl Key {
    /// `id`: of a credential `<consumer>/credentials/<id>` (and so of all that stands below something), of a secret `<manager>/<id>`.
    pub fn of(kind: Kind, id: &str) -> Key {
        let dir = kind.parent().unwrap_or(kind).dir();
        Key(format!("{dir}/{id}").into())
    }

    /// The key as it is stored, without prefix.
    pub fn raw(path: &str) -> Key {
        Key(path.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Kind and id, if it is a resource's key.
    pub fn resource(&self) -> Option<(Kind, &str)> {
        let (dir, id) = self.0.split_once('/')?;
        let kind = Kind::from_dir(dir).filter(|kind| kind.parent().is_none() && !id.is_empty())?;
        Some((kind.of_id(id), id))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_kinds_and_ids() {
        for (kind, id, path) in [
            (Kind::Route, "1", "routes/1"),
            (Kind::Credential, "jack/credentials/a", "consumers/jack/credentials/a"),
            (Kind::Consumer, "jack", "consumers/jack"),
            (
                Kind::GraphqlCostDecoration,
                "shop/graphql_cost_decorations/d",
                "services/shop/graphql_cost_decorations/d",
            ),
            (Kind::Secret, "vault/1", "secrets/vault/1"),
        ] {
            let key = Key::of(kind, id);
            assert_eq!(key.as_str(), path);
            assert_eq!(key.resource(), Some((kind, id)));
        }
        for other in ["plugins", "credentials/1", "routes/", "data_plane/server_info/x"] {
            assert_eq!(Key::raw(other).resource(), None, "{other}");
        }
    }
}
