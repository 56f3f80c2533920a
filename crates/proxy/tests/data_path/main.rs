//! The data path over real sockets and real TLS: client → outbound → mTLS → inbound → program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod aside;
mod backend;
mod broken;
mod captured;
mod edge;
mod framing;
mod hedge;
mod introduced;
mod keeping;
mod late;
mod mesh;
mod outlier;
mod outside;
mod pool;
mod program;
mod protocols;
mod relay;
mod replay;
mod safety;
