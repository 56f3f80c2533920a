//! CertificatePolicy: what certificates of workloads are like (key, lifetime), when they are renewed, who has to approve
//! one, and what a program must be to get one.
//!
//! Named as cert-manager names such things (`duration`, `renewBefore`, `privateKey`). Of those that hold for a workload
//! one decides as a whole ([`deciding`]); what programs must be is asked by all that name the service account, so that
//! no object takes back what another one demands.
//!
//! Not here: clocks and certificates; the schedule is `naka-identity`'s, who asks for what `naka-control`'s.

use naka_types::host::ROOT_NAMESPACE;
use naka_types::key::KeyType;
use naka_types::labels::{Labels, selects};
use std::time::Duration;

mod build;
pub(crate) mod fields;
mod window;

pub(crate) use build::build;
pub use window::Window;

/// The sound part of a CertificatePolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatePolicy {
    /// Of several the one with the largest number holds.
    pub priority: i64,
    /// Service accounts it is for; empty: all.
    pub accounts: Vec<String>,
    /// Labels of workloads it is for; `None`: all.
    pub selector: Option<Labels>,
    /// Lifetime; `None`: the control plane's usual one.
    pub lifetime: Option<Duration>,
    /// When the next one is due.
    pub renewal: Renewal,
    /// What the key must be.
    pub key: KeyType,
    /// When renewals are to happen.
    pub window: Option<Window>,
    /// Whether somebody has to approve each certificate.
    pub manual: bool,
    /// What the program must be.
    pub attestation: Option<Attestation>,
}

/// When the next certificate is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// At half to four fifths of the lifetime.
    Usual,
    /// So long before the end.
    Before(Duration),
    /// When so many percent of the lifetime are left.
    Left(u32),
}

/// What a program must be to get a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attestation {
    /// User it is run by.
    pub uid: Option<u32>,
    /// SHA-256 of the program's file, hexadecimal; one of these. Empty: any.
    pub executables: Vec<String>,
}

/// What is known of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Program<'a> {
    /// User that runs it.
    pub uid: Option<u32>,
    /// SHA-256 of its file, lower-case hexadecimal.
    pub executable: Option<&'a str>,
}

impl Attestation {
    /// What a program lacks, in words; `None`: nothing.
    #[must_use]
    pub fn lacking(&self, program: Program<'_>) -> Option<String> {
        const HOW: &str =
            "it is for programs that `naka run` starts on the control plane's machine";
        if let Some(wanted) = self.uid {
            match program.uid {
                Some(uid) if uid == wanted => {}
                Some(uid) => return Some(format!("it wants uid {wanted}, the program has {uid}")),
                None => {
                    return Some(format!(
                        "it wants uid {wanted}, and nothing shows one: {HOW}"
                    ));
                }
            }
        }
        if self.executables.is_empty() {
            return None;
        }
        match program.executable {
            Some(sha256) if self.executables.iter().any(|one| one == sha256) => None,
            Some(sha256) => Some(format!(
                "it wants another executable, the program's file is sha256:{sha256}"
            )),
            None => Some(format!(
                "it wants a certain executable, and nothing shows which one is run: {HOW}"
            )),
        }
    }
}

/// A workload, as policies are chosen for it.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Service account.
    pub account: &'a str,
    /// Labels.
    pub labels: &'a Labels,
}

impl CertificatePolicy {
    /// Whether it holds for a workload; `namespace` is the policy's own.
    #[must_use]
    pub fn holds_for(&self, namespace: &str, workload: Workload<'_>) -> bool {
        let labels = |wanted: &Labels| selects(wanted, workload.labels);
        self.names_account(namespace, workload) && self.selector.as_ref().is_none_or(labels)
    }

    /// Whether it is for the workload's namespace and service account, whatever labels it has.
    #[must_use]
    pub fn names_account(&self, namespace: &str, workload: Workload<'_>) -> bool {
        (namespace == workload.namespace || namespace == ROOT_NAMESPACE)
            && (self.accounts.is_empty() || self.accounts.iter().any(|one| one == workload.account))
    }

    /// The order in which policies win, the first that is least: larger priority, then who names more, then the
    /// workload's own namespace before the mesh's.
    #[must_use]
    pub fn rank(&self, namespace: &str) -> impl Ord + use<> {
        (
            std::cmp::Reverse(self.priority),
            self.selector.is_none(),
            self.accounts.is_empty(),
            namespace == ROOT_NAMESPACE,
        )
    }

    /// Time that is left for somebody to approve a renewal of a certificate with this lifetime.
    #[must_use]
    pub fn notice(&self, usual: Duration) -> Duration {
        let lifetime = self.lifetime.unwrap_or(usual);
        match self.renewal {
            Renewal::Usual => lifetime / 2,
            Renewal::Before(before) => before.min(lifetime),
            Renewal::Left(percent) => lifetime * percent / 100,
        }
    }
}

/// Those of some policies (each with its namespace, older before younger) that hold for a workload, the one that decides
/// first.
#[must_use]
pub fn deciding<'p, T>(
    policies: impl IntoIterator<Item = (T, &'p str, &'p CertificatePolicy)>,
    workload: Workload<'_>,
) -> Vec<(T, &'p str, &'p CertificatePolicy)> {
    let mut held: Vec<_> = policies
        .into_iter()
        .filter(|(_, namespace, policy)| policy.holds_for(namespace, workload))
        .collect();
    // Stable: of equals the oldest stays first.
    held.sort_by_key(|(_, namespace, policy)| policy.rank(namespace));
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(priority: i64, accounts: &[&str], labels: &[(&str, &str)]) -> CertificatePolicy {
        let labels: Labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        CertificatePolicy {
            priority,
            accounts: accounts.iter().map(|one| (*one).to_owned()).collect(),
            selector: (!labels.is_empty()).then_some(labels),
            lifetime: None,
            renewal: Renewal::Usual,
            key: KeyType::EcdsaP256,
            window: None,
            manual: false,
            attestation: None,
        }
    }

    #[test]
    fn the_larger_number_wins_then_who_names_more_then_the_own_namespace_then_the_oldest() {
        let all = [
            ("mesh", ROOT_NAMESPACE, policy(0, &[], &[])),
            ("mesh, later", ROOT_NAMESPACE, policy(0, &[], &[])),
            ("namespace", "bank", policy(0, &[], &[])),
            ("account", "bank", policy(0, &["pay"], &[])),
            ("labels", "bank", policy(0, &[], &[("tier", "high")])),
            ("order", ROOT_NAMESPACE, policy(5, &["ledger"], &[])),
            ("elsewhere", "shop", policy(9, &[], &[])),
        ];
        let first = |namespace: &str, account: &str, tier: &str| {
            let labels: Labels = [("tier".to_owned(), tier.to_owned())].into();
            let workload = Workload {
                namespace,
                account,
                labels: &labels,
            };
            let held = all.iter().map(|(name, space, one)| (*name, *space, one));
            deciding(held, workload).first().map(|(name, ..)| *name)
        };
        assert_eq!(first("bank", "pay", "high"), Some("labels"));
        assert_eq!(first("bank", "pay", "low"), Some("account"));
        assert_eq!(first("bank", "cart", "low"), Some("namespace"));
        assert_eq!(first("bank", "ledger", "high"), Some("order"));
        assert_eq!(first("ride", "cart", "low"), Some("mesh"));
        assert_eq!(first("shop", "cart", "low"), Some("elsewhere"));
    }

    #[test]
    fn what_a_program_lacks_is_said() {
        let wanted = Attestation {
            uid: Some(1000),
            executables: vec!["aa".to_owned(), "bb".to_owned()],
        };
        let lacking = |uid, executable| {
            let said = wanted.lacking(Program { uid, executable });
            said.map(|text| text.split(", ").nth(1).unwrap_or_default().to_owned())
        };
        assert_eq!(lacking(Some(1000), Some("bb")), None);
        let said = lacking(Some(0), Some("bb")).unwrap();
        assert_eq!(said, "the program has 0");
        let said = lacking(Some(1000), Some("cc")).unwrap();
        assert_eq!(said, "the program's file is sha256:cc");
        assert!(
            lacking(Some(1000), None)
                .unwrap()
                .contains("which one is run")
        );
        assert!(
            lacking(None, Some("aa"))
                .unwrap()
                .contains("nothing shows one")
        );
        let any = Attestation {
            uid: None,
            executables: Vec::new(),
        };
        assert_eq!(any.lacking(Program::default()), None);
    }
}
