//! End-to-end tests: the built binary as a process, real sockets, bytes on the wire. One binary, a module per area.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod admin;
mod authorization;
mod balancing;
mod breakage;
mod breaker;
mod cache;
mod control;
mod debug;
mod declarative;
mod defaults;
mod discovery;
mod etcd;
mod examples;
mod explain;
mod grpc;
mod grpc_transcode;
mod grpc_web;
mod health;
mod http2;
mod identity;
mod lifecycle;
mod limits;
mod load;
mod loggers;
mod login;
mod monitoring;
mod releases;
mod reload;
mod retries;
mod secrets;
mod slow;
mod smuggling;
mod stapling;
mod start;
mod stream;
mod streaming;
mod tls;
mod traces;
mod watching;
