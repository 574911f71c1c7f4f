//! Checks of an upstream's balancing beyond APISIX that no schema can say well. Surprise: a setting that its `type` would
//! leave without effect is refused, so that nobody relies on it.

use super::{Checked, Invalid};
use serde_json::Value;

pub(super) fn check(base: &str, body: &Value) -> Checked {
    let kind = body.get("type").and_then(Value::as_str).unwrap_or("roundrobin");
    let refused = |field: &str, message: String| Err(Invalid::at(&format!("{base}/{field}"), message));
    if body.get("slow_start").is_some() && matches!(kind, "chash" | "ewma") {
        let message =
            format!("slow_start has no effect with type {kind}: use roundrobin, least_conn, random, p2c or adaptive");
        return refused("slow_start", message);
    }
    if body.get("load_report").is_some() && kind != "adaptive" {
        return refused("load_report", format!("load_report needs type adaptive, but type is {kind}"));
    }
    let Some(sticky) = body.get("sticky") else { return Ok(()) };
    let same_site = sticky.get("same_site").and_then(Value::as_str).unwrap_or_default();
    if same_site.eq_ignore_ascii_case("none") && sticky.get("secure") != Some(&Value::Bool(true)) {
        let message = "sticky: same_site none needs secure: browsers drop such a cookie otherwise";
        return refused("sticky/same_site", message.to_owned());
    }
    if sticky.get("cookie").is_some() && sticky.get("name").is_some() {
        return refused("sticky/name", "sticky: cookie and name are the same setting, give one of them".to_owned());
    }
    Ok(())
}
