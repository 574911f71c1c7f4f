//! Header edits of `response-rewrite`: added first, then set, then removed. Setting an empty value removes the field.
use crate::proxy_rewrite::value_text;
use serde_json::{Map, Value};
use sluice_expr::Template;
use sluice_http::Known;
use sluice_plugin::{BuildError, Context};

#[derive(Default)]
pub(super) struct HeaderEdits {
    add: Vec<(Box<str>, Template)>,
    set: Vec<(Box<str>, Template)>,
    remove: Vec<Box<str>>,
}

fn is_new_form(headers: &Map<String, Value>) -> bool {
    ["add", "set", "remove"].iter().any(|key| headers.get(*key).is_some_and(|v| v.is_object() || v.is_array()))
}

/// What the schema cannot say of the old form.
pub(super) fn check(headers: &Value) -> Result<(), BuildError> {
    let Some(fields) = headers.as_object() else { return Err(BuildError::new("invalid type as header field")) };
    if is_new_form(fields) {
        return Ok(());
    }
    for (field, value) in fields {
        if !value.is_string() && !value.is_number() {
            return Err(BuildError::new("invalid type as header value"));
        }
        if field.is_empty() {
            return Err(BuildError::new("invalid field length in header"));
        }
    }
    Ok(())
}

/// Splits `Name: value`; neither may hold another colon, and the name no white space.
fn split_field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let good = !name.is_empty() && !name.contains(char::is_whitespace) && !value.is_empty() && !value.contains(':');
    good.then_some((name, value))
}

fn is_framing(name: &str) -> bool {
    matches!(Known::from_name(name.as_bytes()), Known::ContentLength | Known::TransferEncoding | Known::Connection)
}

impl HeaderEdits {
    pub(super) fn compile(headers: &Value) -> HeaderEdits {
        let Some(headers) = headers.as_object() else { return HeaderEdits::default() };
        let usable = |name: &str, value: &str| {
            // An empty value only removes.
            let framing = is_framing(name) && !value.is_empty();
            if framing {
                tracing::warn!(plugin = "response-rewrite", field = %name, "this field cannot be set");
            }
            !framing
        };
        let fields = |map: &Map<String, Value>| {
            let texts = map.iter().map(|(name, value)| (name, value_text(value)));
            texts.filter(|(n, v)| usable(n, v)).map(|(n, v)| (n.as_str().into(), Template::compile(&v))).collect()
        };
        if !is_new_form(headers) {
            return HeaderEdits { set: fields(headers), ..HeaderEdits::default() };
        }
        let strings = |key| headers.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let Some(add) = strings("add").map(split_field).collect::<Option<Vec<_>>>() else {
            tracing::error!(plugin = "response-rewrite", "a field of `add` cannot be read: no header is changed");
            return HeaderEdits::default();
        };
        HeaderEdits {
            add: add.into_iter().filter(|(n, v)| usable(n, v)).map(|(n, v)| (n.into(), Template::compile(v))).collect(),
            set: headers.get("set").and_then(Value::as_object).map(fields).unwrap_or_default(),
            remove: strings("remove").map(Into::into).collect(),
        }
    }

    pub(super) fn apply(&self, cx: &mut Context) {
        let mut buffer = Vec::new();
        for (name, template) in &self.add {
            let value = render(template, cx, &mut buffer);
            if !value.is_empty() {
                cx.response.headers.append(name, value);
            }
        }
        for (name, template) in &self.set {
            match render(template, cx, &mut buffer) {
                [] => {
                    cx.response.headers.remove(name);
                }
                value => cx.response.headers.set(name, value),
            }
        }
        for name in &self.remove {
            cx.response.headers.remove(name);
        }
    }
}

fn render<'a>(template: &'a Template, cx: &Context, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    if let Some(text) = template.constant() {
        return text.as_bytes();
    }
    buffer.clear();
    template.render_into(cx, "", buffer);
    buffer
}
