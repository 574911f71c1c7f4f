//! How plugins of this family speak to the server that decides for them: connection options, the warnings of
//! apisix/core/utils.lua (`check_https`, `check_tls_bool`), and which request fields are never copied to such a server.
use sluice_plugin::{BuildError, Context, HttpOptions};
use std::time::Duration;

/// `keepalive_timeout` in milliseconds.
pub fn options(ssl_verify: bool, keepalive: bool, keepalive_timeout: u64, keepalive_pool: usize) -> HttpOptions {
    HttpOptions {
        verify: ssl_verify,
        keepalive: keepalive.then(|| Duration::from_millis(keepalive_timeout)),
        keepalive_pool,
        ..HttpOptions::default()
    }
}

/// Tells the operator of a server that is asked in clear text, or whose certificate is not checked.
pub fn warn_insecure(plugin: &str, field: &str, address: &str, ssl_verify: bool) {
    if !address.starts_with("https://") {
        tracing::warn!("Using {plugin} {field} with no TLS is a security risk");
    }
    if !ssl_verify {
        tracing::warn!("Keeping ssl_verify disabled in {plugin} configuration is a security risk");
    }
}

/// Fields that belong to one connection or frame one message (RFC 9110, 7.6.1; RFC 9112, 6): a request of our own has its own.
pub fn frames(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a text can be the value of a field (RFC 9110, 5.5).
pub fn is_value(value: &[u8]) -> bool {
    value.iter().all(|b| (*b >= b' ' && *b != 0x7f) || *b == b'\t')
}

/// Refuses what can be no field's name (RFC 9110, 5.1).
pub fn check_name(field: &str, name: &str) -> Result<(), BuildError> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !name.is_empty() && name.bytes().all(token) {
        true => Ok(()),
        false => Err(BuildError(format!("{field}: \"{name}\" is no header name"))),
    }
}

/// Gives the upstream exactly these values of a field; with none, what the client sent is removed.
pub fn set_request_header<'a>(cx: &mut Context, name: &str, values: impl Iterator<Item = &'a [u8]>) {
    cx.request.headers.remove(name);
    values.for_each(|value| cx.request.headers.append(name, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        assert!(frames("Transfer-Encoding") && !frames("X-Transfer-Encoding"));
        assert!(is_value(b"a\tb \xff") && !is_value(b"a\r\nb: c") && !is_value(b"\0"));
        assert!(check_name("extra_headers", "X-A_b").is_ok());
        assert_eq!(check_name("extra_headers", "a b").unwrap_err().0, "extra_headers: \"a b\" is no header name");
    }
}
