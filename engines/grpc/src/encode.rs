//! A message of the fields that a client sent, as loosely typed as lua-protobuf takes them: numbers as text, enumerations by name or
//! number (apisix/plugins/grpc-transcode/util.lua, request.lua). The surprise: text that is no number leaves an `int32` field out
//! instead of failing, as an empty input of a form would otherwise.
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Proto};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Where the fields come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Json,
    /// A query or a form: a name that is there once may still be a list.
    Arguments,
}

/// A value cannot stand in its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected for field '{field}'")]
pub struct EncodeError {
    pub field: String,
    pub expected: &'static str,
}

fn wrong(field: &FieldDescriptor, expected: &'static str) -> EncodeError {
    EncodeError { field: field.full_name().to_owned(), expected }
}

pub(crate) fn message(
    descriptor: &MessageDescriptor,
    fields: &Map<String, Value>,
    given: Given,
) -> Result<Vec<u8>, EncodeError> {
    Ok(build(descriptor, fields, given)?.encode_to_vec())
}

/// The depth is bounded by the parser of JSON.
fn build(
    descriptor: &MessageDescriptor,
    fields: &Map<String, Value>,
    given: Given,
) -> Result<DynamicMessage, EncodeError> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in fields {
        let Some(field) = descriptor.get_field_by_name(name) else { continue };
        let value = match value {
            Value::Null => None,
            value if field.is_map() => Some(map(&field, value, given)?),
            value if field.is_list() => Some(list(&field, value, given)?),
            value => single(&field, value, given)?,
        };
        if let Some(value) = value {
            message.try_set_field(&field, value).map_err(|_| wrong(&field, "another type"))?;
        }
    }
    Ok(message)
}

fn list(field: &FieldDescriptor, value: &Value, given: Given) -> Result<Proto, EncodeError> {
    let items = match value {
        Value::Array(items) => items.as_slice(),
        // An empty table is either.
        Value::Object(items) if items.is_empty() => &[],
        lone if given == Given::Arguments => std::slice::from_ref(lone),
        _ => return Err(wrong(field, "array")),
    };
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        all.extend(single(field, item, given)?);
    }
    Ok(Proto::List(all))
}

fn map(field: &FieldDescriptor, value: &Value, given: Given) -> Result<Proto, EncodeError> {
    let (Value::Object(entries), Kind::Message(entry)) = (value, field.kind()) else {
        return match value {
            Value::Array(items) if items.is_empty() => Ok(Proto::Map(HashMap::new())),
            _ => Err(wrong(field, "object")),
        };
    };
    let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
    let mut all = HashMap::with_capacity(entries.len());
    for (name, value) in entries {
        let number = || text_integer(name).ok_or_else(|| wrong(field, "integer key"));
        let key = match key_field.kind() {
            Kind::String => MapKey::String(name.clone()),
            Kind::Bool => MapKey::Bool(name == "true" || name == "1"),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(number()? as i32),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(number()? as u32),
            Kind::Uint64 | Kind::Fixed64 => MapKey::U64(number()?),
            _ => MapKey::I64(number()? as i64),
        };
        if !value.is_null()
            && let Some(value) = single(&value_field, value, given)?
        {
            all.insert(key, value);
        }
    }
    Ok(Proto::Map(all))
}

/// One value; `None` where the field is left out.
fn single(field: &FieldDescriptor, value: &Value, given: Given) -> Result<Option<Proto>, EncodeError> {
    let kind = field.kind();
    let number = || integer(value).ok_or_else(|| wrong(field, "number/'#number'"));
    let real = || real(value).ok_or_else(|| wrong(field, "number/'#number'"));
    let text = || value.as_str().ok_or_else(|| wrong(field, "string"));
    Ok(Some(match &kind {
        Kind::Int32 if value.is_string() && integer(value).is_none() => return Ok(None),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Proto::I32(number()? as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Proto::I64(number()? as i64),
        Kind::Uint32 | Kind::Fixed32 => Proto::U32(number()? as u32),
        Kind::Uint64 | Kind::Fixed64 => Proto::U64(number()?),
        Kind::Float => Proto::F32(real()? as f32),
        Kind::Double => Proto::F64(real()?),
        Kind::Bool => Proto::Bool(truth(value)),
        Kind::String => Proto::String(text()?.to_owned()),
        Kind::Bytes => Proto::Bytes(bytes::Bytes::copy_from_slice(text()?.as_bytes())),
        Kind::Enum(names) => {
            let named = value.as_str().and_then(|name| names.get_value_by_name(name)).map(|found| found.number());
            let number = named.or_else(|| integer(value).map(|n| n as i32));
            Proto::EnumNumber(number.ok_or_else(|| wrong(field, "number/string"))?)
        }
        Kind::Message(inner) => match value {
            Value::Object(fields) => Proto::Message(build(inner, fields, given)?),
            Value::Array(items) if items.is_empty() => Proto::Message(DynamicMessage::new(inner.clone())),
            _ => return Err(wrong(field, "object")),
        },
    }))
}

/// Whatever is not false, `false` or 0 is true.
fn truth(value: &Value) -> bool {
    match value {
        Value::Bool(truth) => *truth,
        Value::String(text) => text != "false" && text != "0",
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => decimal(text),
        _ => None,
    }
}

/// A number as text; `inf` and `nan` are words, not numbers.
fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.bytes().any(|b| b.is_ascii_digit()) || text.bytes().any(|b| b.is_ascii_alphabetic() && b | 0x20 != b'e') {
        return None;
    }
    text.parse().ok()
}

/// An integer's 64 bits, the sign with them. Fractions are cut off.
fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Some(n as u64),
            (None, Some(n)) => Some(n),
            (None, None) => number.as_f64().and_then(whole),
        },
        Value::String(text) => text_integer(text),
        _ => None,
    }
}

fn whole(n: f64) -> Option<u64> {
    (n >= i64::MIN as f64 && n <= i64::MAX as f64).then_some(n as i64 as u64)
}

/// lua-protobuf's forms: decimal, or any number of `#`, `+` and `-` before decimal or `0x` digits.
fn text_integer(text: &str) -> Option<u64> {
    let trimmed = text.trim();
    if let Ok(n) = trimmed.parse::<i64>() {
        return Some(n as u64);
    }
    if let Ok(n) = trimmed.parse::<u64>() {
        return Some(n);
    }
    if let Some(n) = decimal(trimmed) {
        return whole(n);
    }
    let digits = text.trim_start_matches(['#', '+', '-']);
    let signs = text.get(..text.len() - digits.len()).unwrap_or_default();
    let negative = signs.bytes().filter(|b| *b == b'-').count() % 2 == 1;
    let (digits, base) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    let mut n = 0u64;
    for digit in digits.chars() {
        n = n.wrapping_mul(u64::from(base)).wrapping_add(u64::from(digit.to_digit(base)?));
    }
    Some(if negative { n.wrapping_neg() } else { n })
}

#[cfg(test)]
mod tests;
