//! The trust bundle, and who is not believed although it would be.

use super::{Built, REVOKED, REVOKED_TOKENS, ROOT_CA, View, tls};
use crate::world::Read;
use naka_types::revoked_token::RevokedTokens;
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, GenericSecret, Secret, secret,
};

/// All roots of the mesh, and the aliases of its trust domain: a proxy of ours believes nobody else's identities.
pub(crate) fn root_ca(view: &View<'_>) -> Built {
    let world = view.read(Read::Trust);
    let roots = &world.roots;
    let aliases: Vec<&str> = world.domains.aliases().collect();
    let context = CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(Specifier::InlineBytes(roots.as_bytes().to_vec())),
            ..DataSource::default()
        }),
        match_typed_subject_alt_names: tls::of_aliases(&world.domains),
        ..CertificateValidationContext::default()
    };
    let message = Secret {
        name: ROOT_CA.to_owned(),
        r#type: Some(secret::Type::ValidationContext(context)),
    };
    let any = naka_wire::pack(&message);
    match aliases.is_empty() {
        true => Built::new(&(ROOT_CA, roots), any),
        false => Built::new(&(ROOT_CA, roots, aliases), any),
    }
}

/// Workloads whose certificates count no more. A resource of its own: an Envoy takes no list by workload.
pub(crate) fn revoked(view: &View<'_>) -> Built {
    list(REVOKED, view.read(Read::Trust).revoked.to_text())
}

/// Tokens of users that count no more. An Envoy has them among its DENY rules.
pub(crate) fn revoked_tokens(view: &View<'_>) -> Built {
    let mut all = RevokedTokens::default();
    for token in &*view.read(Read::RevokedTokens).revoked_tokens {
        all.insert(token.fingerprint);
    }
    list(REVOKED_TOKENS, all.to_text())
}

fn list(name: &str, text: String) -> Built {
    let held = GenericSecret {
        secret: Some(DataSource {
            specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
            ..DataSource::default()
        }),
        ..GenericSecret::default()
    };
    let message = Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::GenericSecret(held)),
    };
    Built::new(&(name, text), naka_wire::pack(&message))
}
