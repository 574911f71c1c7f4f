//! What `chash` hashes: `hash_on` and `key` (apisix/balancer/chash.lua), resolved to variables once.
//!
//! The surprise: only a missing value falls back to `remote_addr`; a present but empty header is hashed as it is.
//! `vars_combinations` falls back when none of its variables had a value.
use sluice_expr::{Lookup, Template, Variable};

/// An upstream's `hash_on`: APISIX's names, and ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    #[default]
    Vars,
    Header,
    Cookie,
    Consumer,
    VarsCombinations,
    /// Ours: `remote_addr`, without a key.
    ClientIp,
    /// Ours: the argument that `key` names.
    QueryArg,
    /// Ours: the path, without a key.
    Uri,
}

impl HashOn {
    /// By its name.
    pub fn parse(name: &str) -> Option<HashOn> {
        Some(match name {
            "vars" => HashOn::Vars,
            "header" => HashOn::Header,
            "cookie" => HashOn::Cookie,
            "consumer" => HashOn::Consumer,
            "vars_combinations" => HashOn::VarsCombinations,
            "client_ip" => HashOn::ClientIp,
            "query_arg" => HashOn::QueryArg,
            "uri" => HashOn::Uri,
            _ => return None,
        })
    }
}

/// `hash_on` and `key`, compiled.
#[derive(Clone, Debug)]
pub struct HashKey(Source);

#[derive(Clone, Debug)]
enum Source {
    Variable(Variable),
    Template(Template),
}

impl Default for HashKey {
    /// `remote_addr`
    fn default() -> Self {
        HashKey(Source::Variable(Variable::parse("remote_addr")))
    }
}

impl HashKey {
    /// `key` as configured; ignored for `consumer`, `client_ip` and `uri`.
    pub fn compile(hash_on: HashOn, key: &str) -> HashKey {
        HashKey(match hash_on {
            HashOn::Vars => Source::Variable(Variable::parse(key)),
            HashOn::Header => Source::Variable(Variable::Http(key.to_ascii_lowercase().replace('_', "-").into())),
            HashOn::Cookie => Source::Variable(Variable::Cookie(key.into())),
            HashOn::Consumer => Source::Variable(Variable::ConsumerName),
            HashOn::ClientIp => return HashKey::default(),
            HashOn::QueryArg => Source::Variable(Variable::Arg(key.into())),
            HashOn::Uri => Source::Variable(Variable::Uri),
            // without a variable nothing is resolved, so the address is used
            HashOn::VarsCombinations if !key.contains('$') => return HashKey::default(),
            HashOn::VarsCombinations => Source::Template(Template::compile(key)),
        })
    }
}

/// Appends the bytes to hash to `out`.
pub fn hash_key(key: &HashKey, lookup: &dyn Lookup, out: &mut Vec<u8>) {
    match &key.0 {
        Source::Variable(variable) => {
            if let Some(value) = lookup.variable(variable) {
                return value.write_to(out);
            }
        }
        Source::Template(template) => {
            let start = out.len();
            if template.render_into(lookup, "", out) > 0 {
                return;
            }
            out.truncate(start);
        }
    }
    if let Some(value) = lookup.variable(&Variable::RemoteAddr) {
        value.write_to(out);
    }
}

#[cfg(test)]
mod tests {
    use sluice_expr::Value;

    use super::*;

    struct Map(Vec<(Variable, &'static str)>);
    impl Lookup for Map {
        fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
            self.0.iter().find(|(name, _)| name == variable).map(|(_, value)| Value::str(value))
        }
    }

    fn key(hash_on: HashOn, key: &str) -> String {
        let map = Map(vec![
            (Variable::RemoteAddr, "10.0.0.1"),
            (Variable::Http("x-user".into()), "jack"),
            (Variable::Http("x-empty".into()), ""),
            (Variable::Cookie("Sid".into()), "c1"),
            (Variable::ConsumerName, "joe"),
            (Variable::Arg("a".into()), "1"),
            (Variable::Uri, "/path"),
        ]);
        let mut out = Vec::new();
        hash_key(&HashKey::compile(hash_on, key), &map, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sources() {
        assert_eq!(key(HashOn::Vars, "remote_addr"), "10.0.0.1");
        assert_eq!(key(HashOn::Vars, "arg_a"), "1");
        assert_eq!(key(HashOn::Header, "X-User"), "jack");
        assert_eq!(key(HashOn::Header, "X_User"), "jack");
        assert_eq!(key(HashOn::Cookie, "Sid"), "c1");
        assert_eq!(key(HashOn::Consumer, ""), "joe");
        assert_eq!(key(HashOn::VarsCombinations, "$http_x_user-$arg_a"), "jack-1");
        assert_eq!(key(HashOn::ClientIp, ""), "10.0.0.1");
        assert_eq!(key(HashOn::QueryArg, "a"), "1");
        assert_eq!(key(HashOn::Uri, ""), "/path");
    }

    #[test]
    fn missing_values_fall_back_to_the_address() {
        assert_eq!(key(HashOn::Vars, "arg_b"), "10.0.0.1");
        assert_eq!(key(HashOn::Header, "X-Other"), "10.0.0.1");
        assert_eq!(key(HashOn::Cookie, "sid"), "10.0.0.1");
        assert_eq!(key(HashOn::VarsCombinations, "plain"), "10.0.0.1");
        assert_eq!(key(HashOn::VarsCombinations, "$arg_b-$arg_c"), "10.0.0.1");
        // one is enough, and emptiness is a value
        assert_eq!(key(HashOn::VarsCombinations, "$arg_b-$arg_a"), "-1");
        assert_eq!(key(HashOn::Header, "X-Empty"), "");
    }
}
