//! Filters and pages of lists (apisix/admin/v3_adapter.lua).
use crate::message::{Reply, Request};
use crate::server::query;
use serde_json::Value;
use sluice_expr::Regex;
use sluice_model::Kind;

/// The part of a list that was asked for, and how many passed the filters.
pub(crate) fn select(items: Vec<Value>, kind: Kind, request: &Request) -> Result<(Vec<Value>, usize), Reply> {
    let name = request.arg("name").map(|pattern| Regex::new(pattern, "jo"));
    let uri = request.arg("uri").map(|pattern| Regex::new(pattern, "jo"));
    let label = request.arg("label");
    let matches = |regex: &Result<Regex, _>, text: &Value| {
        text.as_str().is_some_and(|text| regex.as_ref().is_ok_and(|regex| regex.is_match(text.as_bytes())))
    };
    let fields = request.arg("filter").map(query).unwrap_or_default();
    let mut items: Vec<Value> = items
        .into_iter()
        .filter(|item| {
            let value = &item["value"];
            let uris = value["uris"].as_array();
            name.as_ref().is_none_or(|name| matches(name, &value["name"]))
                && label.is_none_or(|label| value["labels"].get(label).is_some())
                && uri.as_ref().is_none_or(|uri| {
                    matches(uri, &value["uri"]) || uris.is_some_and(|uris| uris.iter().any(|text| matches(uri, text)))
                })
                && filtered(value, &fields, kind)
        })
        .collect();
    let total = items.len();
    let number = |name: &str| request.arg(name).and_then(|text| text.parse::<f64>().ok());
    if let (Some(page), Some(size)) = (number("page"), number("page_size")) {
        if !(10.0..=500.0).contains(&size) {
            return Err(Reply::text(400, "page_size must be between 10 and 500"));
        }
        items.sort_by_key(|item| item["createdIndex"].as_u64());
        let (page, size) = (page.max(1.0) as usize, size as usize);
        items = items.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    }
    Ok((items, total))
}

/// `filter=service_id=1&upstream_id=2`: fields that must be equal, where the kind has them.
fn filtered(value: &Value, fields: &[(String, String)], kind: Kind) -> bool {
    let known: &[&str] = match kind {
        Kind::Route | Kind::StreamRoute => &["service_id", "upstream_id"],
        _ => &[],
    };
    let mut wanted: Vec<&(String, String)> = Vec::new();
    for pair in fields {
        wanted.retain(|(name, _)| *name != pair.0);
        wanted.push(pair);
    }
    wanted.iter().filter(|(name, _)| known.contains(&name.as_str())).all(|(name, text)| match &value[name.as_str()] {
        Value::String(own) => own == text,
        _ => false,
    })
}
