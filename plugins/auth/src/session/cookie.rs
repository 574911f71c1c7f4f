//! A session's bytes as cookies: base64url, cut into `NAME`, `NAME2` … of at most 4096 bytes each, nine at most (what browsers
//! take, and what lua-resty-session writes).
use super::SessionError;
use super::settings::{SameSite, Settings};
use crate::authority;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sluice_http::Request;
use sluice_plugin::{BuildError, Context};

const CHUNK: usize = 4096;
const CHUNKS: usize = 9;
/// Cookies together, base64 undone and with room for names.
pub const MAX_BYTES: usize = CHUNK * CHUNKS / 4 * 3 - 1024;

/// The cookies of one configuration.
pub struct Jar {
    /// In order: `session`, `session2` …
    names: Vec<String>,
    attributes: String,
}

impl Jar {
    pub fn new(settings: &Settings) -> Result<Jar, BuildError> {
        authority::check_name("session.cookie_name", &settings.cookie_name)?;
        if settings.cookie_name.len() > 256 {
            return Err(BuildError::new("session.cookie_name has more than 256 characters"));
        }
        let mut attributes = format!("; Path={}", settings.cookie_path);
        if let Some(domain) = &settings.cookie_domain {
            attributes.push_str(&format!("; Domain={domain}"));
        }
        let plain = |text: &str| text.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b';');
        if !plain(&settings.cookie_path) || !settings.cookie_domain.as_deref().is_none_or(plain) {
            return Err(BuildError::new(
                "session.cookie_path and session.cookie_domain must be attributes of a cookie",
            ));
        }
        let same_site = match settings.cookie_same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
            SameSite::Default => "",
        };
        attributes.push_str(same_site);
        if settings.cookie_secure {
            attributes.push_str("; Secure");
        }
        if settings.cookie_http_only {
            attributes.push_str("; HttpOnly");
        }
        let name = |i: usize| match i {
            1 => settings.cookie_name.clone(),
            i => format!("{}{i}", settings.cookie_name),
        };
        Ok(Jar { names: (1..=CHUNKS).map(name).collect(), attributes })
    }

    /// What the request's cookies hold, put together.
    pub fn read(&self, request: &Request) -> Option<Vec<u8>> {
        let mut names = self.names.iter();
        let first = request.cookie(names.next()?)?;
        let mut text = first.to_vec();
        for name in names {
            match request.cookie(name) {
                Some(more) if text.len() + more.len() <= CHUNK * CHUNKS => text.extend_from_slice(more),
                _ => break,
            }
        }
        BASE64_URL_SAFE_NO_PAD.decode(text).ok()
    }

    fn set(&self, cx: &mut Context, name: &str, value: &str, end: &str) {
        cx.add_response_header("Set-Cookie", format!("{name}={value}{}{end}", self.attributes));
    }

    /// Gives the browser these bytes instead of what it has.
    pub fn write(&self, cx: &mut Context, bytes: &[u8]) -> Result<(), SessionError> {
        let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let longest = self.names.last().map_or(0, String::len);
        let room = CHUNK.saturating_sub(longest + 1).max(1);
        if text.len() > room * CHUNKS {
            return Err(SessionError::TooLarge);
        }
        let mut chunks = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at_checked(room).unwrap_or((rest, ""));
            chunks.push(chunk);
            rest = more;
        }
        for (i, name) in self.names.iter().enumerate() {
            match chunks.get(i) {
                Some(chunk) => self.set(cx, name, chunk, ""),
                None => self.expire(cx, name),
            }
        }
        Ok(())
    }

    /// Takes the cookies away that the browser has.
    pub fn clear(&self, cx: &mut Context) {
        self.names.iter().for_each(|name| self.expire(cx, name));
    }

    fn expire(&self, cx: &mut Context, name: &str) {
        if cx.request.cookie(name).is_some() {
            self.set(cx, name, "", "; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0");
        }
    }
}
