//! The schema of `grpc-transcode`, as APISIX tells it; what types cannot say stands here by hand.
use serde_json::{Value, json};

pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "max_resp_body_size": {
                "type": "integer", "minimum": 1, "default": 67108864,
                "description": "The largest message of an answer (bytes)."
            },
            "proto_id": {
                "description": "The proto resource that defines the service.",
                "anyOf": [
                    {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-_.]+$"},
                    {"type": "integer", "minimum": 1}
                ]
            },
            "service": {"type": "string", "description": "The service's full name, `package.Service`."},
            "method": {"type": "string", "description": "The method's name."},
            "deadline": {
                "type": "number", "default": 0,
                "description": "How long the call may take (milliseconds); 0 is without a limit."
            },
            "pb_option": {
                "description": "How messages become JSON.",
                "type": "array",
                "items": {"type": "string", "anyOf": [
                    {"description": "Enumerations.", "type": "string", "enum": ["enum_as_name", "enum_as_value"]},
                    {
                        "description": "Integers beyond 32 bits.", "type": "string",
                        "enum": ["int64_as_number", "int64_as_string", "int64_as_hexstring"]
                    },
                    {
                        "description": "What is written of fields that the message does not have.", "type": "string",
                        "enum": ["auto_default_values", "no_default_values", "use_default_values", "use_default_metatable"]
                    },
                    {"description": "No effect: there are no hooks.", "type": "string", "enum": ["enable_hooks", "disable_hooks"]}
                ]},
                "minItems": 1,
                "default": ["enum_as_name", "int64_as_number", "auto_default_values", "disable_hooks"]
            },
            "show_status_in_body": {
                "type": "boolean", "default": false,
                "description": "Show `grpc-status-details-bin` in the body of a call that failed."
            },
            "status_detail_type": {
                "type": "string",
                "description": "The message type of the details in it; they stay as they are without."
            }
        },
        "additionalProperties": true,
        "required": ["proto_id", "service", "method"]
    })
}
