//! Protobuf definitions: the `content` of a proto resource compiled to descriptors (apisix/plugins/grpc-transcode/proto.lua), and
//! what is done with them: messages from JSON and to JSON, the frames of gRPC. The surprise: content is either `.proto` text or a `FileDescriptorSet` in base64, and nothing says which; the text is
//! tried first, and where neither holds the text's error counts.

mod compile;
mod encode;
mod frames;
mod library;
mod options;
mod print;
mod status;

pub use encode::{EncodeError, Given};
pub use frames::{FrameError, Frames, frame};
pub use library::{Library, Proto};
pub use options::{Defaults, Int64, Options};
pub use print::PrintError;
pub use status::{StatusError, status_details};

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::{Map, Value};

/// The content is neither; the message tells what is wrong with it as text, with line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtoError(pub String);

/// A compiled definition, cheap to clone.
#[derive(Clone, Debug)]
pub struct Definition {
    pool: DescriptorPool,
}

impl Definition {
    /// Compiles content. It may import Google's well-known types, and nothing else: there are no other files.
    pub fn compile(content: &str) -> Result<Definition, ProtoError> {
        compile::compile(content).map(|pool| Definition { pool })
    }

    /// A method by its service's full name, `helloworld.Greeter`, and its own.
    pub fn method(&self, service: &str, method: &str) -> Option<Method> {
        let service = self.pool.get_service_by_name(service)?;
        let method = service.methods().find(|own| own.name() == method)?;
        Some(Method { input: method.input(), output: method.output(), streams: method.is_server_streaming() })
    }

    /// A message by its full name.
    pub(crate) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name.trim_start_matches('.'))
    }
}

/// What a method takes and gives.
#[derive(Clone, Debug)]
pub struct Method {
    input: MessageDescriptor,
    output: MessageDescriptor,
    streams: bool,
}

impl Method {
    /// Whether it answers with any number of messages.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// The request's message of what a client sent. Fields that the message does not have are passed over.
    pub fn encode(&self, fields: &Map<String, Value>, given: Given) -> Result<Vec<u8>, EncodeError> {
        encode::message(&self.input, fields, given)
    }

    /// Writes an answer's message as JSON.
    pub fn print(&self, message: &[u8], options: Options, out: &mut Vec<u8>) -> Result<(), PrintError> {
        let message =
            DynamicMessage::decode(self.output.clone(), message).map_err(|error| PrintError(error.to_string()))?;
        print::message(&message, options, out)
    }
}

#[cfg(test)]
mod tests;
