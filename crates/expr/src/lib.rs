//! Attributes of a request and the one language over them: conditions of routes, keys of limits.
//!
//! The language is a subset of CEL (the Common Expression Language), so what is written here is known from Kubernetes,
//! Envoy and Istio. An expression is read, typed and bounded when configuration is made ([`Expression::compile`]) and
//! becomes a form of our own in which nothing is left to look up by name: header names are `HeaderName`s, regular
//! expressions are compiled, time zones are loaded. Asking it ([`Expression::value`]) allocates nothing in the usual case.
//!
//! Why a crate of its own: `api` checks expressions with line and column, `engine` answers them, and neither may see
//! the other. Why not the crate `cel`: its parser brings ANTLR into every sidecar, recurses without a bound and takes
//! milliseconds, and its evaluator clones what it reads; the subset needs neither.
//!
//! Three values: what cannot be known (a header that is not there, a body that is no JSON or over the limit, a number
//! that is none) is *unknown*, and unknown never satisfies a condition. `&&` and `||` are CEL's: one side that decides
//! is enough, whatever the other is.
//!
//! Not here: sockets, clocks, where values come from ([`Values`] is implemented by the engine).

mod attribute;
mod body;
mod check;
mod error;
mod eval;
mod form;
pub mod limits;
mod parse;
mod token;

pub use attribute::{Attribute, Phase, Sensitivity, TABLE, Text, Trust, Type, is_secret_header};
pub use body::{Field, Step};
pub use check::{Expression, Place, Use, zone};
pub use error::Error;
pub use eval::{Body, Missing, Value, Values};
