//! `sticky` (ours): a cookie of the gateway's that brings a client back to its node.
//!
//! The surprise: nothing is stored. The cookie's value is a keyed hash of the node's address, so every gateway with the same
//! configuration knows it, and it survives restarts. Without `secret` the key is the upstream's name, which hides addresses
//! from the eye but not from somebody who knows that name and tries them all.
use std::fmt::Write;
use std::sync::Arc;

use aws_lc_rs::hmac;

use crate::endpoint::Endpoint;

/// `SameSite` of the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

/// The settings as written, names resolved.
#[derive(Clone, Debug)]
pub struct StickySettings {
    /// The cookie's name; `None` for one of the upstream's own.
    pub cookie: Option<String>,
    pub path: String,
    /// Seconds; `None` until the browser closes.
    pub ttl: Option<u64>,
    pub http_only: bool,
    pub secure: bool,
    pub same_site: Option<SameSite>,
    pub secret: Option<String>,
}

/// What a node is called in a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// Of a cookie's value; `None` for what is none of ours.
    pub fn parse(value: &[u8]) -> Option<Token> {
        let text = std::str::from_utf8(value).ok()?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Token)).flatten()
    }
}

/// Compiled, shared by all forms of the upstream.
#[derive(Clone, Debug)]
pub struct Sticky {
    name: Arc<str>,
    /// All of `Set-Cookie` behind the value.
    attributes: Arc<str>,
    key: Arc<[u8]>,
}

impl Sticky {
    /// `upstream`: its resource key.
    pub fn compile(settings: &StickySettings, upstream: &str) -> Sticky {
        let key: Arc<[u8]> = settings.secret.as_deref().unwrap_or(upstream).as_bytes().into();
        let name = settings.cookie.clone().unwrap_or_else(|| {
            let own = sign(upstream.as_bytes(), b"sticky cookie");
            format!("sluice-{:08x}", own >> 32)
        });
        let mut attributes = format!("; Path={}", settings.path);
        if let Some(ttl) = settings.ttl {
            let _ = write!(attributes, "; Max-Age={ttl}");
        }
        if settings.http_only {
            attributes.push_str("; HttpOnly");
        }
        if settings.secure {
            attributes.push_str("; Secure");
        }
        match settings.same_site {
            Some(SameSite::Lax) => attributes.push_str("; SameSite=Lax"),
            Some(SameSite::Strict) => attributes.push_str("; SameSite=Strict"),
            Some(SameSite::None) => attributes.push_str("; SameSite=None"),
            None => {}
        }
        Sticky { name: name.into(), attributes: attributes.into(), key }
    }

    /// The cookie's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's token: the same for one address, wherever and whenever it is asked for.
    pub(crate) fn token(&self, node: &Endpoint) -> Token {
        Token(sign(&self.key, node.name().as_bytes()))
    }

    /// The value of a `Set-Cookie` field.
    pub fn set_cookie(&self, token: Token) -> String {
        format!("{}={:016x}{}", self.name, token.0, self.attributes)
    }
}

fn sign(key: &[u8], text: &[u8]) -> u64 {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn settings() -> StickySettings {
        StickySettings {
            cookie: Some("node".into()),
            path: "/".into(),
            ttl: None,
            http_only: true,
            secure: false,
            same_site: None,
            secret: None,
        }
    }

    #[test]
    fn a_cookie_says_what_was_configured_and_no_address() {
        let node = Endpoint::new("10.0.0.1", 80, 1);
        let sticky = Sticky::compile(&settings(), "upstreams/1");
        let cookie = sticky.set_cookie(sticky.token(&node));
        let (value, rest) = cookie.strip_prefix("node=").unwrap().split_once(';').unwrap();
        assert_eq!((value.len(), rest), (16, " Path=/; HttpOnly"));
        assert_eq!(Token::parse(value.as_bytes()), Some(sticky.token(&node)));
        let all = StickySettings {
            path: "/a".into(),
            ttl: Some(60),
            http_only: false,
            secure: true,
            same_site: Some(SameSite::None),
            ..settings()
        };
        assert!(
            Sticky::compile(&all, "x").set_cookie(Token(1)).ends_with("; Path=/a; Max-Age=60; Secure; SameSite=None")
        );
    }

    #[test]
    fn tokens_depend_on_address_and_key_alone() {
        let (a, b) = (Endpoint::new("10.0.0.1", 80, 1), Endpoint::new("10.0.0.1", 81, 1));
        let sticky = Sticky::compile(&settings(), "upstreams/1");
        let secret = |secret: &str| {
            Sticky::compile(&StickySettings { secret: Some(secret.into()), ..settings() }, "upstreams/1")
        };
        assert_eq!(sticky.token(&a), Sticky::compile(&settings(), "upstreams/1").token(&a));
        assert_ne!(sticky.token(&a), sticky.token(&b));
        assert_ne!(sticky.token(&a), secret("k").token(&a));
        assert_ne!(secret("l").token(&a), secret("k").token(&a));
    }

    #[test]
    fn upstreams_have_cookies_of_their_own() {
        let unnamed = StickySettings { cookie: None, ..settings() };
        let name = |key: &str| Sticky::compile(&unnamed, key).name().to_owned();
        assert!(name("upstreams/1").starts_with("sluice-") && name("upstreams/1") != name("upstreams/2"));
        assert_eq!(name("upstreams/1"), name("upstreams/1"));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for value in ["", "1", "00000000000000001", "000000000000000g", "ABCDEF0123456789", "+000000000000001"] {
            assert_eq!(Token::parse(value.as_bytes()), None, "{value}");
        }
    }
}
