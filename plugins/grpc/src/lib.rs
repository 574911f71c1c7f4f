//! The gRPC family: calls of gRPC for clients that do not speak it.

mod base64_stream;
mod grpc_transcode;
mod grpc_web;

use sluice_plugin::{Definition, define};

/// The plugins of this family, alphabetical.
pub static PLUGINS: &[Definition] = &[define::<grpc_transcode::GrpcTranscode>(), define::<grpc_web::GrpcWeb>()];
