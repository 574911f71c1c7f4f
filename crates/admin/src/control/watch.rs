//! Requests as they pass (`GET /v1/requests`), their sums (`GET /v1/traffic`) and what is kept of explained ones
//! (`GET /v1/explain`): lines of JSON, for as long as the client reads. Ours; APISIX has no such paths. The surprise: a line
//! feed alone comes now and then, so that a client that has gone is noticed.
use super::{Running, not_found};
use crate::message::{Reply, Request};
use bytes::Bytes;
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_telemetry::watch::{Filter, Interval, Row, Tail, Traffic};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines that may wait for a slow client.
const WAITING: usize = 1024;
const PULSE: Duration = Duration::from_secs(5);
/// Seconds between sums, at least and at most.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=60.0;

fn lines(pieces: mpsc::Receiver<Bytes>) -> Reply {
    Reply::stream(pieces).with_header("Content-Type", "application/x-ndjson")
}

fn wrong(message: impl std::fmt::Display) -> Reply {
    Reply::error(400, message.to_string()).with_header("Content-Type", "application/json")
}

/// Each request that the query's filters let through, as it ends; `{"dropped": n}` where the client was too slow.
pub(super) fn requests(running: &dyn Running, request: &Request) -> Reply {
    let filter = match Filter::new(request.query.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        Ok(filter) => filter,
        Err(error) => return wrong(error),
    };
    let (tail, mut seen) = Tail::new(filter, WAITING);
    let Some(watching) = running.watch(tail.clone()) else { return not_found() };
    let (pieces, body) = mpsc::channel(1);
    tokio::spawn(async move {
        // Requests are seen until the client has gone.
        let _watching = watching;
        // The head goes out at once, so that the client knows that it sees everything from now on.
        let mut piece = Bytes::from_static(b"\n");
        loop {
            if pieces.send(piece).await.is_err() {
                return;
            }
            piece = tokio::select! {
                line = seen.recv() => match line {
                    Some(line) => gather(line, &mut seen, &tail),
                    None => return,
                },
                () = tokio::time::sleep(PULSE) => Bytes::from_static(b"\n"),
                () = pieces.closed() => return,
            };
        }
    });
    lines(body)
}

/// A line and those behind it, and how many were lost.
fn gather(first: Vec<u8>, seen: &mut mpsc::Receiver<Vec<u8>>, tail: &Tail) -> Bytes {
    let mut all = first;
    while let Ok(line) = seen.try_recv() {
        all.extend_from_slice(&line);
    }
    match tail.take_dropped() {
        0 => {}
        dropped => all.extend_from_slice(format!("{{\"dropped\":{dropped}}}\n").as_bytes()),
    }
    all.into()
}

/// The sums of every `interval` seconds, with what is known of the upstreams' nodes and breakers.
pub(super) fn traffic(running: &Arc<dyn Running>, request: &Request) -> Reply {
    let seconds = match request.arg("interval").map(str::parse::<f64>) {
        None => 2.0,
        Some(Ok(seconds)) if INTERVALS.contains(&seconds) => seconds,
        Some(_) => return wrong("interval: seconds from 0.1 to 60"),
    };
    let sums = Arc::new(Traffic::new(running.workers()));
    let Some(watching) = running.watch(sums.clone()) else { return not_found() };
    let running = running.clone();
    let (pieces, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let _watching = watching;
        if pieces.send(Bytes::from_static(b"\n")).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => {}
                () = pieces.closed() => return,
            }
            let mut line = describe(running.as_ref(), sums.take()).to_string().into_bytes();
            line.push(b'\n');
            if pieces.send(line.into()).await.is_err() {
                return;
            }
        }
    });
    lines(body)
}

fn describe(running: &dyn Running, sums: Interval) -> Value {
    let breakers = running.circuit_breakers();
    let mut upstreams: Vec<Value> =
        sums.upstreams.iter().map(|row| upstream(running, row, &sums.nodes, &breakers)).collect();
    // Where a breaker lets nothing pass there is no traffic, which is what should be seen.
    for breaker in breakers.iter().filter(|breaker| !is_closed(breaker)) {
        let name = breaker["name"].as_str().and_then(|name| name.strip_prefix("/apisix/")).unwrap_or_default();
        if !sums.upstreams.iter().any(|row| row.name == name) {
            let row = Row { name: name.to_owned(), ..Row::default() };
            upstreams.push(upstream(running, &row, &sums.nodes, &breakers));
        }
    }
    json!({
        "seconds": sums.seconds,
        "total": sums.total,
        "routes": sums.routes.iter().map(|row| route(running, row)).collect::<Vec<_>>(),
        "upstreams": upstreams,
    })
}

fn is_closed(breaker: &Value) -> bool {
    let closed = |state: Option<&Value>| state.is_none_or(|state| state == "closed");
    let nodes = breaker["nodes"].as_array();
    closed(breaker.get("state")) && nodes.into_iter().flatten().all(|node| closed(node.get("state")))
}

fn route(running: &dyn Running, row: &Row) -> Value {
    let mut out = json!(row);
    let body = running.resource(Kind::Route, &row.name).map(|resource| resource.body);
    if let Some(name) = body.and_then(|body| body.value().get("name").cloned()) {
        out["title"] = name;
    }
    out
}

fn upstream(running: &dyn Running, row: &Row, nodes: &[Row], breakers: &[Value]) -> Value {
    let mut out = json!(row);
    let name = format!("/apisix/{}", row.name);
    let breaker = breakers.iter().find(|breaker| breaker["name"] == name.as_str());
    if let Some(state) = breaker.and_then(|breaker| breaker.get("state")) {
        out["breaker"] = state.clone();
    }
    let known = row.name.split_once('/').and_then(|(dir, id)| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.dir() == dir)?;
        running.nodes(kind, id)
    });
    let known = known.unwrap_or_default();
    let mut shown = Vec::new();
    for node in &known {
        let address = format!("{}:{}", node.host, node.port);
        let own = nodes.iter().find(|own| own.within.as_deref() == Some(&row.name) && own.name == address);
        let mut line = own.map_or_else(|| json!({"name": address, "requests": 0}), |own| json!(own));
        line["status"] = json!(node.status);
        line["ejected"] = json!(node.ejected);
        let of_node = breaker.and_then(|breaker| breaker["nodes"].as_array());
        let of_node = of_node
            .into_iter()
            .flatten()
            .find(|own| own["port"] == node.port && own["ip"].as_str() == Some(node.host.trim_matches(['[', ']'])));
        if let Some(state) = of_node.and_then(|own| own.get("state")) {
            line["breaker"] = state.clone();
        }
        shown.push(line);
    }
    let is_known = |own: &&Row| known.iter().any(|node| own.name == format!("{}:{}", node.host, node.port));
    let others = nodes.iter().filter(|own| own.within.as_deref() == Some(&row.name) && !is_known(own));
    shown.extend(others.map(|own| json!(own)));
    out["nodes"] = json!(shown);
    out
}

/// The ids of what is kept, newest first, or one record.
pub(super) fn explained(running: &dyn Running, path: &[&str]) -> Reply {
    let Some(kept) = running.explained() else { return not_found() };
    match path {
        [] => Reply::json(200, &json!({"records": kept.ids()})).with_header("Content-Type", "application/json"),
        [id] => match kept.get(id) {
            Some(record) => Reply::text(200, record.to_vec()).with_header("Content-Type", "application/json"),
            None => {
                Reply::error(404, format!("nothing is kept of {id}")).with_header("Content-Type", "application/json")
            }
        },
        _ => not_found(),
    }
}
