//! Who may call a port of the program, and what: rules as trees of questions.
//!
//! The filters stand in the order in which they are asked; the first that refuses decides. A rule of a filter that
//! denies refuses when it matches; a filter that allows refuses when none of its rules matches.

use super::{HeaderCondition, TextCondition};
use naka_types::cidr::Cidr;
use std::sync::Arc;

/// The filters of a port.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    /// In the order in which they are asked.
    pub filters: Box<[AccessFilter]>,
}

/// One filter.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessFilter {
    /// Whether a rule that matches refuses; else one must match.
    pub denies: bool,
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
    /// Path without query.
    Path(TextCondition),
    /// A header, or method or authority.
    Header(HeaderCondition),
}
