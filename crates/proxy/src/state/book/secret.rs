//! Lists that come as a secret: who and what counts no more.

use crate::intake;
use naka_wire::envoy::config::core::v3::data_source::Specifier;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};

/// A list that comes as a secret; half of one is none.
pub(super) fn listed<T>(
    wire: &Secret,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, intake::Error> {
    let bad = |why: &str| intake::Error::at("generic_secret", why);
    let source = match &wire.r#type {
        Some(secret::Type::GenericSecret(held)) => held.secret.as_ref(),
        _ => return Err(bad("only a generic secret is taken")),
    };
    let Some(Specifier::InlineBytes(bytes)) = source.and_then(|held| held.specifier.as_ref())
    else {
        return Err(bad("not inline bytes"));
    };
    let text = std::str::from_utf8(bytes).map_err(|_| bad("not text"))?;
    parse(text).map_err(|error| bad(&error))
}
