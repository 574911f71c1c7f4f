//! Which ssl object answers for a server name, and which of its certificates.
//! The one surprise: a wildcard covers exactly one label (apisix/ssl/router/radixtree_sni.lua), and `*` covers all.
use foldhash::HashMap;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::borrow::Cow;
use std::sync::Arc;

/// Names to values, exact before `*.rest` before `*`. The first to claim a name keeps it.
#[derive(Debug)]
pub(super) struct SniMap<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T: Clone> SniMap<T> {
    pub(super) fn new() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default(), any: None }
    }

    /// `false` if another value has this name already.
    pub(super) fn add(&mut self, name: &str, value: &T) -> bool {
        let name = normal(name);
        if name == "*" {
            let free = self.any.is_none();
            self.any.get_or_insert_with(|| value.clone());
            return free;
        }
        let (map, key) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, &*name),
        };
        let mut fresh = false;
        map.entry(key.into()).or_insert_with(|| {
            fresh = true;
            value.clone()
        });
        fresh
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        let name = normal(name);
        self.exact
            .get(&*name)
            .or_else(|| {
                name.split_once('.').and_then(
                    |(label, rest)| {
                        if label.is_empty() { None } else { self.wildcard.get(rest) }
                    },
                )
            })
            .or(self.any.as_ref())
    }
}

/// Lower case, without the dot at the end.
fn normal(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// The certificates of one ssl object: the first the client can check, elliptic curves before RSA (they sign in a
/// fraction of the time).
#[derive(Debug)]
pub(super) struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    pub(super) fn new(mut keys: Vec<Arc<CertifiedKey>>) -> Self {
        keys.sort_by_key(|k| k.key.algorithm() == SignatureAlgorithm::RSA);
        Self(keys)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        self.0.iter().find(|k| k.key.choose_scheme(schemes).is_some()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_then_wildcard_of_one_label_then_any() {
        let mut m = SniMap::new();
        assert!(m.add("a.example.com", &1));
        assert!(m.add("*.Example.com.", &2));
        assert!(m.add("*.b.example.com", &3));
        assert!(!m.add("A.example.com", &9));
        let get = |m: &SniMap<i32>, n: &str| m.get(n).copied();
        assert_eq!(get(&m, "A.example.COM."), Some(1));
        assert_eq!(get(&m, "x.example.com"), Some(2));
        assert_eq!(get(&m, "x.b.example.com"), Some(3));
        for none in ["example.com", ".example.com", "x.y.example.com", "example.org", ""] {
            assert_eq!(get(&m, none), None, "{none}");
        }
        assert!(m.add("*", &4) && !m.add("*", &5));
        assert_eq!(get(&m, "x.y.example.com"), Some(4));
        assert_eq!(get(&m, "x.example.com"), Some(2));
    }
}
