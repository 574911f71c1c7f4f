//! Which keys of etcd mean what. The surprise: APISIX keeps an entry `<prefix>/routes/` with the value `init_dir` for
//! every directory and cannot start without (apisix/cli/etcd.lua); they are made, and never taken for objects.
use crate::key::{Key, PLUGINS};

/// The value of a directory's entry.
pub(crate) const DIRECTORY_VALUE: &str = "init_dir";

/// apisix/constants.lua, HTTP_ETCD_DIRECTORY and STREAM_ETCD_DIRECTORY.
const DIRECTORIES: [&str; 13] = [
    "consumer_groups",
    "consumers",
    "global_rules",
    "plugin_configs",
    "plugin_metadata",
    "plugins",
    "protos",
    "routes",
    "secrets",
    "services",
    "ssls",
    "stream_routes",
    "upstreams",
];

/// Makes and reads full keys.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// With the slash at its end.
    root: String,
    records: String,
    bodies: String,
}

impl Layout {
    pub fn new(prefix: &str) -> Layout {
        // As it is: APISIX does not take a slash from its end either.
        Layout {
            root: format!("{prefix}/"),
            records: format!("{prefix}_sluice/revisions/"),
            bodies: format!("{prefix}_sluice/bodies/"),
        }
    }

    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn full(&self, key: &Key) -> Vec<u8> {
        format!("{}{key}", self.root).into_bytes()
    }

    /// The object's key, if it is one: a resource, or the list of plugins. Directories' entries, the reports of data
    /// planes (`data_plane/server_info/…`) and the counter for new ids (`gen_id`) are none.
    pub fn key(&self, full: &[u8]) -> Option<Key> {
        let key = Key::raw(std::str::from_utf8(full).ok()?.strip_prefix(&self.root)?);
        let counts = key.as_str() == PLUGINS || (key.resource().is_some() && !key.as_str().ends_with('/'));
        counts.then_some(key)
    }

    pub fn directories(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        DIRECTORIES.iter().map(|dir| format!("{}{dir}/", self.root).into_bytes())
    }

    /// Records of the history: who, when and which keys. They are outside APISIX's prefix, which it watches whole.
    pub fn records(&self) -> &str {
        &self.records
    }

    /// The texts before and after, under the record's id: a listing does not read them.
    pub fn bodies(&self) -> &str {
        &self.bodies
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's word for "to the last key".
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_from_what_lies_beside_them() {
        let layout = Layout::new("/apisix");
        for object in ["routes/1", "plugins", "secrets/vault/1", "consumers/jack/credentials/a"] {
            assert_eq!(layout.key(format!("/apisix/{object}").as_bytes()), Some(Key::raw(object)));
            assert_eq!(layout.full(&Key::raw(object)), format!("/apisix/{object}").as_bytes());
        }
        for other in
            ["/apisix/routes/", "/apisix/plugins/", "/apisix/gen_id", "/apisix/data_plane/server_info/x", "/b/routes/1"]
        {
            assert_eq!(layout.key(other.as_bytes()), None, "{other}");
        }
        assert_eq!(layout.key(b"/apisix/routes/\xff"), None);
        assert!(layout.directories().any(|key| key == b"/apisix/plugin_configs/"));
        assert!(!layout.records().starts_with(layout.root()));
    }

    #[test]
    fn a_range_ends_behind_its_prefix() {
        assert_eq!(end_of(b"/apisix/"), b"/apisix0");
        assert_eq!(end_of(b"a\xff"), b"b");
        assert_eq!(end_of(b"\xff"), [0]);
    }
}
