//! Who calls, and what they may do.
//!
//! Two proofs: the uid of the peer of the control socket, told by the kernel, or an API token. Roles are ordered:
//! a viewer reads, an operator changes objects, an admin also handles tokens, namespaces and secrets' values. A role
//! holds in all namespaces or in those the token names. Loopback proves nothing.

use super::State;
use super::answer::{Outcome, Problem};
use super::tokens::TOKEN_RECORD;
use http::{HeaderMap, header};
use naka_identity::{GrantKind, TokenGrant, now_s};
use naka_types::token::{Token, TokenKind};

/// The other end of a connection, set by [`super::serve`] as a request extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The control socket; who it is comes from the kernel.
    Unix {
        /// User of the process at the other end.
        uid: u32,
        /// The process, where the kernel says it.
        pid: Option<i32>,
    },
    /// TLS: proves nothing about the client.
    Tls,
}

/// What a subject may do. Ordered: each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Changes objects.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "viewer" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Goes into the log as the actor: `user:<login>` or `token:<id>`.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Namespaces the role holds in; empty = all.
    pub namespaces: Vec<String>,
}

impl Subject {
    /// Whether the subject sees this namespace; the empty one stands for what belongs to the whole mesh.
    pub(crate) fn sees(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|own| own == namespace)
    }

    /// Whether the subject sees everything.
    pub(crate) fn sees_all(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Refuses unless the subject has `role` in `namespace`.
    pub(crate) fn need(&self, role: Role, namespace: &str, what: &str) -> Outcome<()> {
        if self.role < role {
            return Err(Problem::forbidden(format!(
                "{} is {} and cannot {what}: that needs the role {}",
                self.name,
                self.role.word(),
                role.word()
            )));
        }
        if !self.sees(namespace) {
            let place = if namespace.is_empty() {
                "the whole mesh".to_owned()
            } else {
                format!("namespace {namespace}")
            };
            return Err(Problem::forbidden(format!(
                "{} cannot {what} in {place}: its token is for {}",
                self.name,
                self.namespaces.join(", ")
            )));
        }
        Ok(())
    }
}

/// Finds out who calls.
pub(crate) fn authenticate(
    state: &State,
    peer: Option<Peer>,
    headers: &HeaderMap,
) -> Outcome<Subject> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        // A given credential counts even on the socket, so that a narrow token stays narrow there.
        return bearer(state, value.to_str().unwrap_or_default());
    }
    match peer {
        Some(Peer::Unix { uid, .. }) if uid == state.owner => Ok(Subject {
            name: format!("user:{}", login(uid)),
            role: Role::Admin,
            namespaces: Vec::new(),
        }),
        Some(Peer::Unix { uid, .. }) => Err(Problem::unauthorized(format!(
            "this mesh belongs to uid {}, not to uid {uid}: give an API token",
            state.owner
        ))),
        Some(Peer::Tls) | None => Err(Problem::unauthorized(
            "no credential: give an API token as \"Authorization: Bearer naka1.api.…\" (naka token create --kind api)",
        )),
    }
}

fn bearer(state: &State, value: &str) -> Outcome<Subject> {
    // One answer for every way to be wrong, so that ids cannot be probed.
    let refused =
        || Problem::unauthorized("the API token is not known here, has expired or was revoked");
    let (scheme, text) = value.split_once(' ').ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused());
    }
    let token = Token::parse(text).map_err(|_| refused())?;
    let snapshot = state.store.snapshot();
    let grant: TokenGrant = snapshot
        .record(TOKEN_RECORD, &token.id)
        .and_then(|value| serde_json::from_value(value.as_ref().clone()).ok())
        .ok_or_else(refused)?;
    grant
        .usable(&token.secret, now_s())
        .map_err(|_| refused())?;
    if token.kind != TokenKind::Api || grant.kind != GrantKind::Api {
        return Err(Problem::unauthorized(
            "a join token does not open the API: ask for one of kind api",
        ));
    }
    Ok(Subject {
        name: format!("token:{}", grant.id),
        role: Role::parse(&grant.role).ok_or_else(refused)?,
        namespaces: grant.namespaces,
    })
}

/// Login name of a uid, for the log; `uid-<n>` when the system has none.
fn login(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = text.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        (parts.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    line.unwrap_or_else(|| format!("uid-{uid}"))
}
