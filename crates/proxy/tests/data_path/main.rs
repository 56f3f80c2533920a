//! The data path over real sockets and real TLS: client → outbound → mTLS → inbound → program.

mod broken;
mod mesh;
mod program;
mod relay;
mod safety;
