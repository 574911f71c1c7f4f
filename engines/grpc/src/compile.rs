//! Content to descriptors. The surprise: the text may have options that nobody declares, such as `(google.api.http)` without its
//! import; they say nothing of messages and are left out, as lua-protobuf leaves them out.
use crate::ProtoError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::DescriptorPool;
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    UninterpretedOption,
};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// The name under which the text is compiled.
const NAME: &str = "content.proto";

/// Compiles content of either form. It may import Google's well-known types, and nothing else: there are no other files.
pub(crate) fn compile(content: &str) -> Result<DescriptorPool, ProtoError> {
    let wrong = match text(content) {
        Ok(pool) => return Ok(pool),
        Err(error) => error,
    };
    let set = STANDARD.decode(content.trim()).ok().filter(|set| !set.is_empty());
    set.and_then(|set| descriptor_set(&set)).filter(|pool| pool.files().len() > 0).ok_or(wrong)
}

fn text(content: &str) -> Result<DescriptorPool, ProtoError> {
    let file = File::from_source(NAME, content).map_err(|error| message(&error))?;
    let mut plain = file.file_descriptor_proto().clone();
    let wrong = match pool(Content(file)) {
        Ok(pool) => return Ok(pool),
        Err(error) => error,
    };
    drop_options(&mut plain);
    pool(Content(File::from_file_descriptor_proto(plain))).map_err(|_| wrong)
}

fn pool(content: Content) -> Result<DescriptorPool, ProtoError> {
    let mut files = ChainFileResolver::new();
    files.add(content);
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    compiler.open_file(NAME).map_err(|error| message(&error))?;
    Ok(compiler.descriptor_pool())
}

/// The compiler's message with its place.
fn message(error: &protox::Error) -> ProtoError {
    let lines = format!("{error:?}");
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ProtoError(lines.join(" "))
}

/// The one file there is.
struct Content(File);

impl FileResolver for Content {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == NAME { Ok(self.0.clone()) } else { Err(protox::Error::file_not_found(name)) }
    }
}

/// A set; Google's well-known types need not be in it.
fn descriptor_set(bytes: &[u8]) -> Option<DescriptorPool> {
    if let Ok(pool) = DescriptorPool::decode(bytes) {
        return Some(pool);
    }
    let set = FileDescriptorSet::decode(bytes).ok()?;
    let there: Vec<&str> = set.file.iter().filter_map(|file| file.name.as_deref()).collect();
    let mut pool = DescriptorPool::new();
    let google = GoogleFileResolver::new();
    for name in set.file.iter().flat_map(|file| &file.dependency) {
        if !there.contains(&name.as_str())
            && pool.get_file_by_name(name).is_none()
            && let Ok(file) = google.open_file(name)
        {
            pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).ok()?;
        }
    }
    pool.decode_file_descriptor_set(bytes).ok()?;
    Some(pool)
}

/// Leaves out the options that somebody's file would have to declare.
fn drop_options(file: &mut FileDescriptorProto) {
    keep(file.options.as_mut().map(|own| &mut own.uninterpreted_option));
    file.message_type.iter_mut().for_each(of_message);
    file.enum_type.iter_mut().for_each(of_enum);
    file.extension.iter_mut().for_each(of_field);
    for service in &mut file.service {
        keep(service.options.as_mut().map(|own| &mut own.uninterpreted_option));
        for method in &mut service.method {
            keep(method.options.as_mut().map(|own| &mut own.uninterpreted_option));
        }
    }
}

/// The depth is bounded by the parser.
fn of_message(message: &mut DescriptorProto) {
    keep(message.options.as_mut().map(|own| &mut own.uninterpreted_option));
    message.field.iter_mut().for_each(of_field);
    message.extension.iter_mut().for_each(of_field);
    message.enum_type.iter_mut().for_each(of_enum);
    message.nested_type.iter_mut().for_each(of_message);
    for oneof in &mut message.oneof_decl {
        keep(oneof.options.as_mut().map(|own| &mut own.uninterpreted_option));
    }
    for range in &mut message.extension_range {
        keep(range.options.as_mut().map(|own| &mut own.uninterpreted_option));
    }
}

fn of_enum(of: &mut EnumDescriptorProto) {
    keep(of.options.as_mut().map(|own| &mut own.uninterpreted_option));
    for value in &mut of.value {
        keep(value.options.as_mut().map(|own| &mut own.uninterpreted_option));
    }
}

fn of_field(field: &mut FieldDescriptorProto) {
    keep(field.options.as_mut().map(|own| &mut own.uninterpreted_option));
}

fn keep(options: Option<&mut Vec<UninterpretedOption>>) {
    if let Some(options) = options {
        options.retain(|option| !option.name.iter().any(|part| part.is_extension));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::prost_types::FileDescriptorSet;

    const HELLO: &str = r#"
        syntax = "proto3";
        package hello;
        import "google/protobuf/timestamp.proto";
        message Request { string name = 1; google.protobuf.Timestamp at = 2; }
        message Reply { string text = 1; }
        service Greeter { rpc Greet (Request) returns (Reply) {} }
    "#;

    fn is_whole(pool: &DescriptorPool) -> bool {
        pool.get_service_by_name("hello.Greeter").is_some()
            && pool.get_message_by_name("google.protobuf.Timestamp").is_some()
    }

    #[test]
    fn text_and_descriptor_sets_are_compiled() {
        let first = compile(HELLO).unwrap();
        assert!(is_whole(&first));
        let whole = first.encode_to_vec();
        assert!(is_whole(&compile(&STANDARD.encode(&whole)).unwrap()));
        let mut set = FileDescriptorSet::decode(whole.as_slice()).unwrap();
        set.file.retain(|file| file.name() == NAME);
        assert!(is_whole(&compile(&STANDARD.encode(set.encode_to_vec())).unwrap()));
    }

    #[test]
    fn options_of_others_are_left_out() {
        let text = r#"
            syntax = "proto3";
            option (own.file) = "x";
            message A { option (own.message) = true; string a = 1 [(own.field).deep = 1, deprecated = true]; }
            enum E { option (own.enum) = 1; NONE = 0 [(own.value) = 2]; }
            service S { option (own.service) = 1; rpc Get (A) returns (A) { option (google.api.http) = { get: "/a" }; } }
        "#;
        let pool = compile(text).unwrap();
        let field = pool.get_message_by_name("A").unwrap().get_field_by_name("a").unwrap();
        assert!(field.field_descriptor_proto().options.as_ref().unwrap().deprecated());
        assert!(pool.get_service_by_name("S").is_some());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let twice = r#"syntax = "proto3"; message A { int32 a = 1; string b = 1; }"#;
        assert_eq!(compile(twice).unwrap_err().0, "content.proto:1:56: field number '1' is already used");
        assert!(compile("message A {").is_err());
        assert!(compile("bm90IGEgc2V0").is_err());
        assert!(compile("").is_err() || compile("").unwrap().services().len() == 0);
        let imports = r#"syntax = "proto3"; import "other.proto";"#;
        let error = compile(imports).unwrap_err().0;
        assert!(error.contains("other.proto"), "{error}");
    }
}
