//! The two readers that `oracle.rs` compares, each behind the same small face.
pub mod ours;
pub mod theirs;
