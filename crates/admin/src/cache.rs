//! `GET /apisix/admin/cache` and `DELETE /apisix/admin/cache/{zone}`: what the zones of `proxy-cache` hold, and removing it by key,
//! prefix or tag. The surprise: a zone in memory or on disk is this node's own; others have to be told too.
use crate::admin::{Admin, CachePurge};
use crate::message::{Reply, Request};
use serde_json::json;

pub(crate) fn list(admin: &Admin) -> Reply {
    let zones = admin.gateway.caches();
    Reply::json(200, &json!({"total": zones.len(), "list": zones}))
}

pub(crate) async fn purge(admin: &Admin, zone: &str, request: &Request) -> Reply {
    let what = match what(&request.query) {
        Ok(what) => what,
        Err(why) => return Reply::error(400, why),
    };
    let Some(purging) = admin.gateway.purge(zone, what) else {
        return Reply::error(404, format!("cache_zone {zone} not found"));
    };
    match purging.await {
        Ok(removed) => Reply::json(200, &json!({"zone": zone, "purged": removed})),
        Err(why) => Reply::error(503, why),
    }
}

/// One argument at most; without one, everything.
fn what(query: &[(String, String)]) -> Result<CachePurge, String> {
    let named = |(name, value): &(String, String)| match name.as_str() {
        "key" => Ok(CachePurge::Key(value.clone())),
        "prefix" => Ok(CachePurge::Prefix(value.clone())),
        "tag" => Ok(CachePurge::Tag(value.clone())),
        other => Err(format!("unknown argument {other}: key, prefix or tag is expected")),
    };
    match query {
        [] => Ok(CachePurge::All),
        [(name, value)] if value.is_empty() => Err(format!("{name} is empty")),
        [one] => named(one),
        _ => Err("one of key, prefix and tag is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_says_what_goes() {
        let of = |list: &[(&str, &str)]| {
            what(&list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), Ok(CachePurge::All));
        assert_eq!(of(&[("tag", "a")]), Ok(CachePurge::Tag("a".into())));
        assert_eq!(of(&[("prefix", "h/")]), Ok(CachePurge::Prefix("h/".into())));
        // A slip must not empty the zone.
        assert!(
            of(&[("tags", "a")]).is_err() && of(&[("key", "")]).is_err() && of(&[("key", "a"), ("tag", "b")]).is_err()
        );
    }
}
