//! What would become of a connection on a port for streams. The surprise: candidates are only the stream routes that are
//! looked at; those with another `sni` are not.
use super::upstream;
use crate::Snapshot;
use serde_json::{Value, json};
use sluice_router::{Outcome, StreamRequest};
use std::net::{IpAddr, SocketAddr};

/// A connection to explain.
#[derive(Clone, Debug)]
pub struct StreamQuestion {
    /// The gateway's side of it.
    pub server: SocketAddr,
    /// The address that it comes from.
    pub client: IpAddr,
    /// The server name that the client asks for by TLS.
    pub sni: Option<String>,
}

/// Everything that matching decides about a connection.
pub fn explain_stream(snapshot: &Snapshot, question: &StreamQuestion) -> Value {
    let request = StreamRequest { remote: question.client, server: question.server, sni: question.sni.as_deref() };
    let candidates: Vec<Value> = snapshot
        .stream_router
        .explain(&request)
        .into_iter()
        .map(|(route, outcome)| match outcome {
            Outcome::Won => json!({"route": &*route.id, "won": true}),
            Outcome::Lost { reason } => json!({"route": &*route.id, "won": false, "reason": reason}),
        })
        .collect();
    let route = snapshot.stream_router.find(&request).map(|route| {
        let plugins: Vec<Value> =
            route.plugins.iter().map(|p| json!({"name": p.name, "priority": p.priority})).collect();
        json!({
            "id": &*route.id,
            "problem": route.missing_service.then_some("MissingService"),
            "plugins": plugins,
            "upstream": upstream(&route.upstream),
        })
    });
    json!({
        "connection": {"server": question.server.to_string(), "client": question.client.to_string(), "sni": question.sni},
        "tls": question.sni.as_deref().map(|name| super::tls::describe(snapshot, name, None)),
        "candidates": candidates,
        "route": route,
    })
}
