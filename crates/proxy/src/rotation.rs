//! Who this proxy is and whom it trusts: one cell that everybody watches, its file, and its schedule.
//!
//! A new certificate or a new bundle replaces the pair in the cell; workers get new TLS configurations for new
//! connections, old connections live on. Saving is off the main thread and never fails a rotation: a proxy that cannot
//! write its identity serves all the same and says so.

use crate::saved;
use naka_identity::schedule::Span;
use naka_identity::{Bundle, Revoked, Svid};
use naka_types::key::KeyType;
use naka_types::spiffe::SpiffeId;
use naka_wire::v1::CertificateTerms;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What we show and whom we trust.
#[derive(Debug)]
pub struct Identity {
    /// Certificate chain and key.
    pub svid: Svid,
    /// Roots of the mesh.
    pub bundle: Bundle,
}

/// What the control plane said of the next certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// What its key must be; `None`: anything.
    pub key: Option<KeyType>,
    /// When to renew the one that is held; `None`: as usual.
    pub span: Option<Span>,
}

impl From<&CertificateTerms> for Terms {
    fn from(said: &CertificateTerms) -> Self {
        let span = Span {
            from: said.renew_from,
            until: said.renew_until,
        };
        Self {
            key: KeyType::parse(&said.key_type),
            span: (span.until > 0).then_some(span),
        }
    }
}

/// When the certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Due {
    terms: Option<Terms>,
    /// The second, picked by chance: once for a certificate and what is said of it.
    at: u64,
}

/// The cell: the current identity, once there is one.
#[derive(Debug)]
pub struct Feed {
    cell: watch::Sender<Option<Arc<Identity>>>,
    file: Option<PathBuf>,
    /// Goes into every bundle.
    revoked: Mutex<Arc<Revoked>>,
    /// When to renew whatever the schedule says, because the control plane asked.
    ordered: watch::Sender<Option<Instant>>,
    due: watch::Sender<Due>,
}

impl Feed {
    /// An empty cell; with a run directory, what comes in is saved there.
    #[must_use]
    pub fn new(save_in: Option<&std::path::Path>) -> Self {
        Self {
            cell: watch::Sender::new(None),
            file: save_in.map(|dir| dir.join(saved::IDENTITY)),
            revoked: Mutex::default(),
            ordered: watch::Sender::default(),
            due: watch::Sender::default(),
        }
    }

    /// Takes over the saved identity if it is there, is for this namespace and service account, and holds now.
    /// Returns whether it did.
    pub fn restore(&self, namespace: &str, service_account: &str) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        match Svid::load(file) {
            Ok(Some((svid, bundle))) => {
                let ours = svid.spiffe.namespace() == namespace
                    && svid.spiffe.service_account() == service_account;
                if !ours {
                    tracing::info!(identity = %svid.spiffe, "the saved identity is somebody else's; asking for an own one");
                    return false;
                }
                if !svid.holds(naka_identity::now_s()) {
                    tracing::warn!(identity = %svid.spiffe, "the saved identity has expired, or is from the future");
                    return false;
                }
                self.schedule(&svid, None);
                self.put(svid, bundle);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "the saved identity is of no use");
                false
            }
        }
    }

    /// A new certificate, with the roots that came along and what was said of the next one; known roots with the same
    /// trust are kept, and sessions with them.
    pub fn renewed(&self, svid: Svid, bundle: Bundle, terms: Option<Terms>) {
        let bundle = match self.now() {
            Some(old) if old.svid.spiffe.trust_domain() == svid.spiffe.trust_domain() => {
                merged(&old.bundle, bundle)
            }
            _ => bundle,
        };
        self.ordered.send_replace(None);
        self.schedule(&svid, terms);
        self.put(svid, bundle);
        self.save();
    }

    /// What the control plane says of the next certificate, at any time.
    pub fn told(&self, terms: Terms) {
        if let Some(identity) = self.now()
            && self.due.borrow().terms != Some(terms)
        {
            self.schedule(&identity.svid, Some(terms));
        }
    }

    fn schedule(&self, svid: &Svid, terms: Option<Terms>) {
        let span = terms.and_then(|terms| terms.span);
        let span = span.unwrap_or_else(|| Span::of(svid.not_before, svid.not_after, None));
        let at = span.pick(fastrand::u32(..));
        self.due.send_replace(Due { terms, at });
    }

    /// The second at which the certificate is to be renewed.
    #[must_use]
    pub fn renew_at(&self) -> u64 {
        self.due.borrow().at
    }

    /// What the control plane said of the next certificate; `None`: nothing yet.
    #[must_use]
    pub fn terms(&self) -> Option<Terms> {
        self.due.borrow().terms
    }

    /// Resolves when another time was set for the renewal.
    pub async fn rescheduled(&self) {
        let mut due = self.due.subscribe();
        if due.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The roots as the control plane publishes them, and the trust domains that count beside our own. Returns false
    /// when they are no bundle.
    pub fn trust(&self, pem: &str, aliases: &[String]) -> bool {
        let Some(old) = self.now() else {
            // Without an identity there is nobody to trust anything; the bundle comes again with the certificate.
            return true;
        };
        match Bundle::from_pem(old.bundle.trust_domain(), pem) {
            Ok(new) => {
                let new = new.also(aliases);
                if !new.same_trust(&old.bundle) {
                    tracing::info!(roots = new.roots().len(), "the trust bundle changed");
                    self.put(old.svid.clone(), new);
                    self.save();
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the trust bundle is of no use");
                false
            }
        }
    }

    /// Workloads that are not believed any more, as the control plane publishes them.
    pub fn revoke(&self, revoked: Arc<Revoked>) {
        *self.revoked.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&revoked);
        if let Some(old) = self.now()
            && *old.bundle.revoked() != revoked
        {
            tracing::info!("the list of revoked workloads changed");
            self.put(old.svid.clone(), old.bundle.clone());
        }
    }

    /// The certificate is to be renewed within this time; when exactly is left to chance, because others are asked, too.
    pub fn hurry(&self, within: Duration) {
        let at = Instant::now() + within.mul_f64(fastrand::f64());
        self.ordered.send_replace(Some(at));
    }

    /// When it was asked to be renewed, told of changes.
    #[must_use]
    pub fn ordered(&self) -> watch::Receiver<Option<Instant>> {
        self.ordered.subscribe()
    }

    fn put(&self, svid: Svid, bundle: Bundle) {
        let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = bundle.revoking(Arc::clone(&revoked));
        drop(revoked);
        self.cell
            .send_replace(Some(Arc::new(Identity { svid, bundle })));
    }

    fn save(&self) {
        let (Some(file), Some(identity)) = (self.file.clone(), self.now()) else {
            return;
        };
        let write = move || {
            if let Err(error) = identity.svid.save(&file, &identity.bundle) {
                tracing::warn!(%error, "the identity could not be saved; a restart will need the control plane");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(write)),
            Err(_) => write(),
        }
    }

    /// The current identity.
    #[must_use]
    pub fn now(&self) -> Option<Arc<Identity>> {
        self.cell.borrow().clone()
    }

    /// A view that is told of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.cell.subscribe()
    }

    /// Who we are, if we are anybody yet.
    #[must_use]
    pub fn spiffe(&self) -> Option<SpiffeId> {
        self.now().map(|identity| identity.svid.spiffe.clone())
    }
}

/// The certificate service sends one root; the secret `ROOTCA` sends all. During a rotation of roots a renewal must
/// not shrink what we trust.
fn merged(old: &Bundle, new: Bundle) -> Bundle {
    if new.roots().iter().all(|root| old.roots().contains(root)) {
        return old.clone();
    }
    let mut roots = old.roots().to_vec();
    for root in new.roots() {
        if !roots.contains(root) {
            roots.push(root.clone());
        }
    }
    let aliases = old.aliases();
    Bundle::new(new.trust_domain(), roots).map_or(new, |all| all.also(aliases))
}

impl Feed {
    /// How long until the current certificate should be renewed; forever when there is none. At once when it is from
    /// the future: the clock was set back, and nobody else believes it either.
    #[must_use]
    pub fn until_renewal(&self, now: u64) -> Duration {
        self.now()
            .map_or(Duration::from_secs(86_400 * 365), |identity| {
                if now < identity.svid.not_before {
                    return Duration::ZERO;
                }
                Duration::from_secs(self.renew_at().saturating_sub(now))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naka_identity::{Authority, IssueRequest, KeyAndCsr, now_s};
    use naka_types::workload::Ulid;

    fn issue(authority: &Authority, account: &str, ttl: Duration) -> (Svid, Bundle) {
        let key = KeyAndCsr::generate().unwrap();
        let spiffe = SpiffeId::new("cluster.local", "default", account).unwrap();
        let issued = authority
            .issue(&IssueRequest {
                csr_pem: key.csr_pem(),
                spiffe: &spiffe,
                workload_id: Ulid::new(1, 2),
                dns_sans: &[],
                ttl,
                now: now_s(),
            })
            .unwrap();
        Svid::from_answer(&issued.pems(), key.key()).unwrap()
    }

    #[test]
    fn a_saved_identity_is_taken_over_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(&dir.path().join("ca"), "cluster.local", now_s()).unwrap();
        let (svid, bundle) = issue(&authority, "pay", Duration::from_secs(3600));
        let first = Feed::new(Some(dir.path()));
        assert!(!first.restore("default", "pay"));
        first.renewed(svid, bundle, None);
        for (account, expect) in [("pay", true), ("order", false)] {
            let next = Feed::new(Some(dir.path()));
            assert_eq!(next.restore("default", account), expect, "{account}");
        }
        let unsaved = Feed::new(None);
        assert!(!unsaved.restore("default", "pay"));
    }

    #[test]
    fn a_renewal_keeps_the_bundle_and_its_sessions_and_never_shrinks_trust() {
        let dir = tempfile::tempdir().unwrap();
        let one =
            Authority::open_or_create(&dir.path().join("1"), "cluster.local", now_s()).unwrap();
        let two =
            Authority::open_or_create(&dir.path().join("2"), "cluster.local", now_s()).unwrap();
        let feed = Feed::new(None);
        let (svid, bundle) = issue(&one, "pay", Duration::from_secs(3600));
        feed.renewed(svid, bundle, None);
        let both = format!("{}{}", one.bundle().to_pem(), two.bundle().to_pem());
        assert!(feed.trust(&both, &[]));
        assert!(!feed.trust("no pem", &[]));
        let epoch = feed.now().unwrap().bundle.epoch().to_owned();
        let (svid, bundle) = issue(&two, "pay", Duration::from_secs(7200));
        feed.renewed(svid, bundle, None);
        let now = feed.now().unwrap();
        assert_eq!(now.bundle.epoch(), epoch);
        assert_eq!(now.bundle.roots().len(), 2);
        assert!(
            feed.until_renewal(now.svid.not_before - 1).is_zero(),
            "from the future"
        );
        let wait = || feed.until_renewal(now_s()).as_secs();
        assert!((3_001..6_000).contains(&wait()), "{}", wait());
        // The control plane says when; the same again changes nothing.
        let soon = now_s() + 500;
        let terms = Terms {
            key: None,
            span: Some(Span {
                from: soon,
                until: soon + 100_000,
            }),
        };
        feed.told(terms);
        let at = feed.renew_at();
        assert!(at >= soon);
        feed.told(terms);
        assert_eq!(feed.renew_at(), at);
        feed.told(Terms::default());
        assert!((3_001..6_000).contains(&wait()), "{}", wait());
    }
}
