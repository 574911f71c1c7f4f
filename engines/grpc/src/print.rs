//! Messages as JSON, as lua-protobuf and cjson would write them: names of fields as in the definition, `bytes` as they are, and
//! beside a chosen field of a `oneof` the choice itself (`"kind":"number_value","number_value":1`). The surprise: well-known types
//! are messages like others, `Struct` has its `fields`.
use crate::options::{Defaults, Int64, Options};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Syntax, Value};

/// A message cannot be read, or not be written as JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrintError(pub String);

/// Writes a message. Its depth is bounded by the decoder.
pub(crate) fn message(message: &DynamicMessage, options: Options, out: &mut Vec<u8>) -> Result<(), PrintError> {
    let descriptor = prost_reflect::ReflectMessage::descriptor(message);
    let proto3 = descriptor.parent_file().syntax() == Syntax::Proto3;
    let mut object = Object::begin(out);
    for field in descriptor.fields() {
        let choice = field.containing_oneof();
        if message.has_field(&field) {
            if let Some(choice) = choice.filter(|choice| !choice.is_synthetic()) {
                text(field.name().as_bytes(), object.name(choice.name()));
            }
            value(&message.get_field(&field), &field, options, object.name(field.name()))?;
        } else if field.is_list() || field.is_map() {
            if proto3 && options.defaults != Defaults::None {
                let empty: &[u8] = if field.is_map() { b"{}" } else { b"[]" };
                object.name(field.name()).extend_from_slice(empty);
            }
        } else if choice.is_none() && !matches!(field.kind(), Kind::Message(_)) && shown(&field, proto3, options) {
            value(&field.default_value(), &field, options, object.name(field.name()))?;
        }
    }
    object.end();
    Ok(())
}

/// Whether a single field's default value is written.
fn shown(field: &FieldDescriptor, proto3: bool, options: Options) -> bool {
    match options.defaults {
        Defaults::Auto => proto3,
        Defaults::All => proto3 || field.field_descriptor_proto().default_value.is_some(),
        Defaults::None | Defaults::Containers => false,
    }
}

fn value(value: &Value, field: &FieldDescriptor, options: Options, out: &mut Vec<u8>) -> Result<(), PrintError> {
    match value {
        Value::Bool(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
        Value::I32(n) => integer(i128::from(*n), options, out),
        Value::I64(n) => integer(i128::from(*n), options, out),
        Value::U32(n) => integer(i128::from(*n), options, out),
        Value::U64(n) => integer(i128::from(*n), options, out),
        Value::F32(n) => real(f64::from(*n), serde_json::Number::from_f64(shortest(*n)), out),
        Value::F64(n) => real(*n, serde_json::Number::from_f64(*n), out),
        Value::String(own) => text(own.as_bytes(), out),
        Value::Bytes(own) => text(own, out),
        Value::EnumNumber(n) => {
            let name = match field_kind(field) {
                Kind::Enum(names) if !options.enum_as_value => names.get_value(*n),
                _ => None,
            };
            match name {
                Some(name) => text(name.name().as_bytes(), out),
                None => integer(i128::from(*n), options, out),
            }
        }
        Value::Message(own) => message(own, options, out)?,
        Value::List(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                self::value(item, field, options, out)?;
            }
            out.push(b']');
        }
        Value::Map(entries) => {
            // The map has no order of its own; equal answers are to be equal text.
            let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
            let mut object = Object::begin(out);
            for (key, item) in entries {
                let name = match key {
                    MapKey::Bool(key) => key.to_string(),
                    MapKey::I32(key) => key.to_string(),
                    MapKey::I64(key) => key.to_string(),
                    MapKey::U32(key) => key.to_string(),
                    MapKey::U64(key) => key.to_string(),
                    MapKey::String(key) => key.clone(),
                };
                self::value(item, field, options, object.name(&name))?;
            }
            object.end();
        }
    }
    Ok(())
}

/// The kind of a field's values: of a map, of its entries' values.
fn field_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

fn integer(n: i128, options: Options, out: &mut Vec<u8>) {
    let plain = i128::from(i32::MIN)..=i128::from(u32::MAX);
    if options.int64 == Int64::Number || plain.contains(&n) {
        out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        return;
    }
    let (sign, n) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
    let written = match options.int64 {
        Int64::Hexadecimal => format!("\"#{sign}0x{n:X}\""),
        _ => format!("\"#{sign}{n}\""),
    };
    out.extend_from_slice(written.as_bytes());
}

/// The shortest decimal that is this number as a `float`, not what is left of it as a `double`.
fn shortest(n: f32) -> f64 {
    n.to_string().parse().unwrap_or(f64::from(n))
}

/// JSON has no infinity and no NaN: they are text, as in protobuf's own mapping.
fn real(n: f64, number: Option<serde_json::Number>, out: &mut Vec<u8>) {
    const WHOLE: f64 = 1e15;
    match number {
        Some(_) if n.fract() == 0.0 && n.abs() < WHOLE => {
            out.extend_from_slice(itoa::Buffer::new().format(n as i64).as_bytes());
        }
        Some(number) => out.extend_from_slice(number.to_string().as_bytes()),
        None if n.is_nan() => out.extend_from_slice(b"\"NaN\""),
        None if n > 0.0 => out.extend_from_slice(b"\"Infinity\""),
        None => out.extend_from_slice(b"\"-Infinity\""),
    }
}

/// A JSON string of bytes. What is no UTF-8 passes as it is.
pub(crate) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{8}' => out.extend_from_slice(b"\\b"),
                '\u{c}' => out.extend_from_slice(b"\\f"),
                '\0'..='\u{1f}' | '\u{7f}' => out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
    out.push(b'"');
}

/// An object under way.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, first: true }
    }

    /// The next member; its value goes behind.
    pub fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b',');
        }
        text(name.as_bytes(), self.out);
        self.out.push(b':');
        self.out
    }

    pub fn end(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests;
