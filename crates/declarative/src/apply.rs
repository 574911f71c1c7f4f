//! Carrying out a plan: as one transaction where the server has them, else write by write in the plan's order. The
//! surprise: a run that stops half-way is repeated, not repaired; the next plan holds exactly what is left.
use crate::client::{Answer, Client, ClientError, encode};
use crate::plan::{Change, Plan};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

/// How a plan was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// All or none, in one request.
    pub transaction: bool,
    pub changes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("nothing was changed: {0}")]
    Transaction(ClientError),
    #[error("nothing was changed: {0}: {1}")]
    Refused(String, String),
    #[error("{done} of {total} changes were made, then {path}: {error}; run the command again to make the rest")]
    Write { done: usize, total: usize, path: String, error: ClientError },
}

/// Applies a plan. `message` goes into the history of a Sluice; `progress` is told how many of how many are done.
pub async fn apply(
    client: &Client,
    plan: &Plan,
    message: Option<&str>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Applied, ApplyError> {
    let total = plan.changes.len();
    let headers: Vec<(&str, &str)> = message.map(|message| ("X-Message", message)).into_iter().collect();
    if total == 0 {
        return Ok(Applied { transaction: false, changes: 0 });
    }
    const PATH: &str = "transactions";
    let body: Value = plan.changes.iter().map(operation).collect();
    let answer = client.send(Method::POST, PATH, Some(&body), &headers).await.map_err(ApplyError::Transaction)?;
    if (200..300).contains(&answer.status) {
        progress(total, total);
        return Ok(Applied { transaction: true, changes: total });
    }
    if !without_transactions(&answer) {
        let index = answer.body["operation"].as_u64().and_then(|index| usize::try_from(index).ok());
        return Err(match index.and_then(|index| plan.changes.get(index)) {
            Some(change) => ApplyError::Refused(named(change), answer.message()),
            None => ApplyError::Transaction(client.refused(&Method::POST, PATH, &answer)),
        });
    }
    for (done, change) in plan.changes.iter().enumerate() {
        write(client, change, &headers).await.map_err(|error| ApplyError::Write {
            done,
            total,
            path: change.key.path(),
            error,
        })?;
        progress(done + 1, total);
    }
    Ok(Applied { transaction: false, changes: total })
}

/// The object of a change, with its place.
fn named(change: &Change) -> String {
    match &change.place {
        Some(place) => format!("{place}: {}", change.key),
        None => change.key.to_string(),
    }
}

fn operation(change: &Change) -> Value {
    match &change.body {
        Some(body) => json!({"method": "PUT", "path": change.key.path(), "body": body}),
        None => json!({"method": "DELETE", "path": change.key.path()}),
    }
}

/// Whether the answer means that there are no transactions (apisix/admin/init.lua), rather than that this one is refused.
fn without_transactions(answer: &Answer) -> bool {
    matches!(answer.status, 404 | 405) || answer.message().contains("Unsupported resource type")
}

async fn write(client: &Client, change: &Change, headers: &[(&str, &str)]) -> Result<(), ClientError> {
    let path = encode(&change.key.path());
    let method = if change.body.is_some() { Method::PUT } else { Method::DELETE };
    let answer = client.send(method.clone(), &path, change.body.as_ref(), headers).await?;
    let gone = change.body.is_none() && answer.status == 404;
    if (200..300).contains(&answer.status) || gone { Ok(()) } else { Err(client.refused(&method, &path, &answer)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_knows_transactions_can_refuse_one() {
        let answer = |status, text: &str| Answer { status, body: json!({"error_msg": text}) };
        assert!(without_transactions(&answer(404, "Unsupported resource type: transactions")));
        assert!(without_transactions(&answer(400, "Unsupported resource type: transactions")));
        assert!(!without_transactions(&answer(400, "invalid configuration")));
        assert!(!without_transactions(&answer(401, "failed to check token")));
    }
}
