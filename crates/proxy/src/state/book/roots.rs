//! The trust bundle as it comes: roots, and the trust domains whose identities they vouch for beside the mesh's own.

use crate::intake;
use naka_wire::envoy::config::core::v3::data_source::Specifier;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SubjectAltNameMatcher, secret,
};
use naka_wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

/// New roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// PEM.
    pub pem: String,
    /// Trust domains whose identities count beside the mesh's own.
    pub aliases: Vec<String>,
}

impl Roots {
    /// From the secret of the trust bundle.
    ///
    /// # Errors
    /// When it is no trust bundle.
    pub(super) fn read(wire: &Secret) -> Result<Self, intake::Error> {
        let Some(secret::Type::ValidationContext(context)) = &wire.r#type else {
            return Err(intake::Error::at(
                "type",
                "only a validation context is taken",
            ));
        };
        let source = context
            .trusted_ca
            .as_ref()
            .and_then(|ca| ca.specifier.as_ref());
        let pem = match source {
            Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone())
                .map_err(|_| intake::Error::at("validation_context.trusted_ca", "not PEM"))?,
            Some(Specifier::InlineString(text)) => text.clone(),
            _ => {
                return Err(intake::Error::at(
                    "validation_context.trusted_ca",
                    "not inline",
                ));
            }
        };
        let names = context.match_typed_subject_alt_names.iter();
        let aliases = names.filter_map(alias).collect();
        Ok(Self { pem, aliases })
    }
}

/// The trust domain of a matcher `spiffe://<trust domain>/…`. Others say nothing of roots.
fn alias(name: &SubjectAltNameMatcher) -> Option<String> {
    let pattern = name.matcher.as_ref()?.match_pattern.as_ref()?;
    let MatchPattern::Prefix(prefix) = pattern else {
        return None;
    };
    let domain = prefix.strip_prefix("spiffe://")?.strip_suffix('/')?;
    (!domain.is_empty() && !domain.contains('/')).then(|| domain.to_owned())
}
