//! `grpc-status-details-bin`: why a call failed, in JSON (apisix/plugins/grpc-transcode/response.lua `handle_error_response`). The
//! surprise: details are decoded as the one type that is configured, whatever type they say they are.
use crate::options::Options;
use crate::print::{self, Object};
use crate::{Definition, PrintError};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::DynamicMessage;
use std::sync::LazyLock;

/// gRPC leaves the padding out; servers do as they like.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The shape of google/rpc/status.proto.
const STATUS: &str = r#"
    syntax = "proto3";
    package grpc_status;
    message Any { string type_url = 1; bytes value = 2; }
    message ErrorStatus { int32 code = 1; string message = 2; repeated Any details = 3; }
"#;

static DEFINITION: LazyLock<Option<Definition>> = LazyLock::new(|| Definition::compile(STATUS).ok());

/// What the client is told where the field cannot be decoded, and why, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{told}, err: {cause}")]
pub struct StatusError {
    pub told: &'static str,
    pub cause: String,
}

/// The field's value as `{"error": …}`. `detail_type` is a message of `definition`.
pub fn status_details(
    field: &[u8],
    definition: &Definition,
    detail_type: Option<&str>,
    options: Options,
) -> Result<Vec<u8>, StatusError> {
    const STATUS_FAILS: &str = "failed to call pb.decode to decode grpc-status-details-bin";
    const DETAILS_FAIL: &str = "failed to call pb.decode to decode details in grpc-status-details-bin";
    let no_base64 = |e: base64::DecodeError| StatusError {
        told: "grpc-status-details-bin is not base64 format",
        cause: e.to_string(),
    };
    let failed = |told: &'static str| move |error: PrintError| StatusError { told, cause: error.0 };
    let bytes = LENIENT.decode(field).map_err(no_base64)?;
    let shape = DEFINITION.as_ref().and_then(|own| own.message("grpc_status.ErrorStatus"));
    let shape = shape.ok_or_else(|| failed(STATUS_FAILS)(PrintError("no such type".into())))?;
    let decoded = DynamicMessage::decode(shape, bytes.as_slice());
    let decoded = decoded.map_err(|error| failed(STATUS_FAILS)(PrintError(error.to_string())))?;
    let mut out = br#"{"error":"#.to_vec();
    match detail_type {
        None => print::message(&decoded, options, &mut out).map_err(failed(STATUS_FAILS))?,
        Some(name) => {
            let mut object = Object::begin(&mut out);
            for field in ["code", "message"] {
                let value = decoded.get_field_by_name(field);
                match value.as_deref() {
                    Some(prost_reflect::Value::I32(code)) => {
                        object.name(field).extend_from_slice(code.to_string().as_bytes());
                    }
                    Some(prost_reflect::Value::String(text)) => print::text(text.as_bytes(), object.name(field)),
                    _ => {}
                }
            }
            let details = decoded.get_field_by_name("details");
            let details = details.as_deref().and_then(prost_reflect::Value::as_list).unwrap_or_default();
            let list = object.name("details");
            list.push(b'[');
            for (i, detail) in details.iter().enumerate() {
                if i > 0 {
                    list.push(b',');
                }
                let value = detail.as_message().and_then(|any| any.get_field_by_name("value"));
                let bytes = value.as_deref().and_then(prost_reflect::Value::as_bytes).cloned().unwrap_or_default();
                let unknown = || PrintError(format!("type '{name}' does not exists"));
                let shape = definition.message(name).ok_or_else(unknown).map_err(failed(DETAILS_FAIL))?;
                let detail = DynamicMessage::decode(shape, bytes);
                let detail = detail.map_err(|error| failed(DETAILS_FAIL)(PrintError(error.to_string())))?;
                print::message(&detail, options, list).map_err(failed(DETAILS_FAIL))?;
            }
            list.push(b']');
            object.end();
        }
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: &[u8] = b"CA4SDk91dCBvZiBzZXJ2aWNlGlcKKnR5cGUuZ29vZ2xlYXBpcy5jb20vaGVsbG93b3JsZC5FcnJvckRldGFpbBIpCAESHFRoZSBzZXJ2ZXIgaXMgb3V0IG9mIHNlcnZpY2UaB3NlcnZpY2U";

    fn told(detail_type: Option<&str>, field: &[u8]) -> Result<String, &'static str> {
        let definition = Definition::compile(
            r#"syntax = "proto3"; package helloworld;
               message ErrorDetail { int64 code = 1; string message = 2; string type = 3; }"#,
        );
        let told = status_details(field, &definition.unwrap(), detail_type, Options::default());
        told.map(|told| String::from_utf8(told).unwrap()).map_err(|error| error.told)
    }

    #[test]
    fn details_are_shown_and_decoded_on_request() {
        let plain = r#"{"error":{"code":14,"message":"Out of service","details":[{"type_url":"type.googleapis.com/helloworld.ErrorDetail","value":"\b\u0001\u0012\u001cThe server is out of service\u001a\u0007service"}]}}"#;
        assert_eq!(told(None, FIELD).unwrap(), plain);
        let decoded = r#"{"error":{"code":14,"message":"Out of service","details":[{"code":1,"message":"The server is out of service","type":"service"}]}}"#;
        assert_eq!(told(Some("helloworld.ErrorDetail"), FIELD).unwrap(), decoded);
    }

    #[test]
    fn what_cannot_be_decoded_is_told() {
        assert_eq!(told(None, b"$"), Err("grpc-status-details-bin is not base64 format"));
        assert_eq!(told(None, b"/w"), Err("failed to call pb.decode to decode grpc-status-details-bin"));
        let wrong = "failed to call pb.decode to decode details in grpc-status-details-bin";
        assert_eq!(told(Some("helloworld.error"), FIELD), Err(wrong));
    }
}
