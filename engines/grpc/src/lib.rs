//! Protobuf definitions: the `content` of a proto resource compiled to descriptors (apisix/plugins/grpc-transcode/proto.lua), and
//! what is done with them: messages from JSON and to JSON, the frames of gRPC. The surprise: content is either `.proto` text or a `FileDescriptorSet` in base64, and nothing says which; the text is
//! tried first, and where neither holds the text's error counts.

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

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use serde_json::{Map, Value};

/// The name under which the text is compiled.
const NAME: &str = "content.proto";

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
        let wrong = match text(content) {
            Ok(pool) => return Ok(Definition { pool }),
            Err(error) => error,
        };
        let set = STANDARD.decode(content.trim()).ok().filter(|set| !set.is_empty());
        match set.and_then(|set| DescriptorPool::decode(set.as_slice()).ok()) {
            Some(pool) if pool.files().len() > 0 => Ok(Definition { pool }),
            _ => Err(wrong),
        }
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

fn text(content: &str) -> Result<DescriptorPool, ProtoError> {
    let mut files = ChainFileResolver::new();
    files.add(Content(content.to_owned()));
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    compiler.open_file(NAME).map_err(|error| ProtoError(message(&error)))?;
    Ok(compiler.descriptor_pool())
}

/// The compiler's message with its place.
fn message(error: &protox::Error) -> String {
    format!("{error:?}").lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The one file there is.
struct Content(String);

impl FileResolver for Content {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == NAME { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = r#"
        syntax = "proto3";
        package hello;
        import "google/protobuf/timestamp.proto";
        message Request { string name = 1; google.protobuf.Timestamp at = 2; }
        message Reply { string text = 1; }
        service Greeter { rpc Greet (Request) returns (Reply) {} }
    "#;

    #[test]
    fn text_and_descriptor_sets_are_compiled() {
        let compiled = Definition::compile(HELLO).unwrap();
        assert!(compiled.method("hello.Greeter", "Greet").is_some());
        assert!(compiled.method("hello.Greeter", "Part").is_none());
        assert!(compiled.method("Greeter", "Greet").is_none());
        let set = STANDARD.encode(compiled.pool.encode_to_vec());
        let again = Definition::compile(&set).unwrap();
        assert!(again.method("hello.Greeter", "Greet").is_some());
        assert!(again.message(".hello.Request").is_some());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let twice = r#"syntax = "proto3"; message A { int32 a = 1; string b = 1; }"#;
        let error = Definition::compile(twice).unwrap_err().0;
        assert_eq!(error, "content.proto:1:56: field number '1' is already used");
        assert!(Definition::compile("message A {").is_err());
        assert!(Definition::compile("bm90IGEgc2V0").is_err());
        let imports = r#"syntax = "proto3"; import "other.proto";"#;
        let error = Definition::compile(imports).unwrap_err().0;
        assert!(error.contains("other.proto"), "{error}");
    }
}
