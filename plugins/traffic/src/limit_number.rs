//! A limit that is a number, or a string with variables that is resolved for each request.
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_expr::{Template, parse_number, write_number};
use sluice_plugin::Context;

/// Beyond this a Lua number is no exact integer.
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;

/// `count`, `time_window`, `conn`, `burst`.
#[derive(Clone, Debug, PartialEq)]
pub enum LimitNumber {
    Fixed(u64),
    Variable(Template, Box<str>),
}

impl LimitNumber {
    /// The number for this request. The error's text is APISIX's (`resolve_var` of apisix/plugins/limit-count/init.lua
    /// and limit-conn/init.lua). `zero`: whether 0 is allowed.
    #[inline]
    pub fn resolve(&self, cx: &Context, zero: bool) -> Result<u64, String> {
        match self {
            LimitNumber::Fixed(number) => Ok(*number),
            LimitNumber::Variable(template, _) => resolved(&template.render(cx, ""), zero),
        }
    }
}

fn resolved(text: &[u8], zero: bool) -> Result<u64, String> {
    let Some(number) = parse_number(text).filter(|n| !n.is_nan()) else {
        return Err(format!("resolved value is not a number: {}", String::from_utf8_lossy(text)));
    };
    let problem = if number < 0.0 && zero {
        "must be a non-negative number"
    } else if number <= 0.0 && !zero {
        "must be a positive number"
    } else if number.is_finite() && number != number.floor() {
        "must be an integer"
    } else if number > MAX_EXACT {
        "exceeds safe integer range (2^53-1)"
    } else {
        return Ok(number as u64);
    };
    let mut got = Vec::new();
    write_number(number, &mut got);
    Err(format!("resolved value {problem}, got: {}", String::from_utf8_lossy(&got)))
}

impl<'de> Deserialize<'de> for LimitNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Integer(u64),
            Number(f64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Integer(number) => Ok(LimitNumber::Fixed(number)),
            Form::Number(number) if number >= 0.0 && number.fract() == 0.0 => Ok(LimitNumber::Fixed(number as u64)),
            Form::Number(number) => Err(serde::de::Error::custom(format!("{number} is not a whole number"))),
            Form::Text(text) => Ok(LimitNumber::Variable(Template::compile(&text), text.into())),
        }
    }
}

impl Serialize for LimitNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LimitNumber::Fixed(number) => serializer.serialize_u64(*number),
            LimitNumber::Variable(_, text) => serializer.serialize_str(text),
        }
    }
}

/// Schema of a number above 0.
pub fn positive(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"oneOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string"}]})
}

/// Schema of a number from 0.
pub fn natural(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_must_give_safe_integers() {
        assert_eq!(resolved(b"12", false), Ok(12));
        assert_eq!(resolved(b"0", true), Ok(0));
        for (text, zero, error) in [
            ("", false, "resolved value is not a number: "),
            ("abc", false, "resolved value is not a number: abc"),
            ("nan", false, "resolved value is not a number: nan"),
            ("0", false, "resolved value must be a positive number, got: 0"),
            ("-1", true, "resolved value must be a non-negative number, got: -1"),
            ("1.5", false, "resolved value must be an integer, got: 1.5"),
            ("9007199254740993", false, "resolved value exceeds safe integer range (2^53-1), got: 9.007199254741e+15"),
            ("inf", false, "resolved value exceeds safe integer range (2^53-1), got: inf"),
        ] {
            assert_eq!(resolved(text.as_bytes(), zero), Err(error.to_string()), "{text}");
        }
    }

    #[test]
    fn both_forms_are_read_and_written() {
        for json in ["5", "\"$http_x\""] {
            let number: LimitNumber = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&number).unwrap(), json);
        }
        assert_eq!(serde_json::from_str::<LimitNumber>("5.0").unwrap(), LimitNumber::Fixed(5));
        assert!(serde_json::from_str::<LimitNumber>("-5").is_err());
    }
}
