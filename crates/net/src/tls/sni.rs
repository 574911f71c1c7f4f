//! Which ssl object answers for a server name, and which of its certificates.
//! The one surprise: a wildcard covers exactly one label (apisix/ssl/router/radixtree_sni.lua), and `*` covers all.
use arc_swap::ArcSwap;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sluice_parts::Parts;
use std::borrow::Cow;
use std::sync::Arc;

/// Who claims a name, in the order of the claimants: the first has it.
type Claims<T> = Vec<(Arc<str>, T)>;

/// Names to values, exact before `*.rest` before `*`. Cloning shares everything; a change copies little.
#[derive(Clone, Debug)]
pub struct SniMap<T> {
    exact: Parts<Claims<T>>,
    /// By what follows `*.`.
    wildcard: Parts<Claims<T>>,
    any: Claims<T>,
}

impl<T: Clone> Default for SniMap<T> {
    fn default() -> Self {
        Self { exact: Parts::default(), wildcard: Parts::default(), any: Vec::new() }
    }
}

impl<T: Clone> SniMap<T> {
    /// `false` if another claimant has this name.
    pub fn add(&mut self, name: &str, by: &Arc<str>, value: &T) -> bool {
        let mut first = true;
        self.change(name, |claims| {
            claims.retain(|(id, _)| id != by);
            let at = claims.iter().position(|(id, _)| id > by).unwrap_or(claims.len());
            first = claims.is_empty();
            claims.insert(at, (by.clone(), value.clone()));
        });
        first
    }

    /// Takes a claim away; the next in turn has the name then.
    pub fn remove(&mut self, name: &str, by: &str) {
        self.change(name, |claims| claims.retain(|(id, _)| **id != *by));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Claims<T>)) {
        let name = normal(name);
        if name == "*" {
            return change(&mut self.any);
        }
        let (map, key) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, &*name),
        };
        let mut claims = map.get(key).cloned().unwrap_or_default();
        change(&mut claims);
        if claims.is_empty() {
            map.remove(key);
        } else {
            map.insert(key.into(), claims);
        }
    }

    /// Who has the name.
    pub fn get(&self, name: &str) -> Option<&T> {
        let name = normal(name);
        self.exact
            .get(&name)
            .or_else(|| {
                name.split_once('.').and_then(
                    |(label, rest)| {
                        if label.is_empty() { None } else { self.wildcard.get(rest) }
                    },
                )
            })
            .or(Some(&self.any))
            .and_then(|claims| claims.first())
            .map(|(_, value)| value)
    }
}

/// Lower case, without the dot at the end.
fn normal(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// The certificates of one ssl object: the first the client can check, elliptic curves before RSA (they sign in a
/// fraction of the time). What is stapled to them may change at any time.
#[derive(Debug)]
pub(super) struct Certificates(Vec<Held>);

#[derive(Debug)]
struct Held {
    /// Its place in the ssl object.
    place: usize,
    key: ArcSwap<CertifiedKey>,
}

impl Certificates {
    pub(super) fn new(keys: Vec<CertifiedKey>) -> Self {
        let mut keys: Vec<_> = keys.into_iter().enumerate().collect();
        keys.sort_by_key(|(_, k)| k.key.algorithm() == SignatureAlgorithm::RSA);
        Self(keys.into_iter().map(|(place, key)| Held { place, key: ArcSwap::from_pointee(key) }).collect())
    }

    /// Puts an OCSP answer beside the certificate in this place of the ssl object, or takes it away.
    pub(super) fn staple(&self, place: usize, answer: Option<&[u8]>) {
        for held in self.0.iter().filter(|held| held.place == place) {
            let mut key = CertifiedKey::clone(&held.key.load());
            key.ocsp = answer.map(<[u8]>::to_vec);
            held.key.store(Arc::new(key));
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let held = self.0.iter().find(|held| held.key.load().key.choose_scheme(schemes).is_some());
        held.map(|held| held.key.load_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_then_wildcard_of_one_label_then_any() {
        let mut m = SniMap::default();
        let by = |id: &str| Arc::<str>::from(id);
        assert!(m.add("a.example.com", &by("1"), &1));
        assert!(m.add("*.Example.com.", &by("2"), &2));
        assert!(m.add("*.b.example.com", &by("3"), &3));
        assert!(!m.add("A.example.com", &by("9"), &9));
        let get = |m: &SniMap<i32>, n: &str| m.get(n).copied();
        assert_eq!(get(&m, "A.example.COM."), Some(1));
        assert_eq!(get(&m, "x.example.com"), Some(2));
        assert_eq!(get(&m, "x.b.example.com"), Some(3));
        for none in ["example.com", ".example.com", "x.y.example.com", "example.org", ""] {
            assert_eq!(get(&m, none), None, "{none}");
        }
        assert!(m.add("*", &by("4"), &4) && !m.add("*", &by("5"), &5));
        assert_eq!(get(&m, "x.y.example.com"), Some(4));
        assert_eq!(get(&m, "x.example.com"), Some(2));
        m.remove("a.example.com", "1");
        assert_eq!(get(&m, "a.example.com"), Some(9), "the next in turn has it");
        assert!(!m.add("a.example.com", &by("0"), &0));
        assert_eq!(get(&m, "a.example.com"), Some(0));
        m.remove("*.example.com", "2");
        assert_eq!(get(&m, "x.example.com"), Some(4));
    }
}
