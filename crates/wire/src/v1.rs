//! Naka's own messages, `naka.wire.v1`: what `proto/naka/wire/v1/workloads.proto` says.
#![expect(
    missing_docs,
    clippy::too_many_lines,
    reason = "generated; the comments are in the .proto file"
)]

include!("gen/naka.wire.v1.rs");
