//! Files that clusters of an Envoy name for TLS towards servers outside the mesh.
//!
//! An Envoy refuses a cluster whose files it cannot read, and goes on with the one it had, which may be in plaintext.
//! So a cluster whose files cannot be used is offered with TLS on which no server is believed: calls fail until the
//! files are there. They are looked at again every [`LOOK`].
//!
//! Not here: what is in the files once they are good, which the Envoy reads itself.

use crate::intake::outside;
use crate::upstream::foreign;
use naka_engine::model::OutsideTls;
use naka_types::name::NO_CERTIFICATE;
use naka_wire::envoy::config::cluster::v3::Cluster;
use naka_wire::envoy::config::core::v3::transport_socket::ConfigType;
use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
    common_tls_context::ValidationContextType,
};
use naka_xds::{Encoded, Resource};
use std::collections::BTreeMap;
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Watched {
    /// As the control plane has it.
    resource: Resource,
    tls: OutsideTls,
    usable: bool,
}

/// Clusters that name files.
#[derive(Debug, Default)]
pub(super) struct Files {
    clusters: BTreeMap<String, Watched>,
    looked: Duration,
}

impl Files {
    /// Makes a cluster fit to be offered.
    pub(super) fn check(&mut self, resource: &mut Resource) {
        self.clusters.remove(&resource.name);
        let Some(tls) = naming_files(resource) else {
            return;
        };
        let watched = Watched {
            usable: usable(&resource.name, &tls),
            resource: resource.clone(),
            tls,
        };
        if !watched.usable {
            *resource = unusable(&watched.resource);
        }
        self.clusters.insert(resource.name.clone(), watched);
    }

    /// A cluster that is gone.
    pub(super) fn forget(&mut self, name: &str) {
        self.clusters.remove(name);
    }

    /// Clusters to be offered anew, because their files came or went.
    pub(super) fn again(&mut self, now: Duration) -> Vec<(String, Encoded)> {
        if self.clusters.is_empty() || now < self.looked + LOOK {
            return Vec::new();
        }
        self.looked = now;
        let mut changed = Vec::new();
        for (name, watched) in &mut self.clusters {
            let was = std::mem::replace(&mut watched.usable, foreign::usable(&watched.tls).is_ok());
            if was == watched.usable {
                continue;
            }
            let resource = match watched.usable {
                true => watched.resource.clone(),
                false => unusable(&watched.resource),
            };
            tracing::info!(
                cluster = name,
                usable = watched.usable,
                "files for TLS changed"
            );
            let encoded = Encoded {
                version: resource.version.into(),
                any: resource.any,
            };
            changed.push((name.clone(), encoded));
        }
        changed
    }
}

fn usable(cluster: &str, tls: &OutsideTls) -> bool {
    let error = foreign::usable(tls).err();
    if let Some(error) = &error {
        tracing::warn!(cluster, %error, "no TLS settings for a server outside the mesh; calls fail");
    }
    error.is_none()
}

/// TLS of a cluster with something in files.
fn naming_files(resource: &Resource) -> Option<OutsideTls> {
    let cluster: Cluster = naka_wire::unpack(&resource.any).ok()?;
    let (_, cluster) = outside::introduced(&cluster).ok()?;
    let (tls, _) = outside::tls(cluster.transport_socket.as_ref()?).ok()?;
    foreign::has_files(&tls).then_some(tls)
}

/// The cluster with TLS on which nobody is believed. Its version differs, so that after a restart the control plane
/// sends what it has again.
fn unusable(resource: &Resource) -> Resource {
    let mut resource = resource.clone();
    let Ok(cluster) = naka_wire::unpack::<Cluster>(&resource.any) else {
        return resource;
    };
    // Whom nobody believes needs no PROXY header.
    let Ok(mut cluster) = outside::introduced(&cluster).map(|(_, cluster)| cluster.into_owned())
    else {
        return resource;
    };
    let Some(socket) = &mut cluster.transport_socket else {
        return resource;
    };
    let sni = match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            naka_wire::unpack::<UpstreamTlsContext>(any).map(|context| context.sni)
        }
        _ => Ok(String::new()),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    verify_certificate_hash: vec![NO_CERTIFICATE.to_owned()],
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        sni: sni.unwrap_or_default(),
        ..UpstreamTlsContext::default()
    };
    socket.config_type = Some(ConfigType::TypedConfig(naka_wire::pack(&context)));
    resource.any = naka_wire::pack(&cluster);
    resource.version.push_str("+unusable");
    resource
}

#[cfg(test)]
mod tests {
    use super::{Files, LOOK};
    use crate::intake::outside;
    use naka_wire::envoy::config::cluster::v3::Cluster;
    use naka_wire::envoy::config::core::v3::{
        DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
    };
    use naka_wire::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
        common_tls_context::ValidationContextType,
    };
    use naka_wire::google::protobuf::Any;
    use naka_xds::Resource;

    fn cluster(file: &str) -> Resource {
        let roots = DataSource {
            specifier: Some(Specifier::Filename(file.to_owned())),
            ..DataSource::default()
        };
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                validation_context_type: Some(ValidationContextType::ValidationContext(
                    CertificateValidationContext {
                        trusted_ca: Some(roots),
                        ..CertificateValidationContext::default()
                    },
                )),
                ..CommonTlsContext::default()
            }),
            ..UpstreamTlsContext::default()
        };
        let cluster = Cluster {
            transport_socket: Some(TransportSocket {
                name: "envoy.transport_sockets.tls".to_owned(),
                config_type: Some(ConfigType::TypedConfig(naka_wire::pack(&context))),
            }),
            ..Cluster::default()
        };
        Resource {
            type_url: naka_wire::type_url::CLUSTER.to_owned(),
            name: "bank".to_owned(),
            version: "7".to_owned(),
            any: naka_wire::pack(&cluster),
        }
    }

    /// Whether nobody is believed.
    fn nobody(any: &Any) -> bool {
        let cluster: Cluster = naka_wire::unpack(any).unwrap();
        let (tls, _) = outside::tls(&cluster.transport_socket.unwrap()).unwrap();
        tls.nobody
    }

    #[test]
    fn files_that_cannot_be_used_mean_that_nobody_is_believed_until_they_can() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        // A file that is there and holds nothing of use is no better than none.
        for broken in [None, Some("no certificate")] {
            let _ = std::fs::remove_file(&file);
            if let Some(text) = broken {
                std::fs::write(&file, text).unwrap();
            }
            let mut files = Files::default();
            let original = cluster(file.to_str().unwrap());
            let mut offered = original.clone();
            files.check(&mut offered);
            assert!(nobody(&offered.any) && offered.version != original.version);
            assert!(files.again(LOOK).is_empty());
            std::fs::copy("/etc/ssl/certs/ca-certificates.crt", &file).unwrap();
            // Not before its time, and once.
            assert!(files.again(LOOK).is_empty());
            let again = files.again(LOOK * 2);
            assert_eq!(again.len(), 1);
            assert!(!nobody(&again[0].1.any) && *again[0].1.version == *original.version);
            assert!(files.again(LOOK * 3).is_empty());
            std::fs::remove_file(&file).unwrap();
            assert!(nobody(&files.again(LOOK * 4)[0].1.any));
            files.forget("bank");
            assert!(files.again(LOOK * 5).is_empty());
        }
    }
}
