//! Type URLs of the resources that travel over xDS.

/// Listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoint sets.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Route configurations.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Virtual hosts on demand.
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// Trust bundles and keys.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Filters that a listener names a place for.
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// Filter of all host names visible to a node.
pub const NAME_FILTER: &str = "type.googleapis.com/naka.wire.v1.NameFilter";
/// What is known of a workload.
pub const WORKLOAD: &str = "type.googleapis.com/naka.wire.v1.WorkloadRecord";

#[cfg(test)]
mod tests {
    use crate::envoy::config::{cluster, core, endpoint, listener, route};
    use crate::envoy::extensions::transport_sockets::tls;
    use prost::Name;

    #[test]
    fn the_constants_are_what_the_messages_call_themselves() {
        for (constant, own) in [
            (super::LISTENER, listener::v3::Listener::type_url()),
            (super::CLUSTER, cluster::v3::Cluster::type_url()),
            (
                super::ENDPOINT,
                endpoint::v3::ClusterLoadAssignment::type_url(),
            ),
            (super::ROUTE, route::v3::RouteConfiguration::type_url()),
            (super::VIRTUAL_HOST, route::v3::VirtualHost::type_url()),
            (super::SECRET, tls::v3::Secret::type_url()),
            (super::EXTENSION, core::v3::TypedExtensionConfig::type_url()),
            (super::NAME_FILTER, crate::v1::NameFilter::type_url()),
            (super::WORKLOAD, crate::v1::WorkloadRecord::type_url()),
        ] {
            assert_eq!(constant, own);
        }
    }
}
