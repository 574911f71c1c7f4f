//! Path rules of `apisix` in config.yaml: trailing slashes, servlet parameters, encoded slashes.
use crate::settings::ProxySettings;
use sluice_http::target;
use sluice_plugin::Context;

/// `delete_uri_tail_slash` and `normalize_uri_like_servlet` (apisix/init.lua).
pub fn apply(cx: &mut Context, settings: &ProxySettings) {
    if settings.delete_uri_tail_slash && cx.request.path_bytes().ends_with(b"/") {
        let path = cx.request.path_bytes();
        let path = path[..path.len() - 1].to_vec();
        cx.request.set_path(&path);
    }
    if settings.normalize_uri_like_servlet && cx.request.path_bytes().contains(&b';') {
        let original = cx.request.path_bytes().to_vec();
        let stripped: Vec<&[u8]> =
            original.split(|b| *b == b'/').map(|s| s.split(|b| *b == b';').next().unwrap_or_default()).collect();
        let joined = stripped.join(&b'/');
        let path = match target::normalize(&joined) {
            Ok(Some(path)) => path,
            _ => joined,
        };
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
}

/// The path to match by where `%2F` must not count as a slash; `None` where the target has none.
pub fn keep_encoded_slash(cx: &Context) -> Option<String> {
    let (path, _) = target::split(cx.request.target().as_bytes());
    let text = std::str::from_utf8(path).ok()?;
    if !text.contains("%2f") && !text.contains("%2F") {
        return None;
    }
    let hidden = text.replace("%2f", "%01").replace("%2F", "%02");
    let normal = target::normalize(hidden.as_bytes()).ok()?.unwrap_or_else(|| hidden.into_bytes());
    Some(String::from_utf8(normal).ok()?.replace('\u{1}', "%2f").replace('\u{2}', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servlet_paths() {
        let settings = ProxySettings { normalize_uri_like_servlet: true, ..ProxySettings::default() };
        let mut cx = Context::for_tests("GET", "/a;x=1/..;y/b;z?q");
        apply(&mut cx, &settings);
        assert_eq!(cx.request.path(), "/b");
        assert_eq!(cx.upstream.target.as_deref(), Some(&b"/a;x=1/..;y/b;z"[..]));
    }

    #[test]
    fn tail_slash() {
        let settings = ProxySettings { delete_uri_tail_slash: true, ..ProxySettings::default() };
        let mut cx = Context::for_tests("GET", "/a/");
        apply(&mut cx, &settings);
        assert_eq!(cx.request.path(), "/a");
    }

    #[test]
    fn encoded_slashes() {
        let cx = Context::for_tests("GET", "/a%2Fb/%63?x=%2F");
        assert_eq!(keep_encoded_slash(&cx).as_deref(), Some("/a%2Fb/c"));
        assert_eq!(keep_encoded_slash(&Context::for_tests("GET", "/a?x=%2F")), None);
    }
}
