//! A request that changes something makes what is stored of its resource invalid (RFC 9111 section 4.4).
use super::Cache;
use sluice_http::Method;
use sluice_plugin::{Answer, AnswerTap, Context, Reply};
use std::sync::Arc;

struct Invalidate {
    cache: Arc<Cache>,
    key: Vec<u8>,
}

/// Looks at the answer to a request that is not safe.
pub(super) fn watch(cache: &Arc<Cache>, cx: &mut Context, key: Vec<u8>) {
    if !matches!(cx.request.method, Method::Get | Method::Head | Method::Options | Method::Trace) {
        cx.answer_tap = Some(Box::new(Invalidate { cache: cache.clone(), key }));
    }
}

impl AnswerTap for Invalidate {
    fn head(&mut self, cx: &mut Context) -> Answer {
        if (200..400).contains(&cx.response.status) {
            self.cache.forget(std::mem::take(&mut self.key));
            for name in ["location", "content-location"] {
                let Some(target) = cx.response.headers.get(name).and_then(|value| own_target(cx, value)) else {
                    continue;
                };
                let key = self.cache.terms.key(cx, Some(&target));
                self.cache.forget(key);
            }
        }
        Answer::Pass
    }
    fn body(&mut self, _payload: &[u8]) {}
    fn end(self: Box<Self>) {}
    fn failed(&mut self, _cx: &mut Context, reply: Reply) -> Reply {
        reply
    }
}

/// Path and query of a reference to something on the same host.
fn own_target(cx: &Context, reference: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(reference).ok()?;
    let text = text.split('#').next()?;
    if text.starts_with('/') && !text.starts_with("//") {
        return Some(text.into());
    }
    let rest = match text.split_once("//") {
        Some(("http:" | "https:" | "", rest)) => rest,
        Some(_) => return None,
        None => return relative(cx, text),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let bare = sluice_http::target::host_name(host.as_bytes())?;
    let same = bare.eq_ignore_ascii_case(cx.request.host().as_bytes());
    same.then(|| if path.starts_with('/') { path.into() } else { format!("/{path}").into_bytes() })
}

/// A reference beside the request's own path.
fn relative(cx: &Context, text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.contains(':') || text.starts_with('.') {
        return None;
    }
    let path = cx.request.path();
    let folder = path.get(..=path.rfind('/')?)?;
    Some(format!("{folder}{text}").into_bytes())
}

impl Cache {
    /// Removes a resource without waiting for it.
    pub(super) fn forget(&self, key: Vec<u8>) {
        let removing = self.zone.store.remove(&key);
        if let Some(control) = &self.control {
            control.spawn(removing);
        }
    }
}
