//! The control plane's own metrics, in Prometheus' text form on their own port.
//!
//! Numbers that live elsewhere (proxies, pushes, findings, revision) are read when they are asked for; times are
//! counted where they pass ([`crate::push::Phases`], the store's syncs). Labels are closed sets, never names of
//! proxies or objects, so the number of series does not grow with the mesh.

use crate::ca_service::CERTIFICATE;
use crate::denials::STREAM;
use crate::export::Shown;
use crate::plane::Plane;
use crate::readiness::Readiness;
use crate::status::Status;
use axum::Json;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use naka_identity::{Authority, ServerCert};
use naka_telemetry::{CONTENT_TYPE, Metrics, name};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Where the numbers come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What is counted as it happens.
    pub metrics: Metrics,
    /// Proxies and pushes.
    pub plane: Arc<Plane>,
    /// States and findings.
    pub status: Arc<Status>,
    /// The control plane's own certificate.
    pub certificate: Arc<ServerCert>,
    /// Root and intermediate.
    pub authority: Arc<Authority>,
    /// Where the audit trail goes by itself.
    pub places: Vec<Arc<Shown>>,
}

/// Serves `GET /metrics`, `GET /targets` (where proxies of this machine serve theirs, for Prometheus) and
/// `GET /healthz/ready` until it is dropped. Nothing on this port is secret or changes anything.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let readiness = Readiness::new(
        Arc::clone(&sources.plane),
        Arc::clone(&sources.certificate),
        Arc::clone(&sources.authority),
    );
    let status = Arc::clone(&sources.status);
    let targets = move || {
        let status = Arc::clone(&status);
        async move { Json(status.metrics_targets().await) }
    };
    let render = move || {
        sources.gather();
        let text = sources.metrics.render();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    let ready = move || {
        let (ready, body) = readiness.page();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        async move { (status, Json(body)) }
    };
    let router = Router::new()
        .route("/ready", get(ready.clone()))
        .route("/healthz/ready", get(ready))
        .route("/targets", get(targets))
        .route("/metrics", get(render.clone()))
        .route("/stats/prometheus", get(render));
    crate::apiserver::plain(router, listener).await;
}

impl Sources {
    fn gather(&self) {
        let (hub, metrics) = (&self.plane.hub, &self.metrics);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        metrics
            .number(name::CONNECTED_PROXIES, &[])
            .set(count(hub.connected()));
        metrics
            .number(name::CONFIG_REVISION, &[])
            .set(hub.world().revision);
        for (numbers, name) in [(hub.pushes(), name::PUSHES), (hub.nacks(), name::NACKS)] {
            for (type_url, count) in numbers {
                let short = type_url.rsplit('.').next().unwrap_or(type_url);
                metrics.number(name, &[("type", short)]).set(count);
            }
        }
        for (state, proxies) in self.status.states() {
            let labels = [("state", state)];
            metrics.number(name::PROXIES, &labels).set(count(proxies));
        }
        metrics.number(name::BEHIND, &[]).set(hub.furthest_behind());
        for (severity, findings) in self.status.severities() {
            let labels = [("severity", severity)];
            metrics.number(name::FINDINGS, &labels).set(count(findings));
        }
        self.expiries();
        self.trail();
        self.traces();
    }

    /// What became of traces.
    fn traces(&self) {
        let (counts, metrics) = (self.plane.traces.counts(), &self.metrics);
        metrics.number(name::TRACES_HELD, &[]).set(counts.traces);
        let dropped = |by| metrics.number(name::TRACES_DROPPED, &[("by", by)]);
        dropped("proxy").set(counts.dropped);
        dropped("age").set(counts.gone);
        let (sent, lost) = self.plane.traces.exported();
        metrics.number(name::SPANS_EXPORTED, &[]).set(sent);
        metrics.number(name::SPANS_DROPPED, &[]).set(lost);
    }

    /// What the audit trail lost, and how far behind its places are.
    fn trail(&self) {
        let Some(stream) = self.plane.denials.get() else {
            return;
        };
        let lost = |what: &'static str, by| {
            let labels = [("stream", what), ("by", by)];
            self.metrics.number(name::AUDIT_DROPPED, &labels)
        };
        lost(STREAM, "disk").set(stream.dropped());
        for form in ["file", "otlp"] {
            let places = self.places.iter().filter(|place| place.form == form);
            let (mut behind, mut dropped, mut any) = (0, 0, false);
            for place in places {
                behind = behind.max(place.behind(&self.plane.store, stream));
                dropped += place.dropped();
                any = true;
            }
            if any {
                let labels = [("to", form)];
                self.metrics.number(name::AUDIT_BEHIND, &labels).set(behind);
                lost("all", form).set(dropped);
            }
        }
    }

    fn expiries(&self) {
        let expires = |what, identity: &str, at| {
            self.metrics.certificate_expires(what, identity, at);
        };
        let own = self.certificate.not_after();
        expires("control", naka_identity::CONTROL_NAME, own);
        let (authority, domain) = (&self.authority, self.authority.trust_domain());
        expires("intermediate", domain, authority.intermediate_not_after());
        expires("root", domain, authority.root_not_after());
        // One number for all proxies: the certificate that ends first.
        let snapshot = self.plane.store.snapshot();
        let connected = self.plane.hub.seen().into_iter();
        let first = connected
            .filter_map(|proxy| {
                let record = snapshot.record(CERTIFICATE, &proxy.who.class.workload_id)?;
                record.get("not_after")?.as_u64()
            })
            .min();
        if let Some(first) = first {
            expires("workload", domain, first);
        }
    }
}
