//! The trust bundle.

use super::{Built, ROOT_CA, View};
use crate::world::Read;
use naka_wire::envoy::config::core::v3::{DataSource, data_source::Specifier};
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, secret,
};

/// All roots of the mesh.
pub(crate) fn root_ca(view: &View<'_>) -> Built {
    let roots = &view.read(Read::Trust).roots;
    let context = CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(Specifier::InlineBytes(roots.as_bytes().to_vec())),
            ..DataSource::default()
        }),
        ..CertificateValidationContext::default()
    };
    let message = Secret {
        name: ROOT_CA.to_owned(),
        r#type: Some(secret::Type::ValidationContext(context)),
    };
    Built::new(&(ROOT_CA, roots), naka_wire::pack(&message))
}
