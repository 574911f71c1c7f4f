//! Path rules of `apisix` in config.yaml: trailing slashes, servlet parameters, encoded slashes.
use super::RequestRules;
use sluice_http::target;
use sluice_plugin::Context;

/// A path that servlet containers and the gateway would read differently.
#[derive(Debug, PartialEq, Eq)]
pub struct Ambiguous(&'static str);

/// `delete_uri_tail_slash` and `normalize_uri_like_servlet` (apisix/init.lua). Errors: the path is to be refused.
pub(super) fn apply(cx: &mut Context, settings: &RequestRules) -> Result<(), Ambiguous> {
    if settings.delete_uri_tail_slash && cx.request.path_bytes().ends_with(b"/") {
        let path = cx.request.path_bytes();
        let path = path[..path.len() - 1].to_vec();
        cx.request.set_path(&path);
    }
    if settings.normalize_uri_like_servlet && cx.request.path_bytes().contains(&b';') {
        let original = cx.request.path_bytes().to_vec();
        let path = without_parameters(&original)?;
        cx.request.set_path(&path);
        // The upstream still gets what stands after `;`, without bytes that could end a line.
        let mut escaped = Vec::with_capacity(original.len());
        for b in original {
            if b <= b' ' || b == 0x7f {
                escaped.extend_from_slice(format!("%{b:02X}").as_bytes());
            } else {
                escaped.push(b);
            }
        }
        cx.upstream.target = Some(escaped);
    }
    Ok(())
}

/// Every segment up to its `;`.
fn without_parameters(path: &[u8]) -> Result<Vec<u8>, Ambiguous> {
    let segments: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    let mut stripped = Vec::with_capacity(segments.len());
    for (index, segment) in segments.iter().enumerate() {
        let Some(at) = segment.iter().position(|b| *b == b';') else {
            stripped.push(*segment);
            continue;
        };
        let name = segment.get(..at).unwrap_or_default();
        match name {
            b"." | b".." => return Err(Ambiguous("dot segment with parameter")),
            b"" if index + 1 < segments.len() => return Err(Ambiguous("empty segment with parameters")),
            name if name.eq_ignore_ascii_case(b"%2e") || name.eq_ignore_ascii_case(b"%2e%2e") => {
                return Err(Ambiguous("encoded dot segment"));
            }
            name => stripped.push(name),
        }
    }
    Ok(stripped.join(&b'/'))
}

impl std::fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The path to match by where `%2F` must not count as a slash; `None` where the target has none. It is written in
/// capitals, so that a route with `%2F` in its URI matches either way.
pub(super) fn keep_encoded_slash(cx: &Context) -> Option<String> {
    let (path, _) = target::split(cx.request.target().as_bytes());
    let text = std::str::from_utf8(path).ok()?;
    if !text.contains("%2f") && !text.contains("%2F") {
        return None;
    }
    let hidden = text.replace("%2f", "%01").replace("%2F", "%01");
    let normal = target::normalize(hidden.as_bytes()).ok()?.unwrap_or_else(|| hidden.into_bytes());
    Some(String::from_utf8(normal).ok()?.replace('\u{1}', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servlet_paths() {
        let settings = RequestRules { normalize_uri_like_servlet: true, ..RequestRules::default() };
        let mut cx = Context::for_tests("GET", "/a;x=1/b;z?q");
        assert_eq!(apply(&mut cx, &settings), Ok(()));
        assert_eq!(cx.request.path(), "/a/b");
        assert_eq!(cx.upstream.target.as_deref(), Some(&b"/a;x=1/b;z"[..]));
        for refused in ["/;/a", "/a/..;/b", "/.;", "/b/;x/c"] {
            let mut cx = Context::for_tests("GET", refused);
            assert!(apply(&mut cx, &settings).is_err(), "{refused}");
        }
    }

    #[test]
    fn tail_slash() {
        let settings = RequestRules { delete_uri_tail_slash: true, ..RequestRules::default() };
        let mut cx = Context::for_tests("GET", "/a/");
        assert_eq!(apply(&mut cx, &settings), Ok(()));
        assert_eq!(cx.request.path(), "/a");
    }

    #[test]
    fn encoded_slashes() {
        let cx = Context::for_tests("GET", "/a%2fb/%63?x=%2F");
        assert_eq!(keep_encoded_slash(&cx).as_deref(), Some("/a%2Fb/c"));
        assert_eq!(keep_encoded_slash(&Context::for_tests("GET", "/a?x=%2F")), None);
    }
}
