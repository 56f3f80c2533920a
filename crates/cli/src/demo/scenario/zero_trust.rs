//! A bank's ledger: whoever reaches it is cleared, of a zone that may cross, and named.

use super::stage::{Program, Stage};
use super::stories::{during, good, program};
use super::{Claim, Proof};

const LEDGER: &[&str] = &["ledger"];

/// The bank's programs.
pub(super) const PARTS: &[Program] = &[
    banking(
        "teller",
        &["security-clearance=critical", "trust-zone=INTERNAL_ZONE"],
        LEDGER,
    ),
    banking(
        "netbanking",
        &["security-clearance=critical", "trust-zone=DMZ"],
        LEDGER,
    ),
    banking(
        "report",
        &["security-clearance=internal", "trust-zone=INTERNAL_ZONE"],
        LEDGER,
    ),
    banking(
        "marketing",
        &["security-clearance=critical", "trust-zone=INTERNAL_ZONE"],
        LEDGER,
    ),
    banking("ledger", &["trust-zone=DATA_ZONE"], &[]),
];

/// A program of a bank, by clearance and zone, that calls others.
const fn banking(
    service: &'static str,
    labels: &'static [&'static str],
    calls: &'static [&'static str],
) -> Program {
    Program {
        labels,
        calls,
        ..program(service, "v1", 200, 0)
    }
}

/// Its routes and policies.
pub(super) const MANIFESTS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bank}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - match: [{uri: {prefix: /teller}}]
    route: [{destination: {host: teller}}]
  - match: [{uri: {prefix: /netbanking}}]
    route: [{destination: {host: netbanking}}]
  - match: [{uri: {prefix: /report}}]
    route: [{destination: {host: report}}]
  - match: [{uri: {prefix: /marketing}}]
    route: [{destination: {host: marketing}}]
---
apiVersion: naka.dev/v1alpha1
kind: TrustModel
metadata: {name: bank}
spec:
  selector: {matchLabels: {app: ledger}}
  crossings: [{from: INTERNAL_ZONE, to: DATA_ZONE}]
  operations:
  - {name: post, hosts: [ledger], methods: [POST], clearance: critical, auditTrail: comprehensive}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ledger}
spec:
  selector: {matchLabels: {app: ledger}}
  rules:
  - from: [{source: {serviceAccounts: [teller, netbanking, report]}}]
    to: [{operation: {methods: [POST]}}]
";

/// Whether a caller of the ledger was called, and what came of it there.
async fn posted(stage: &Stage, caller: &str) -> (bool, u64, String) {
    let path = format!("/{caller}");
    let (answers, served) = during(stage, stage.many(20, 4, &path, &[])).await;
    let (called, there) = (served.of(&format!("{caller}-v1")), served.of("ledger-v1"));
    let told = format!(
        "{called} of 20 calls came to {caller}, {there} of them on to the ledger, {} were answered",
        good(&answers)
    );
    (called == 20, there, told)
}

/// What is claimed of it.
pub(super) fn prove(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let mut claims = Vec::new();
        for (caller, reach, claim) in [
            (
                "teller",
                20,
                "a teller, cleared and of the internal zone, posts to the ledger",
            ),
            (
                "netbanking",
                0,
                "net banking is cleared, and from the DMZ nobody reaches the ledger",
            ),
            (
                "report",
                0,
                "a report of the internal zone has too little clearance for the ledger",
            ),
            (
                "marketing",
                0,
                "who is cleared and of the zone, but not named, does not reach the ledger",
            ),
        ] {
            let (called, there, told) = posted(stage, caller).await;
            claims.push(Claim::new(claim, called && there == reach, told));
        }
        let peers = stage.peers();
        let right = peers.iter().filter(|peer| peer.starts_with("spiffe://"));
        let right = right.count();
        claims.push(Claim::new(
            "every program verified its caller by mutual TLS",
            right == peers.len() && right > 0,
            format!("{right} of {} requests", peers.len()),
        ));
        claims
    })
}
