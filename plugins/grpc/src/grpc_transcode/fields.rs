//! Where a message's fields come from: JSON, form or query (apisix/plugins/grpc-transcode/util.lua `get_request_table`). The surprise:
//! a body that should be JSON and is not counts as a form with `POST`, and as nothing otherwise.
use percent_encoding::percent_decode;
use serde_json::{Map, Value};
use sluice_engine_grpc::Given;
use sluice_http::Known;
use sluice_plugin::Context;

/// As many arguments are read (OpenResty's `max_args`).
const ARGUMENTS: usize = 100;

pub(super) fn of(cx: &Context) -> (Map<String, Value>, Given) {
    let method = cx.request.method_text();
    let body = cx.request_body.as_deref();
    let kind = cx.request.headers.known(Known::ContentType).unwrap_or_default();
    let is_json = kind.windows(16).any(|part| part == b"application/json");
    if is_json
        && matches!(method, "POST" | "PUT" | "PATCH")
        && let Some(Ok(value)) = body.map(serde_json::from_slice::<Value>)
    {
        let fields = if let Value::Object(fields) = value { fields } else { Map::new() };
        return (fields, Given::Json);
    }
    let text = match method {
        "POST" => body.unwrap_or_default(),
        _ => cx.request.query().unwrap_or_default().as_bytes(),
    };
    (arguments(text), Given::Arguments)
}

/// `a=1&b&a=2`: a name without `=` is true, one that comes again is a list (`ngx.decode_args`).
fn arguments(text: &[u8]) -> Map<String, Value> {
    let mut all = Map::new();
    for part in text.split(|b| *b == b'&').filter(|part| !part.is_empty()).take(ARGUMENTS) {
        let mut sides = part.splitn(2, |b| *b == b'=');
        let name = decode(sides.next().unwrap_or_default());
        if name.is_empty() {
            continue;
        }
        let value = sides.next().map_or(Value::Bool(true), |value| Value::String(decode(value)));
        match all.get_mut(&name) {
            None => drop(all.insert(name, value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    all
}

fn decode(part: &[u8]) -> String {
    let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(method: &str, target: &str, kind: &str, body: Option<&str>) -> (Value, Given) {
        let mut cx = Context::for_tests(method, target);
        cx.request.headers.append("Content-Type", kind);
        cx.request_body = body.map(|body| body.as_bytes().to_vec());
        let (fields, given) = of(&cx);
        (Value::Object(fields), given)
    }

    #[test]
    fn json_form_or_query() {
        let json_body = Some(r#"{"name": "a"}"#);
        for method in ["POST", "PUT", "PATCH"] {
            let read = read(method, "/?name=q", "application/json; charset=utf-8", json_body);
            assert_eq!(read, (json!({"name": "a"}), Given::Json), "{method}");
        }
        let query = (json!({"name": "q"}), Given::Arguments);
        assert_eq!(read("GET", "/?name=q", "application/json", json_body), query);
        assert_eq!(read("PUT", "/?name=q", "application/json", Some("{")), query);
        assert_eq!(read("PUT", "/?name=q", "text/plain", json_body), query);
        assert_eq!(read("POST", "/?name=q", "", Some("name=f")), (json!({"name": "f"}), Given::Arguments));
        assert_eq!(
            read("POST", "/?name=q", "application/json", Some("name=f")),
            (json!({"name": "f"}), Given::Arguments)
        );
        assert_eq!(read("POST", "/?name=q", "application/json", Some("[1]")), (json!({}), Given::Json));
        assert_eq!(read("POST", "/?name=q", "", None), (json!({}), Given::Arguments));
    }

    #[test]
    fn arguments_are_decoded() {
        let all = Value::Object(arguments(b"a=1&b&a=%32&c=x+y%26&&=z&d=&a=3"));
        assert_eq!(all, json!({"a": ["1", "2", "3"], "b": true, "c": "x y&", "d": ""}));
        let many: Vec<String> = (0..150).map(|i| format!("k{i}=1")).collect();
        assert_eq!(arguments(many.join("&").as_bytes()).len(), 100);
    }
}
