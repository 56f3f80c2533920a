//! The stories: programs, objects and claims of each.
//!
//! Claims count what programs logged; bounds of chance are wide enough that a right share fails once in ten thousand.

use super::stage::{Answer, Program, Stage};
use super::{Claim, Proof, Story, delivery, expired, zero_trust};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const fn program(
    service: &'static str,
    version: &'static str,
    status: u16,
    delay_ms: u64,
) -> Program {
    Program {
        service,
        version,
        status,
        delay_ms,
        region: "",
        namespace: "",
        calls: &[],
        labels: &[],
    }
}

/// A program in a region.
const fn there(
    region: &'static str,
    service: &'static str,
    version: &'static str,
    status: u16,
) -> Program {
    Program {
        region,
        ..program(service, version, status, 0)
    }
}

/// All scenarios.
pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "upi",
        region: "",
        parts: &[
            program("upi", "v1", 200, 0),
            program("upi", "v2", 200, 0),
            program("bank", "v1", 200, 0),
            program("bank", "ill", 503, 0),
            program("slow", "v1", 200, 2000),
        ],
        manifests: UPI,
        root_elsewhere: false,
        prove: upi,
    },
    Story {
        name: "tiers",
        region: "",
        parts: &[
            program("payment-service-premium", "v2", 200, 0),
            program("payment-service-standard", "v1", 200, 0),
        ],
        manifests: TIERS,
        root_elsewhere: false,
        prove: tiers,
    },
    Story {
        name: "zones",
        region: "",
        parts: &[
            program("delivery-service", "mumbai-optimized", 200, 0),
            program("delivery-service", "bangalore-optimized", 200, 0),
            program("counter", "quick", 200, 5),
            program("counter", "slow", 200, 100),
        ],
        manifests: ZONES,
        root_elsewhere: false,
        prove: zones,
    },
    Story {
        name: "merchants",
        region: "",
        parts: &[
            program("payment-processor", "a", 200, 0),
            program("payment-processor", "b", 200, 0),
            program("payment-processor", "c", 200, 0),
        ],
        manifests: MERCHANTS,
        root_elsewhere: false,
        prove: merchants,
    },
    Story {
        name: "bank-failover",
        region: "",
        parts: &[
            program("bank", "sbi", 503, 0),
            program("bank", "hdfc", 200, 0),
            program("bank", "icici", 200, 0),
        ],
        manifests: BANKS,
        root_elsewhere: false,
        prove: banks,
    },
    Story {
        name: "booking",
        region: "mumbai",
        parts: &[
            there("mumbai", "tickets", "mumbai", 200),
            there("delhi", "tickets", "delhi", 200),
            there("bangalore", "tickets", "bangalore", 200),
            there("mumbai", "seats", "mumbai", 503),
            there("delhi", "seats", "delhi", 200),
            there("bangalore", "seats", "bangalore", 200),
            there("delhi", "profile", "shared", 200),
        ],
        manifests: BOOKING,
        root_elsewhere: false,
        prove: booking,
    },
    Story {
        name: "delivery",
        region: "",
        parts: &[Program {
            namespace: "food-delivery",
            ..program("delivery-service", "v1", 200, 0)
        }],
        manifests: delivery::MANIFESTS,
        root_elsewhere: false,
        prove: delivery::prove,
    },
    Story {
        name: "expired-cert",
        region: "",
        parts: &[program("payment", "v1", 200, 0)],
        manifests: expired::MANIFESTS,
        root_elsewhere: true,
        prove: expired::prove,
    },
    Story {
        name: "zero-trust",
        region: "",
        parts: zero_trust::PARTS,
        manifests: zero_trust::MANIFESTS,
        root_elsewhere: false,
        prove: zero_trust::prove,
    },
];

const UPI: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: upi}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - match: [{uri: {prefix: /pay}}]
    route:
    - {destination: {host: upi, subset: v1}, weight: 90}
    - {destination: {host: upi, subset: v2}, weight: 10}
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /pay}
  - match: [{uri: {prefix: /settle}}]
    route: [{destination: {host: bank}}]
    retries: {attempts: 3, retryOn: 5xx}
  - match: [{uri: {prefix: /slow}}]
    route: [{destination: {host: slow}}]
    timeout: 300ms
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: upi}
spec:
  host: upi
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

const TIERS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tiers}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - match: [{headers: {customer-tier: {exact: premium}}}]
    route: [{destination: {host: payment-service-premium, subset: v2}}]
  - route: [{destination: {host: payment-service-standard, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: premium}
spec:
  host: payment-service-premium
  subsets: [{name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: standard}
spec:
  host: payment-service-standard
  subsets: [{name: v1, labels: {version: v1}}]
";

const ZONES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: zones}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - match: [{uri: {prefix: /counter}}]
    route: [{destination: {host: counter}}]
  - match: [{headers: {delivery-zone: {exact: mumbai-central}}}]
    route: [{destination: {host: delivery-service, subset: mumbai-optimized}}]
  - match: [{headers: {delivery-zone: {exact: bangalore}}}]
    route: [{destination: {host: delivery-service, subset: bangalore-optimized}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: delivery}
spec:
  host: delivery-service
  subsets:
  - {name: mumbai-optimized, labels: {version: mumbai-optimized}}
  - {name: bangalore-optimized, labels: {version: bangalore-optimized}}
";

const MERCHANTS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: merchants}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - name: pay
    route: [{destination: {host: payment-processor}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: merchants}
spec:
  host: payment-processor
  trafficPolicy:
    loadBalancer:
      consistentHash: {httpHeaderName: merchant-id}
---
apiVersion: naka.dev/v1alpha1
kind: LocalRateLimit
metadata: {name: merchants}
spec:
  targetRefs: [{kind: VirtualService, name: merchants}]
  rules:
  - {name: merchant, requests: 1, per: 1h, burst: 20, keys: [\"request.headers['merchant-id']\"]}
";

const BANKS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: banks}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - route: [{destination: {host: bank}}]
    retries: {attempts: 0}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: banks}
spec:
  host: bank
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
";

const BOOKING: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: booking}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - match: [{uri: {prefix: /tickets}}]
    route: [{destination: {host: tickets}}]
  - match: [{uri: {prefix: /seats}}]
    route: [{destination: {host: seats}}]
    retries: {attempts: 0}
  - match: [{uri: {prefix: /profile}}]
    route: [{destination: {host: profile}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tickets}
spec:
  host: tickets
  trafficPolicy:
    loadBalancer: {localityLbSetting: {enabled: true}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: seats}
spec:
  host: seats
  trafficPolicy:
    loadBalancer:
      simple: ROUND_ROBIN
      localityLbSetting: {enabled: true, failover: [{from: mumbai, to: delhi}]}
    outlierDetection: {consecutive5xxErrors: 3, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 50}
";

pub(super) fn good(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// What each program served while something was asked.
pub(super) struct Counted {
    before: BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
}

impl Counted {
    pub(super) fn of(&self, name: &str) -> u64 {
        let at = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        at(&self.after) - at(&self.before)
    }
}

pub(super) async fn during<T>(stage: &Stage, asked: impl Future<Output = T>) -> (T, Counted) {
    let before = stage.served();
    let answer = asked.await;
    let after = stage.served();
    (answer, Counted { before, after })
}

/// Every receiver verified that its caller is the ingress.
fn verified(stage: &Stage) -> Claim {
    let peers = stage.peers();
    let right = peers
        .iter()
        .filter(|peer| peer.ends_with("/ns/istio-system/sa/istio-ingressgateway"));
    let right = right.count();
    let ok = right == peers.len() && right > 0;
    Claim::new(
        "every program verified its caller by mutual TLS",
        ok,
        format!("{right} of {} requests", peers.len()),
    )
}

fn upi(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let (answers, served) = during(stage, stage.many(600, 10, "/pay", &[])).await;
        let canary = served.of("upi-v2");
        let canary_ok = good(&answers) == 600 && (30..=92).contains(&canary);
        let old = stage.ask("/old", &[]).await;
        let moved =
            old.status == 301 && old.head.contains("location: http") && old.head.contains("/pay");
        let (answers, served) = during(stage, stage.many(60, 3, "/settle", &[])).await;
        let settled = good(&answers);
        let slow = stage.ask("/slow", &[]).await;
        vec![
            Claim::new(
                "10 % of payments go to the canary v2",
                canary_ok,
                format!("{canary} of 600"),
            ),
            Claim::new(
                "the old address redirects to the new one",
                moved,
                format!("status {}", old.status),
            ),
            Claim::new(
                "no settlement fails although one of two instances answers 503",
                settled == 60 && served.of("bank-ill") > 0,
                format!(
                    "{settled} of 60 good, the ill instance was asked {} times",
                    served.of("bank-ill")
                ),
            ),
            Claim::new(
                "a bank that takes 2 s is given up after 300 ms",
                slow.status == 504 && slow.took < Duration::from_millis(1500),
                format!("status {} after {} ms", slow.status, slow.took.as_millis()),
            ),
            verified(stage),
        ]
    })
}

fn tiers(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let mut claims = Vec::new();
        for (tier, wanted) in [
            ("premium", "payment-service-premium-v2"),
            ("savings", "payment-service-standard-v1"),
            ("other", "payment-service-standard-v1"),
        ] {
            let (answers, served) =
                during(stage, stage.many(50, 5, "/pay", &[("customer-tier", tier)])).await;
            let here = served.of(wanted);
            let ok = good(&answers) == 50 && here == 50;
            let claim = format!("customers of the tier {tier} are served by {wanted}");
            claims.push(Claim::new(&claim, ok, format!("{here} of 50")));
        }
        claims.push(verified(stage));
        claims
    })
}

fn zones(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let mut claims = Vec::new();
        for (zone, wanted) in [
            ("mumbai-central", "delivery-service-mumbai-optimized"),
            ("bangalore", "delivery-service-bangalore-optimized"),
        ] {
            let (answers, served) =
                during(stage, stage.many(40, 4, "/", &[("delivery-zone", zone)])).await;
            let here = served.of(wanted);
            let ok = good(&answers) == 40 && here == 40;
            claims.push(Claim::new(
                &format!("zone {zone} is served by {wanted}"),
                ok,
                format!("{here} of 40"),
            ));
        }
        let nowhere = stage.ask("/", &[("delivery-zone", "pune")]).await;
        let told = format!("status {}", nowhere.status);
        // With everything left out this would hold too: it rests on a zone that is served.
        let any = claims.iter().any(|claim| claim.ok);
        claims.push(Claim::new(
            "a zone without a route gets 404",
            nowhere.status == 404 && any,
            told,
        ));
        let (answers, served) = during(stage, stage.many(200, 10, "/counter", &[])).await;
        let slow = served.of("counter-slow");
        let ok = good(&answers) == 200 && slow < 70;
        claims.push(Claim::new(
            "the slow counter gets far less than half",
            ok,
            format!("{slow} of 200"),
        ));
        claims.push(verified(stage));
        claims
    })
}

fn merchants(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let names = ["a", "b", "c"].map(|version| format!("payment-processor-{version}"));
        let mut faithful = 0;
        let mut used = [false; 3];
        for merchant in 0..12 {
            let id = format!("m-{merchant}");
            let headers = [("merchant-id", id.as_str())];
            let asked = stage.many(10, 2, "/pay", &headers);
            let (answers, served) = during(stage, asked).await;
            let here = names.iter().position(|name| served.of(name) == 10);
            if let Some(at) = here.filter(|_| good(&answers) == 10) {
                faithful += 1;
                used[at] = true;
            }
        }
        let places = used.iter().filter(|used| **used).count();
        let (answers, served) = during(
            stage,
            stage.many(40, 4, "/pay", &[("merchant-id", "flood")]),
        )
        .await;
        let through: u64 = names.iter().map(|name| served.of(name)).sum();
        let refused = answers.iter().filter(|answer| answer.status == 429).count();
        vec![
            Claim::new(
                "each merchant stays with one instance",
                faithful == 12,
                format!("{faithful} of 12"),
            ),
            Claim::new(
                "merchants are spread over instances",
                places > 1 && faithful == 12,
                format!("{places} of 3"),
            ),
            Claim::new(
                "a merchant that floods gets its 20 and no more",
                through == 20 && refused == 20,
                format!("{through} served, {refused} refused of 40"),
            ),
            verified(stage),
        ]
    })
}

fn banks(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let (first, early) = during(stage, stage.many(60, 1, "/pay", &[])).await;
        let failed = 60 - good(&first);
        let (second, late) = during(stage, stage.many(60, 1, "/pay", &[])).await;
        let (hdfc, icici) = (late.of("bank-hdfc"), late.of("bank-icici"));
        vec![
            Claim::new(
                "a bank that fails is out after five failures in a row",
                early.of("bank-sbi") == 5 && failed == 5,
                format!(
                    "it was asked {} times, {failed} payments failed",
                    early.of("bank-sbi")
                ),
            ),
            Claim::new(
                "while it is out every payment succeeds",
                good(&second) == 60 && late.of("bank-sbi") == 0,
                format!(
                    "{} of 60 good, the failing bank was asked {} times",
                    good(&second),
                    late.of("bank-sbi")
                ),
            ),
            Claim::new(
                "the two others share the payments",
                hdfc >= 20 && icici >= 20 && hdfc + icici == 60,
                format!("hdfc {hdfc}, icici {icici}"),
            ),
            verified(stage),
        ]
    })
}

fn booking(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let (answers, served) = during(stage, stage.many(60, 6, "/tickets", &[])).await;
        let near = served.of("tickets-mumbai");
        let near_ok = good(&answers) == 60 && near == 60;
        let (first, early) = during(stage, stage.many(20, 1, "/seats", &[])).await;
        let failed = 20 - good(&first);
        let (second, late) = during(stage, stage.many(60, 6, "/seats", &[])).await;
        let (delhi, far) = (late.of("seats-delhi"), late.of("seats-bangalore"));
        let (shared, profile) = during(stage, stage.many(20, 2, "/profile", &[])).await;
        let reached = profile.of("profile-shared");
        vec![
            Claim::new(
                "tickets are booked in the caller's own region",
                near_ok,
                format!("{near} of 60 in Mumbai"),
            ),
            Claim::new(
                "a region that fails is left after three failures",
                failed == 3 && early.of("seats-mumbai") == 3,
                format!(
                    "Mumbai was asked {} times, {failed} failed",
                    early.of("seats-mumbai")
                ),
            ),
            Claim::new(
                "then every booking goes to the region named for it",
                good(&second) == 60 && delhi == 60 && far == 0,
                format!(
                    "{} of 60 good, Delhi {delhi}, Bangalore {far}",
                    good(&second)
                ),
            ),
            Claim::new(
                "a shared service of another region is reached",
                good(&shared) == 20 && reached == 20,
                format!("{reached} of 20"),
            ),
            verified(stage),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::{super::stage::decode, STORIES};

    #[test]
    fn the_objects_of_every_story_are_sound_and_have_names() {
        for story in STORIES {
            let objects =
                decode(story.manifests).unwrap_or_else(|e| panic!("{}: {}", story.name, e.message));
            assert!(!objects.is_empty(), "{}", story.name);
            assert!(!story.parts.is_empty());
        }
    }
}
