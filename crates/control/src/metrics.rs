//! The control plane's own metrics, in Prometheus' text form on their own port.
//!
//! Numbers that live elsewhere (proxies, pushes, revision) are read when they are asked for.

use crate::plane::Plane;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use naka_identity::{Authority, ServerCert};
use naka_telemetry::{Metrics, name};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves `GET /metrics` until it is dropped. Nothing on this port is secret or changes anything.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    plane: Arc<Plane>,
    certificate: Arc<ServerCert>,
    authority: Arc<Authority>,
) {
    let render = move || {
        gather(&metrics, &plane, &certificate, &authority);
        let text = metrics.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new()
        .route("/metrics", get(render.clone()))
        .route("/stats/prometheus", get(render));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics port failed");
    }
}

fn gather(metrics: &Metrics, plane: &Plane, certificate: &ServerCert, authority: &Authority) {
    let hub = &plane.hub;
    let connected = u64::try_from(hub.connected()).unwrap_or(u64::MAX);
    metrics.number(name::CONNECTED_PROXIES, &[]).set(connected);
    metrics
        .number(name::CONFIG_REVISION, &[])
        .set(hub.world().revision);
    for (numbers, name) in [(hub.pushes(), name::PUSHES), (hub.nacks(), name::NACKS)] {
        for (type_url, count) in numbers {
            let short = type_url.rsplit('.').next().unwrap_or(type_url);
            metrics.number(name, &[("type", short)]).set(count);
        }
    }
    metrics.certificate_expires(
        "control",
        naka_identity::CONTROL_NAME,
        certificate.not_after(),
    );
    let domain = authority.trust_domain();
    metrics.certificate_expires("intermediate", domain, authority.intermediate_not_after());
    metrics.certificate_expires("root", domain, authority.root_not_after());
}
