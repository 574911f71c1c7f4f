//! The answers of a list as APISIX writes them.
use crate::own_gateway::{Line, Wire};
use serde_json::{Map, Value, json};
use std::io;
use std::time::Duration;

/// Sends the requests in order. `most` is for the bytes of all bodies.
pub async fn send_all(line: &mut Line<'_>, requests: &[Wire], limit: Duration, mut most: usize) -> Value {
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        match send(line, request, limit, &mut most).await {
            Ok(answer) => answers.push(answer),
            Err(error) => {
                tracing::error!("batch-requests: a request of the pipeline has no answer: {error}");
                break;
            }
        }
    }
    answers.resize(requests.len(), json!({"status": 504, "reason": "upstream timeout"}));
    Value::Array(answers)
}

async fn send(line: &mut Line<'_>, request: &Wire, limit: Duration, most: &mut usize) -> io::Result<Value> {
    let answer = line.exchange(request, limit, *most).await?;
    let head = &answer.head;
    let mut headers = Map::new();
    for (name, value) in head.headers.iter() {
        let value = Value::from(String::from_utf8_lossy(value));
        let name = String::from_utf8_lossy(name);
        let known = headers.keys().find(|known| known.eq_ignore_ascii_case(&name)).cloned();
        match known.and_then(|known| headers.get_mut(&known)) {
            None => {
                headers.insert(name.into_owned(), value);
            }
            Some(Value::Array(all)) => all.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    let reason = String::from_utf8_lossy(head.reason());
    let mut entry = json!({"status": head.status, "reason": reason, "headers": headers});
    if answer.cut {
        entry["read_body_err"] = json!("the body is too large");
    } else if !request.to_head && !matches!(head.status, 204 | 304) {
        *most -= answer.body.len().min(*most);
        entry["body"] = Value::from(String::from_utf8_lossy(&answer.body));
    }
    Ok(entry)
}
