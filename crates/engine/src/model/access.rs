//! Who may call a port of the program, and what: rules as trees of questions.
//!
//! The filters stand in the order in which they are asked; the first that refuses decides. A rule of a filter that
//! denies refuses when it matches; a filter that allows refuses when none of its rules matches. Filters on trial, and
//! those that audit, decide nothing and are told of.

use super::{Check, ClaimPath, HeaderCondition, RequestGuard, TextCondition, Tokens, TrustModel};
use naka_types::cidr::Cidr;
use serde_json::Value;
use std::sync::Arc;

/// The filters of a port.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    /// Guards, which are asked before all else.
    pub guards: Box<[RequestGuard]>,
    /// The tokens that are read before the filters are asked; `None`: none are.
    pub tokens: Option<Tokens>,
    /// Trust models, each of which must let a call pass, before anybody is asked.
    pub trust: Box<[TrustModel]>,
    /// Requests that somebody else is asked about, before the filters are.
    pub check: Option<Check>,
    /// In the order in which they are asked.
    pub filters: Box<[AccessFilter]>,
    /// Whether any of them asks for a label of the caller's workload.
    pub labels: bool,
}

impl Access {
    /// Filters in the order in which they are asked.
    #[must_use]
    pub fn new(filters: Box<[AccessFilter]>) -> Self {
        let mut rules = filters.iter().flat_map(|filter| &filter.rules);
        let labels = rules.any(|rule| rule.test.asks_label());
        Self {
            guards: Box::default(),
            tokens: None,
            trust: Box::default(),
            check: None,
            filters,
            labels,
        }
    }

    /// With trust models, which ask for labels of the caller.
    #[must_use]
    pub fn trusting(mut self, trust: Box<[TrustModel]>) -> Self {
        self.labels |= !trust.is_empty();
        self.trust = trust;
        self
    }

    /// With requests that somebody else is asked about.
    #[must_use]
    pub fn checked(mut self, check: Option<Check>) -> Self {
        let mut rules = check.iter().flat_map(|check| &check.rules);
        self.labels |= rules.any(|rule| rule.test.asks_label());
        self.check = check;
        self
    }
}

/// What a filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One of its rules must match.
    Allow,
    /// A rule that matches refuses.
    Deny,
    /// A rule that matches is told of, and nothing else.
    Audit,
}

/// One filter.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessFilter {
    /// What it does.
    pub verdict: Verdict,
    /// Whether it is on trial: what it would do is told, and not done.
    pub trial: bool,
    /// In the order of their names.
    pub rules: Box<[AccessRule]>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRule {
    /// Name, as `ns[…]-policy[…]-rule[…]`.
    pub name: Arc<str>,
    /// When it matches.
    pub test: Test,
}

/// A condition on connection and request.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Holds.
    Always,
    /// All of these hold.
    All(Box<[Test]>),
    /// One of these holds.
    Any(Box<[Test]>),
    /// This one does not hold.
    Not(Box<Test>),
    /// The verified identity of the peer, `spiffe://…`; without a condition: any.
    Identity(Option<TextCondition>),
    /// Address of the peer.
    Peer(Cidr),
    /// Address of the client, as far as a verified peer tells it.
    Client(Cidr),
    /// A label of the peer's workload, as far as it was granted; not known of any other.
    Label(Box<str>, TextCondition),
    /// Path without query.
    Path(TextCondition),
    /// A header, or method or authority.
    Header(HeaderCondition),
    /// A claim of the verified token; without a token there is none, and the condition does not hold.
    Claim(ClaimCondition),
}

/// A rule on a claim that is a text or, where lists count, a list with such a text in it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimCondition {
    /// Which claim.
    pub path: ClaimPath,
    /// What must hold.
    pub wanted: TextCondition,
    /// Whether a list counts too.
    pub lists: bool,
}

impl ClaimCondition {
    /// Whether a claim satisfies it. What is neither text nor list never does, as in an Envoy.
    #[must_use]
    pub fn holds(&self, claim: Option<&Value>) -> bool {
        let one = |value: &Value| {
            let text = value.as_str();
            text.is_some_and(|text| self.wanted.holds(text.as_bytes()))
        };
        match claim {
            Some(Value::Array(all)) => self.lists && all.iter().any(one),
            Some(value) => one(value),
            None => false,
        }
    }
}

impl Test {
    /// Whether it asks for a label.
    fn asks_label(&self) -> bool {
        match self {
            Self::All(tests) | Self::Any(tests) => tests.iter().any(Self::asks_label),
            Self::Not(test) => test.asks_label(),
            Self::Label(..) => true,
            _ => false,
        }
    }
}
