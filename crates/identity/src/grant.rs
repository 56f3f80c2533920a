//! What a token may do: rules without storage or clock. The store keeps one [`TokenGrant`] per token id, with the
//! SHA-256 of the secret instead of the secret.

use crate::{hex, random_bytes, sha256_hex};
use naka_types::labels::Labels;
use serde::{Deserialize, Serialize};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantKind {
    /// First certificate of a workload.
    Join,
    /// Use of the API.
    Api,
}

/// A token as the control plane keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    /// Public id.
    pub id: String,
    /// What it is for.
    pub kind: GrantKind,
    /// SHA-256 of the secret, hexadecimal.
    pub secret_sha256: String,
    /// Namespace of the identity (join).
    #[serde(default)]
    pub namespace: String,
    /// Service account of the identity (join).
    #[serde(default)]
    pub service_account: String,
    /// Services that may be served (join); none = a client only.
    #[serde(default)]
    pub services: Vec<String>,
    /// Labels that the token vouches for (join).
    #[serde(default)]
    pub labels: Labels,
    /// Role (api): viewer, operator or admin.
    #[serde(default)]
    pub role: String,
    /// Namespaces the role holds in (api); none = all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Uses left; `None` = any number.
    #[serde(default)]
    pub uses_left: Option<u32>,
    /// First second in which it no longer counts.
    pub expires: u64,
    /// Who made it.
    #[serde(default)]
    pub created_by: String,
    /// The program it was asked for, where the control plane looked at it (join).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
}

/// What the control plane saw of a program itself, on its own machine. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attested {
    /// User that runs it, from the kernel.
    #[serde(default)]
    pub uid: Option<u32>,
    /// SHA-256 of its file, lower-case hexadecimal; `None`: not known.
    #[serde(default)]
    pub executable: Option<String>,
}

/// What a join token is made from.
#[derive(Debug, Clone, Default)]
pub struct JoinParams {
    /// Namespace of the identity.
    pub namespace: String,
    /// Service account of the identity.
    pub service_account: String,
    /// Services that may be served.
    pub services: Vec<String>,
    /// Labels that the token vouches for.
    pub labels: Labels,
    /// Number of uses; `None` = any number.
    pub uses: Option<u32>,
    /// First second in which it no longer counts.
    pub expires: u64,
    /// Who made it.
    pub created_by: String,
    /// The program it was asked for, where the control plane looked at it.
    pub attested: Option<Attested>,
}

/// What a newcomer wants to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Services it will serve.
    pub services: Vec<String>,
    /// Labels it will wear.
    pub labels: Labels,
}

/// Why a token does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such id, or the secret does not match. One answer, so ids cannot be probed.
    #[error("the token is not known here, or its secret is wrong")]
    WrongSecret,
    /// Its time is over.
    #[error("the token has expired; ask for a new one")]
    Expired,
    /// All its uses are used.
    #[error("the token has been used as often as it may; ask for a new one")]
    UsedUp,
    /// It is for something else.
    #[error("the token is not a join token")]
    WrongKind,
    /// It is bound to something else than what is wanted.
    #[error("the token is bound to {field} {bound:?}, not {wanted:?}")]
    NotCovered {
        /// What differs: namespace, service account, service or label.
        field: &'static str,
        /// What the token says.
        bound: String,
        /// What was wanted.
        wanted: String,
    },
}

impl Refused {
    /// A short word for logs, events and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::WrongSecret => "wrong-secret",
            Self::Expired => "expired",
            Self::UsedUp => "used-up",
            Self::WrongKind => "wrong-kind",
            Self::NotCovered { .. } => "not-covered",
        }
    }
}

/// A new secret of 256 bits, hexadecimal.
#[must_use]
pub fn new_secret() -> String {
    hex(&random_bytes::<32>())
}

impl TokenGrant {
    /// A join token with this id; the secret is kept only as a hash.
    #[must_use]
    pub fn join(id: &str, secret: &str, params: JoinParams) -> Self {
        Self {
            id: id.to_owned(),
            kind: GrantKind::Join,
            secret_sha256: sha256_hex(secret.as_bytes()),
            namespace: params.namespace,
            service_account: params.service_account,
            services: params.services,
            labels: params.labels,
            role: String::new(),
            namespaces: Vec::new(),
            uses_left: params.uses,
            expires: params.expires,
            created_by: params.created_by,
            attested: params.attested,
        }
    }

    /// An API token with this id.
    #[must_use]
    pub fn api(
        id: &str,
        secret: &str,
        role: &str,
        namespaces: Vec<String>,
        expires: u64,
        created_by: &str,
    ) -> Self {
        Self {
            kind: GrantKind::Api,
            role: role.to_owned(),
            namespaces,
            ..Self::join(
                id,
                secret,
                JoinParams {
                    expires,
                    created_by: created_by.to_owned(),
                    ..JoinParams::default()
                },
            )
        }
    }

    /// Whether this is the secret, in time that does not depend on how much of it is right.
    #[must_use]
    pub fn is_secret(&self, secret: &str) -> bool {
        let given = sha256_hex(secret.as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(
            given.as_bytes(),
            self.secret_sha256.as_bytes(),
        )
        .is_ok()
    }

    /// Whether the token is still good, whatever it is for: secret, time, uses, in this order.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn usable(&self, secret: &str, now: u64) -> Result<(), Refused> {
        if !self.is_secret(secret) {
            return Err(Refused::WrongSecret);
        }
        if now >= self.expires {
            return Err(Refused::Expired);
        }
        if self.uses_left == Some(0) {
            return Err(Refused::UsedUp);
        }
        Ok(())
    }

    /// Whether the token makes somebody what they want to be. Labels beyond the token's are allowed (policies do not
    /// count them), labels that contradict the token's are not.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, wanted: &Wanted, secret: &str, now: u64) -> Result<(), Refused> {
        self.usable(secret, now)?;
        if self.kind != GrantKind::Join {
            return Err(Refused::WrongKind);
        }
        let bound = |field, bound: &str, wanted: &str| {
            if bound == wanted {
                Ok(())
            } else {
                Err(Refused::NotCovered {
                    field,
                    bound: bound.to_owned(),
                    wanted: wanted.to_owned(),
                })
            }
        };
        bound("namespace", &self.namespace, &wanted.namespace)?;
        bound(
            "service account",
            &self.service_account,
            &wanted.service_account,
        )?;
        for service in &wanted.services {
            if !self.services.contains(service) {
                return Err(Refused::NotCovered {
                    field: "services",
                    bound: self.services.join(","),
                    wanted: service.clone(),
                });
            }
        }
        for (key, value) in &self.labels {
            if let Some(other) = wanted.labels.get(key) {
                bound(
                    "label",
                    &format!("{key}={value}"),
                    &format!("{key}={other}"),
                )?;
            }
        }
        Ok(())
    }

    /// The grant after one more use.
    #[must_use]
    pub fn used(&self) -> Self {
        Self {
            uses_left: self.uses_left.map(|left| left.saturating_sub(1)),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JoinParams, Refused, TokenGrant, Wanted, new_secret};
    use naka_types::labels::Labels;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn grant(secret: &str) -> TokenGrant {
        TokenGrant::join(
            "01A",
            secret,
            JoinParams {
                namespace: "shop".into(),
                service_account: "payment".into(),
                services: vec!["payment".into()],
                labels: labels(&[("version", "v1")]),
                uses: Some(1),
                expires: 1_000,
                created_by: "asha".into(),
                attested: None,
            },
        )
    }

    fn wanted() -> Wanted {
        Wanted {
            namespace: "shop".into(),
            service_account: "payment".into(),
            services: vec!["payment".into()],
            labels: labels(&[("version", "v1"), ("team", "red")]),
        }
    }

    #[test]
    fn a_token_does_what_it_is_bound_to_and_nothing_else() {
        let secret = new_secret();
        let grant = grant(&secret);
        assert_eq!(grant.check(&wanted(), &secret, 999), Ok(()));
        assert_eq!(
            grant.check(&wanted(), "guess", 999),
            Err(Refused::WrongSecret)
        );
        assert_eq!(
            grant.check(&wanted(), &secret, 1_000),
            Err(Refused::Expired)
        );
        assert_eq!(
            grant.used().check(&wanted(), &secret, 0),
            Err(Refused::UsedUp)
        );
        let other = |change: fn(&mut Wanted)| {
            let mut wanted = wanted();
            change(&mut wanted);
            grant
                .check(&wanted, &secret, 0)
                .map_err(|refused| match refused {
                    Refused::NotCovered { field, .. } => field,
                    refused => refused.code(),
                })
        };
        assert_eq!(other(|w| w.namespace = "bank".into()), Err("namespace"));
        assert_eq!(
            other(|w| w.service_account = "delivery".into()),
            Err("service account")
        );
        assert_eq!(other(|w| w.services.push("order".into())), Err("services"));
        assert_eq!(
            other(|w| drop(w.labels.insert("version".into(), "v2".into()))),
            Err("label")
        );
        assert_eq!(other(|w| w.services.clear()), Ok(()), "less than it may");
    }

    #[test]
    fn an_api_token_joins_nobody_and_the_secret_is_not_kept() {
        let secret = new_secret();
        let grant = TokenGrant::api("01B", &secret, "viewer", vec![], 1_000, "asha");
        assert_eq!(
            grant.check(&Wanted::default(), &secret, 0),
            Err(Refused::WrongKind)
        );
        let kept = serde_json::to_string(&grant).unwrap();
        assert!(!kept.contains(&secret));
        assert_eq!(serde_json::from_str::<TokenGrant>(&kept).unwrap(), grant);
    }
}
