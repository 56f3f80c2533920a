//! The evidence: what Naka promises, seen from outside on real processes. Each test has a twin that shows it can fail.
//!
//! Sizes: quick by default, full with `NAKA_EVIDENCE=full` (`make evidence`). Run with few threads: each test is a mesh.

mod access;
mod api;
mod authority;
mod backup;
mod balance;
mod binds;
mod captured;
mod change;
mod check;
mod cli;
mod conformance;
mod count;
mod crowd;
mod databases;
mod days;
mod egress;
mod envoy;
mod grpc_web;
mod held;
mod host;
mod identity;
mod input;
mod languages;
mod limits;
mod machines;
mod namespace;
mod newcomer;
mod notify;
mod observe;
mod package;
mod protocols;
mod proxyless;
mod ready;
mod refused;
mod restart;
mod scenario;
mod seal;
mod skew;
mod source;
mod support;
mod tokens;
mod traffic;
mod why;
mod wire;
