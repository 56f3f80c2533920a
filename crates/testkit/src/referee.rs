//! The referee: every case of `cases/` through `naka explain`, Naka's own proxies and a stock Envoy, all configured by
//! our own control plane, and the verdict compared.
//!
//! A lane ([`lane`]) is a mesh of its own with long-lived callers, one beside Naka's sidecar and one beside an Envoy;
//! cases take turns in it, exactly as they are written: in the same namespaces and with the same names as `naka explain`
//! reads them. Lanes run beside each other. The endpoints of a case ([`upstream`]) are scripted servers in this process,
//! with ports of its own for every case, so nothing that one case taught a proxy about an endpoint reaches the next.
//! What each of the three saw becomes one form ([`seen`]) and is held against one verdict.
//!
//! Not here: what a case looks like to its writer (`docs/tasks/case.md`).

mod callee;
pub mod case;
pub mod certs;
pub mod client;
pub mod explained;
pub mod fields;
pub mod generate;
pub mod lane;
#[cfg(test)]
mod proofs;
mod proxied;
pub mod run;
pub mod seen;
pub mod topology;
pub mod upstream;
