//! Which CertificatePolicy decides about a workload's certificates, and what follows: key, lifetime, when to renew.
//!
//! Pure functions of a snapshot of the store, so that the certificate service and the registration of a workload never
//! answer differently. A policy that changes reaches workloads by their registration: who holds a certificate that it
//! would not give (another key, a longer life) renews it, in the window if there is one.

use crate::ca_service::{Certificate, approval, certificate};
use crate::plane::REGISTRATION_RECORD;
use crate::registry::Registration;
use naka_api::own::certificate_policy::{
    Attestation, CertificatePolicy, Program, Renewal, Workload, deciding,
};
use naka_api::{Kind, Object, codes};
use naka_identity::schedule::Span;
use naka_identity::{Attested, BACKDATE};
use naka_store::Snapshot;
use naka_types::finding::Finding;
use naka_types::key::KeyType;
use naka_types::labels::Labels;
use naka_types::name::ObjectRef;
use naka_types::workload::Ulid;
use naka_wire::v1::CertificateTerms;
use serde::Deserialize as _;
use std::sync::Arc;
use std::time::Duration;

/// Metadata of answers of the certificate service that holds [`CertificateTerms`].
pub const TERMS: &str = "naka-certificate-terms-bin";
/// How much longer than the policy's a lifetime may be without being another one, in seconds.
const SLACK_S: u64 = 5;

/// What holds for one workload.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// The object that decides, if any does.
    pub policy: Option<Arc<Object>>,
    /// What the key must be; `None`: any.
    pub key: Option<KeyType>,
    /// Lifetime.
    pub lifetime: Duration,
}

/// What decides about certificates in a snapshot: equal where no ruling differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    policies: Vec<(ObjectRef, String)>,
    foreign: bool,
}

impl Rules {
    /// Of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let all = policies(snapshot);
        let ed25519 = |object: &&Arc<Object>| {
            let policy = object.certificate_policy();
            policy.is_some_and(|policy| policy.key == KeyType::Ed25519)
        };
        Self {
            // Nothing else asks who is there, and there may be thousands.
            foreign: all.iter().any(ed25519) && foreign(snapshot),
            policies: all
                .into_iter()
                .map(|object| (object.reference(), object.meta.resource_version.clone()))
                .collect(),
        }
    }
}

/// All CertificatePolicies, older before younger.
#[must_use]
pub fn policies(snapshot: &Snapshot) -> Vec<&Arc<Object>> {
    let kind = Kind::CertificatePolicy.as_str();
    let first = ObjectRef {
        kind: kind.to_owned(),
        namespace: String::new(),
        name: String::new(),
    };
    let all = snapshot.objects.range(first..);
    let all = all.take_while(|(reference, _)| reference.kind == kind);
    let mut all: Vec<&Arc<Object>> = all.map(|(_, object)| object).collect();
    all.sort_by_key(|object| {
        let meta = &object.meta;
        (&meta.creation_timestamp, &meta.namespace, &meta.name)
    });
    all
}

/// Whether a proxy is known that does not take every key: an Envoy, or a program of gRPC's.
#[must_use]
pub fn foreign(snapshot: &Snapshot) -> bool {
    let mut all = snapshot.records_of(REGISTRATION_RECORD);
    all.any(|(_, registration)| {
        let capture = registration["capture"].as_str().unwrap_or_default();
        is_foreign(capture)
    })
}

/// Whether this is the word of a proxy that is not ours: how a registration says `capture`, a request `beside`.
#[must_use]
pub fn is_foreign(word: &str) -> bool {
    matches!(word, "envoy" | "grpc")
}

/// What holds for a workload; `usual` is the lifetime where no policy has one, `foreign` whether its own proxy is not
/// ours.
#[must_use]
pub fn ruling(
    snapshot: &Snapshot,
    workload: Workload<'_>,
    usual: Duration,
    foreign: bool,
) -> Ruling {
    let policies = policies(snapshot);
    let typed = policies.iter().filter_map(|object| {
        let policy = object.certificate_policy()?;
        Some((*object, object.meta.namespace.as_str(), policy))
    });
    match deciding(typed, workload).first() {
        None => Ruling {
            policy: None,
            key: None,
            lifetime: usual,
        },
        Some((object, _, policy)) => Ruling {
            policy: Some(Arc::clone(object)),
            key: Some(key(policy, || foreign || self::foreign(snapshot))),
            lifetime: policy.lifetime.unwrap_or(usual),
        },
    }
}

/// What policies ask of the program of a workload, each with its name. All that name its service account ask: none takes
/// back what another one demands.
#[must_use]
pub fn demands(snapshot: &Snapshot, workload: Workload<'_>) -> Vec<(String, Attestation)> {
    let all = policies(snapshot).into_iter().filter_map(|object| {
        let policy = object.certificate_policy()?;
        let namespace = &object.meta.namespace;
        let demand = policy.attestation.clone()?;
        let named = policy.names_account(namespace, workload);
        named.then(|| (format!("{namespace}/{}", object.meta.name), demand))
    });
    all.collect()
}

/// Why a workload gets no certificate, if its program is not what a policy demands.
#[must_use]
pub fn lacking(
    snapshot: &Snapshot,
    workload: Workload<'_>,
    seen: Option<&Attested>,
) -> Option<String> {
    let program = Program {
        uid: seen.and_then(|seen| seen.uid),
        executable: seen.and_then(|seen| seen.executable.as_deref()),
    };
    demands(snapshot, workload)
        .into_iter()
        .find_map(|(policy, demand)| {
            let lacks = demand.lacking(program)?;
            Some(format!(
                "the CertificatePolicy {policy} does not let this program be {}/{}: {lacks}",
                workload.namespace, workload.account
            ))
        })
}

/// The key of a policy that everybody in the mesh takes.
fn key(policy: &CertificatePolicy, foreign: impl FnOnce() -> bool) -> KeyType {
    match policy.key {
        KeyType::Ed25519 if foreign() => KeyType::EcdsaP256,
        key => key,
    }
}

impl Ruling {
    fn spec(&self) -> Option<&CertificatePolicy> {
        self.policy.as_ref()?.certificate_policy()
    }

    /// Whether somebody has to approve the certificate.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        self.spec().is_some_and(|policy| policy.manual)
    }

    /// `namespace/name` of the policy; empty without one.
    #[must_use]
    pub fn name(&self) -> String {
        let policy = self.policy.as_ref();
        let name = |object: &Arc<Object>| format!("{}/{}", object.meta.namespace, object.meta.name);
        policy.map(name).unwrap_or_default()
    }

    /// What the workload is told of its next certificate, `held` being the one it has.
    #[must_use]
    pub fn terms(&self, held: Option<&Certificate>, now: u64) -> CertificateTerms {
        let mut terms = CertificateTerms {
            key_type: self
                .key
                .map(|key| key.as_str().to_owned())
                .unwrap_or_default(),
            ..CertificateTerms::default()
        };
        let (Some(policy), Some(held)) = (self.spec(), held) else {
            return terms;
        };
        let before = held.not_before;
        let span = match self.takes(held) {
            true => Span::of(before, held.not_after, self.renews_before(policy)),
            // From its first second on, which has passed: at once.
            false => Span {
                from: before,
                until: before,
            },
        };
        let span = open(policy, span, held, now);
        // Nobody but the usual schedule speaks of zero.
        (terms.renew_from, terms.renew_until) = (span.from.max(1), span.until.max(1));
        terms
    }

    /// The second by which a certificate had to be renewed, where a policy says so.
    #[must_use]
    pub fn due(&self, held: &Certificate) -> Option<u64> {
        let policy = self.spec()?;
        let span = Span::of(held.not_before, held.not_after, self.renews_before(policy));
        Some(open(policy, span, held, span.from).until)
    }

    fn renews_before(&self, policy: &CertificatePolicy) -> Option<Duration> {
        match policy.renewal {
            Renewal::Usual => None,
            Renewal::Before(before) => Some(before),
            Renewal::Left(percent) => Some(self.lifetime * percent / 100),
        }
    }

    /// Whether a certificate is as one would be that is issued now.
    fn takes(&self, held: &Certificate) -> bool {
        // Records of before there were policies are of the only key there was.
        let key = KeyType::parse(&held.key_type).unwrap_or_default();
        let lifetime = held.not_after.saturating_sub(held.not_before);
        let most = self.lifetime.as_secs() + BACKDATE.as_secs() + SLACK_S;
        self.key.is_none_or(|wanted| wanted == key) && lifetime <= most
    }
}

/// A span within the policy's window.
fn open(policy: &CertificatePolicy, span: Span, held: &Certificate, now: u64) -> Span {
    match &policy.window {
        // What is approved happens when somebody is there.
        Some(window) if !policy.manual => {
            let next = |second| window.at_or_after(second);
            span.within(held.not_before, held.not_after, now, next)
        }
        _ => span,
    }
}

/// When the certificate of a registered workload had to be renewed, where a policy says so.
#[must_use]
pub fn due(snapshot: &Snapshot, registration: &Registration, held: &Certificate) -> Option<u64> {
    let mut labels = registration.labels.clone();
    labels.extend(held.labels.clone());
    let workload = Workload {
        namespace: &registration.namespace,
        account: &registration.service_account,
        labels: &labels,
    };
    // No policy without a lifetime of its own has a renewal that depends on the usual one but in percent.
    let lifetime = Duration::from_secs(held.not_after.saturating_sub(held.not_before));
    ruling(snapshot, workload, lifetime, false).due(held)
}

/// A registered workload, as policies are chosen for it.
struct Member {
    name: String,
    namespace: String,
    account: String,
    labels: Labels,
    foreign: bool,
    held: Option<Certificate>,
}

impl Member {
    fn all(snapshot: &Snapshot) -> Vec<Self> {
        let all = snapshot.records_of(REGISTRATION_RECORD);
        let all = all.filter_map(|(id, value)| {
            let registration = Registration::deserialize(value.as_ref()).ok()?;
            let held = Ulid::parse(id).and_then(|id| certificate(snapshot, id));
            let mut labels = registration.labels;
            labels.extend(held.iter().flat_map(|held| held.labels.clone()));
            Some(Self {
                name: format!("{}.{}", registration.workload_name, registration.namespace),
                namespace: registration.namespace,
                account: registration.service_account,
                foreign: is_foreign(&registration.capture),
                labels,
                held,
            })
        });
        all.collect()
    }

    fn workload(&self) -> Workload<'_> {
        Workload {
            namespace: &self.namespace,
            account: &self.account,
            labels: &self.labels,
        }
    }
}

/// Registered workloads that a policy decides about: those whose certificate is as it wants it, and the others.
#[must_use]
pub fn holders(snapshot: &Snapshot, object: &Object) -> (Vec<String>, Vec<String>) {
    let (mut have, mut lack) = (Vec::new(), Vec::new());
    for member in Member::all(snapshot) {
        let ruling = ruling(snapshot, member.workload(), Duration::MAX, member.foreign);
        let decides = |policy: &Arc<Object>| policy.reference() == object.reference();
        if !ruling.policy.as_ref().is_some_and(decides) {
            continue;
        }
        match member.held.as_ref().is_some_and(|held| ruling.takes(held)) {
            true => have.push(member.name),
            false => lack.push(member.name),
        }
    }
    (have, lack)
}

/// What is to be said of a policy and those it is for.
#[must_use]
pub fn findings(snapshot: &Snapshot, object: &Object) -> Vec<Finding> {
    let Some(own) = object.certificate_policy() else {
        return Vec::new();
    };
    let reference = object.reference();
    let members = Member::all(snapshot);
    let mut found = Vec::new();
    if own.key == KeyType::Ed25519
        && let Some(other) = members.iter().find(|member| member.foreign)
    {
        let message = format!(
            "{} is no Naka proxy and takes no Ed25519 keys: workloads get ECDSA-P256 as long as it is known",
            other.name
        );
        found.push(Finding::new(codes::W380.id, message).at("spec.privateKey.algorithm"));
    }
    if own.attestation.is_some() {
        let without = members.iter().find_map(|member| {
            let seen = member.held.as_ref().and_then(|held| held.attested.as_ref());
            let named = own.names_account(&object.meta.namespace, member.workload());
            let lacks = lacking(snapshot, member.workload(), seen).filter(|_| named)?;
            Some((&member.name, lacks))
        });
        if let Some((name, lacks)) = without {
            let message = format!("{name} runs and gets no further certificate: {lacks}");
            found.push(Finding::new(codes::W381.id, message).at("spec.attestation"));
        }
    }
    let own_name = format!("{}/{}", object.meta.namespace, object.meta.name);
    let waiting = approval::all(snapshot).map(|(_, request)| request);
    let waiting: Vec<String> = waiting
        .filter(|request| request.policy == own_name && request.approved_by.is_empty())
        .map(|request| request.workload)
        .collect();
    if !waiting.is_empty() {
        let message = format!("certificates wait for approval: {}", waiting.join(", "));
        found.push(
            Finding::new(codes::W382.id, message)
                .at("spec.approval")
                .fix("naka cert approve NAME"),
        );
    }
    let policies = policies(snapshot);
    let typed = || {
        let all = policies.iter();
        all.filter_map(|o| Some((o, o.meta.namespace.as_str(), o.certificate_policy()?)))
    };
    let older = members.iter().find_map(|member| {
        let held = deciding(typed(), member.workload());
        let (winner, namespace, policy) = held.first()?;
        let rival = held[1..]
            .iter()
            .find(|(o, ..)| o.reference() == reference)?;
        let same = policy.rank(namespace) == rival.2.rank(rival.1);
        same.then(|| (winner.reference(), &member.name))
    });
    if let Some((winner, name)) = older {
        let message = format!("{winner} is older and holds for {name} just as much: it decides");
        found.push(Finding::new(codes::L380.id, message).at("spec"));
    }
    let on = |finding: Finding| finding.on(reference.clone());
    found.into_iter().map(on).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::snapshot;

    const DAY: Duration = Duration::from_hours(24);
    const HOUR_S: u64 = 3600;

    fn policy(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {{name: {name}, namespace: bank}}\nspec: {spec}\n"
        )
    }

    fn held(key: KeyType, hours: u64) -> Certificate {
        Certificate {
            not_before: 1_000_000 - 60,
            not_after: 1_000_000 + hours * HOUR_S,
            key_type: key.to_string(),
            ..Certificate::default()
        }
    }

    #[test]
    fn the_policy_that_decides_says_key_lifetime_and_when() {
        let labels = Labels::new();
        let workload = |account| Workload {
            namespace: "bank",
            account,
            labels: &labels,
        };
        let text = [
            policy("all", "{tier: medium}"),
            policy(
                "ledger",
                "{serviceAccounts: [ledger], duration: 24h, renewBeforePercentage: 25, privateKey: {algorithm: Ed25519}}",
            ),
        ];
        let known = snapshot(&text.concat());
        let of = |account, foreign| ruling(&known, workload(account), DAY, foreign);
        let all = of("pay", false);
        assert_eq!(
            (all.name().as_str(), all.key),
            ("bank/all", Some(KeyType::Rsa2048))
        );
        assert_eq!(all.lifetime, DAY * 30);
        let ledger = of("ledger", false);
        assert_eq!(
            (ledger.name().as_str(), ledger.key),
            ("bank/ledger", Some(KeyType::Ed25519))
        );
        assert_eq!(of("ledger", true).key, Some(KeyType::EcdsaP256), "an Envoy");
        let none = ruling(&snapshot(""), workload("pay"), DAY, false);
        assert_eq!((none.key, none.lifetime), (None, DAY));
        assert_eq!(
            none.terms(Some(&held(KeyType::EcdsaP256, 24)), 1_000_000),
            CertificateTerms::default()
        );

        // Renewed when a quarter of it is left.
        let terms = ledger.terms(Some(&held(KeyType::Ed25519, 24)), 1_000_000);
        assert_eq!(terms.key_type, "Ed25519");
        assert_eq!(terms.renew_from, 1_000_000 + 18 * HOUR_S);
        // Another key or a longer life than it gives: at once.
        for other in [held(KeyType::EcdsaP256, 24), held(KeyType::Ed25519, 25)] {
            let terms = ledger.terms(Some(&other), 1_000_000);
            assert!(terms.renew_until < 1_000_000, "{terms:?}");
        }
        assert_eq!(ledger.terms(None, 1_000_000).renew_from, 0);
    }
}
