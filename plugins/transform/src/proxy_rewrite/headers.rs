//! Header edits of `proxy-rewrite` and `request-rewrite`: added first, then set, then removed.
//!
//! The surprise: setting a field to an empty value removes it, and adding an empty value does nothing, as in OpenResty.
use serde_json::{Map, Value};
use sluice_expr::{Captures, Template};
use sluice_http::Known;
use sluice_plugin::{BuildError, Context};

/// A match of `regex_uri`: what was searched, and where the groups are.
pub(crate) type Match<'a> = Option<(&'a [u8], &'a Captures)>;

enum Piece {
    Text(Template),
    /// A group of `regex_uri`; empty where nothing matched.
    Group(usize),
}

enum Text {
    Constant(Vec<u8>),
    Pieces(Box<[Piece]>),
}

#[derive(Default)]
pub(crate) struct HeaderEdits {
    add: Vec<(Box<str>, Vec<Text>)>,
    set: Vec<(Box<str>, Vec<Text>)>,
    remove: Vec<(Box<str>, Known)>,
}

/// Whether the headers are given as `add`, `set`, `remove` (apisix/plugins/proxy-rewrite.lua `is_new_headers_conf`).
fn is_new_form(headers: &Map<String, Value>) -> bool {
    ["add", "set", "remove"].iter().any(|key| headers.get(*key).is_some_and(|v| v.is_object() || v.is_array()))
}

/// What the schema cannot say of the old form.
pub(crate) fn check(headers: &Map<String, Value>) -> Result<(), BuildError> {
    if is_new_form(headers) {
        return Ok(());
    }
    for (field, value) in headers {
        if !value.is_string() && !value.is_number() {
            return Err(BuildError::new("invalid type as header value"));
        }
        if field.is_empty() {
            return Err(BuildError::new("invalid field length in header"));
        }
        if !field.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err(BuildError::new("invalid field character in header"));
        }
        if value.as_str().is_some_and(|text| !text.bytes().all(|b| (b' '..0x7f).contains(&b))) {
            return Err(BuildError::new("invalid value character in header"));
        }
    }
    Ok(())
}

/// A header value as Lua prints it.
pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => {
            let mut out = Vec::new();
            sluice_expr::write_number(n.as_f64().unwrap_or_default(), &mut out);
            String::from_utf8(out).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

/// Fields that the gateway itself writes to the upstream.
fn is_reserved(known: Known) -> bool {
    matches!(known, Known::Host | Known::Connection | Known::Upgrade | Known::ContentLength | Known::TransferEncoding)
}

impl HeaderEdits {
    pub(crate) fn compile(headers: &Map<String, Value>) -> HeaderEdits {
        let fields = |map: Option<&Map<String, Value>>| {
            let usable = |(name, _): &(&String, &Value)| {
                let reserved = is_reserved(Known::from_name(name.as_bytes()));
                if reserved {
                    tracing::warn!(field = %name, "this field cannot be changed here");
                }
                !reserved
            };
            let texts = |value: &Value| match value {
                Value::Array(items) => items.iter().map(Text::compile).collect(),
                one => vec![Text::compile(one)],
            };
            map.into_iter().flatten().filter(usable).map(|(n, v)| (n.as_str().into(), texts(v))).collect()
        };
        if !is_new_form(headers) {
            return HeaderEdits { set: fields(Some(headers)), ..HeaderEdits::default() };
        }
        let names = headers.get("remove").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let known = names.map(|name| (name.into(), Known::from_name(name.as_bytes())));
        HeaderEdits {
            add: fields(headers.get("add").and_then(Value::as_object)),
            set: fields(headers.get("set").and_then(Value::as_object)),
            remove: known.filter(|(_, known)| !is_reserved(*known)).collect(),
        }
    }

    pub(crate) fn apply(&self, cx: &mut Context, found: Match<'_>) {
        let mut buffer = Vec::new();
        for (name, texts) in &self.add {
            for text in texts {
                let value = text.render(cx, found, &mut buffer);
                if !value.is_empty() {
                    cx.request.headers.append(name, value);
                }
            }
        }
        for (name, texts) in &self.set {
            if let [text] = texts.as_slice() {
                match text.render(cx, found, &mut buffer) {
                    [] => remove(cx, name),
                    value => cx.request.headers.set(name, value),
                }
                continue;
            }
            // Every value is read before the first is written: one may stand for the field itself.
            let mut values = Vec::with_capacity(texts.len());
            for text in texts {
                values.push(text.render(cx, found, &mut buffer).to_vec());
            }
            cx.request.headers.remove(name);
            for value in values.iter().filter(|v| !v.is_empty()) {
                cx.request.headers.append(name, value);
            }
        }
        for (name, known) in &self.remove {
            cx.request.headers.remove(name);
            if *known != Known::Other {
                cx.upstream.withhold(*known);
            }
        }
    }
}

fn remove(cx: &mut Context, name: &str) {
    cx.request.headers.remove(name);
    match Known::from_name(name.as_bytes()) {
        Known::Other => {}
        known => cx.upstream.withhold(known),
    }
}

impl Text {
    fn compile(value: &Value) -> Text {
        let text = value_text(value);
        let mut pieces = Vec::new();
        let push_text = |pieces: &mut Vec<Piece>, text: &str| {
            if !text.is_empty() {
                pieces.push(Piece::Text(Template::compile(text)));
            }
        };
        // `$1` and `${1}`, but not `\$1` (apisix/core/utils.lua `resolve_var_with_captures`).
        let (mut copied, mut position) = (0, 0);
        while let Some(found) = text.get(position..).and_then(|rest| rest.find('$')) {
            let at = position + found;
            position = at + 1;
            let rest = text.get(at + 1..).unwrap_or("").as_bytes();
            let open = usize::from(rest.first() == Some(&b'{'));
            let digits = rest.iter().skip(open).take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 || text.get(..at).is_some_and(|before| before.ends_with('\\')) {
                continue;
            }
            let close = usize::from(rest.get(open + digits) == Some(&b'}'));
            push_text(&mut pieces, text.get(copied..at).unwrap_or(""));
            let number = text.get(at + 1 + open..at + 1 + open + digits).and_then(|d| d.parse().ok());
            pieces.push(Piece::Group(number.unwrap_or(usize::MAX)));
            position = at + 1 + open + digits + close;
            copied = position;
        }
        push_text(&mut pieces, text.get(copied..).unwrap_or(""));
        match pieces.as_slice() {
            [] => Text::Constant(Vec::new()),
            [Piece::Text(template)] if template.constant().is_some() => Text::Constant(text.into_bytes()),
            _ => Text::Pieces(pieces.into()),
        }
    }

    fn render<'b>(&'b self, cx: &Context, found: Match<'_>, buffer: &'b mut Vec<u8>) -> &'b [u8] {
        let pieces = match self {
            Text::Constant(text) => return text,
            Text::Pieces(pieces) => pieces,
        };
        buffer.clear();
        for piece in pieces {
            match (piece, found) {
                (Piece::Text(template), _) => {
                    template.render_into(cx, "", buffer);
                }
                (Piece::Group(group), Some((subject, captures))) => {
                    buffer.extend_from_slice(captures.slice(*group, subject).unwrap_or_default());
                }
                (Piece::Group(_), None) => {}
            }
        }
        buffer
    }
}
