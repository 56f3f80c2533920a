//! The walk of one request, from path to answer.

use super::answer::{Outcome, Problem, ok};
use super::auth::{Peer, Role, Subject, authenticate};
use super::route::{self, Route};
use super::{
    State, audit, authority, body, certificates, change, confirm, discovery, installation, modes,
    objects, read, revoked_tokens, rollouts, seal, tokens, watch,
};
use crate::refusal;
use axum::body::Body;
use axum::extract;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, Request, header};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One request, taken apart.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) state: Arc<State>,
    pub(crate) subject: Subject,
    pub(crate) peer: Option<Peer>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
}

impl Call {
    /// A header's text, empty when missing.
    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// A query parameter, empty when missing.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Whether a query parameter is set to true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), "true" | "1")
    }

    /// A number in the query.
    pub(crate) fn number(&self, name: &str) -> Outcome<Option<u64>> {
        match self.param(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Problem::bad_request(format!("{name}={text} is not a number"))),
        }
    }

    fn no_method(&self) -> Problem {
        Problem::no_method(&self.method, &self.path)
    }
}

/// Answers one request.
pub(crate) async fn handle(
    extract::State(state): extract::State<Arc<State>>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut body = Some(body);
    let asked = audit::Asked::of(&parts);
    let answer = answer(Arc::clone(&state), parts, &mut body)
        .await
        .unwrap_or_else(|problem| {
            audit::refused(&state, &asked, &problem);
            problem.into_response()
        });
    if let Some(unread) = body {
        refusal::pass_over(version, unread).await;
    }
    answer
}

/// Takes the body if it reads it.
async fn answer(state: Arc<State>, parts: Parts, body: &mut Option<Body>) -> Outcome {
    let path = parts.uri.path().to_owned();
    let route = route::parse(&path);
    // These two say nothing about the mesh; everything else needs a credential, even to learn that it is not there.
    if parts.method == Method::GET {
        match route {
            Some(Route::Health) => return Ok(read::health(&state)),
            Some(Route::Version) => return Ok(discovery::version()),
            _ => {}
        }
    }
    let peer = parts.extensions.get::<Peer>().copied();
    let subject = authenticate(&state, peer, &parts.headers)?;
    let call = Call {
        state,
        subject,
        peer,
        method: parts.method,
        path,
        query: route::query(parts.uri.query()),
        headers: parts.headers,
    };
    let Some(route) = route else {
        return Err(Problem::no_path(&call.path));
    };
    let reads = call.method == Method::GET;
    // A token may be for a program that starts; its handler decides.
    if !reads && call.path != "/naka/v1/tokens" {
        audit::takes_changes(&call.state)?;
    }
    match route {
        Route::CoreVersions if reads => Ok(discovery::core_versions()),
        Route::Groups if reads => Ok(discovery::groups()),
        Route::Group(group) if reads => Ok(discovery::group(&group)),
        Route::Resources { group, version } if reads => Ok(discovery::resources(&group, &version)),
        Route::OpenApi(None) if reads => Ok(discovery::open_api_index()),
        Route::OpenApi(Some((group, version))) if reads => {
            Ok(discovery::open_api(&group, &version))
        }
        Route::KubeEvents if reads => {
            let revision = call.state.store.snapshot().revision.to_string();
            Ok(ok(
                &json!({"kind": "EventList", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": []}),
            ))
        }
        Route::Collection {
            kind,
            version,
            namespace,
        } => {
            let place = objects::Place {
                kind,
                version,
                namespace,
            };
            match call.method {
                Method::GET if call.flag("watch") => watch::watch(&call, place).await,
                Method::GET => objects::list(&call, &place),
                Method::POST => objects::create(&call, &place, taken(body)).await,
                Method::DELETE => objects::delete_all(&call, &place).await,
                _ => Err(call.no_method()),
            }
        }
        Route::Object {
            kind,
            version,
            namespace,
            name,
            status,
        } => {
            let item = objects::Item::new(kind, version, namespace, name);
            match call.method {
                Method::GET => objects::get(&call, &item, status).await,
                _ if status => Err(Problem::no_method(&call.method, &call.path)
                    .explained("status is computed by the control plane and cannot be written")),
                Method::PUT => objects::replace(&call, &item, taken(body)).await,
                Method::PATCH => objects::patch(&call, &item, taken(body)).await,
                Method::DELETE => objects::delete(&call, &item, taken(body)).await,
                _ => Err(call.no_method()),
            }
        }
        Route::Naka(parts) => naka(call, &parts, body).await,
        _ => Err(call.no_method()),
    }
}

/// The body, for the one who reads it.
fn taken(body: &mut Option<Body>) -> Body {
    body.take().unwrap_or_default()
}

/// `/naka/v1/…`.
async fn naka(call: Call, parts: &[String], body: &mut Option<Body>) -> Outcome {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let kind = call.header(header::CONTENT_TYPE);
    if call.method == Method::POST && !kind.is_empty() && !kind.starts_with("application/json") {
        return Err(Problem::media_type(format!(
            "a body of type {kind} is not understood; send application/json"
        )));
    }
    match (&call.method, parts.as_slice()) {
        (&Method::POST, ["apply"]) => change::apply(&call, body::shaped(taken(body)).await?).await,
        (&Method::POST, ["diff"]) => change::diff(&call, body::shaped(taken(body)).await?).await,
        (&Method::POST, ["undo"]) => change::undo(&call, body::shaped(taken(body)).await?).await,
        (&Method::GET, ["confirm"]) => confirm::list(&call),
        (&Method::POST, ["confirm", id]) => confirm::confirm(&call, id).await,
        (&Method::POST, ["tokens"]) => {
            tokens::create(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::GET, ["tokens"]) => tokens::list(&call),
        (&Method::DELETE, ["tokens", id]) => tokens::revoke(&call, id).await,
        (&Method::GET, ["revoked-tokens"]) => revoked_tokens::list(&call),
        (&Method::POST, ["revoked-tokens"]) => {
            revoked_tokens::revoke(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::DELETE, ["revoked-tokens", id]) => revoked_tokens::take_back(&call, id).await,
        (&Method::POST, ["reveal", namespace, name]) => read::reveal(&call, namespace, name).await,
        (&Method::GET, ["seal"]) => seal::show(&call),
        (&Method::POST, ["seal"]) => seal::rotate(&call, body::shaped(taken(body)).await?).await,
        (&Method::GET, ["authority"]) => authority::show(&call),
        (&Method::POST, ["authority", "request"]) => authority::request(&call).await,
        (&Method::POST, ["authority", "install"]) => {
            authority::install(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::POST, ["authority", "rotate"]) => {
            authority::rotate(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::GET, ["rollouts"]) => rollouts::list(&call),
        (&Method::POST, ["rollouts", name, verb @ ("promote" | "abort")]) => {
            rollouts::steer(&call, name, verb).await
        }
        (&Method::GET, ["certificates"]) => certificates::list(&call),
        (&Method::POST, ["certificates", "revoke"]) => {
            certificates::revoke(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::GET, ["modes"]) => modes::list(&call),
        (&Method::POST, ["modes", namespace, name, "on"]) => {
            let wanted = body::shaped(taken(body)).await?;
            modes::on(&call, namespace, name, wanted).await
        }
        (&Method::POST, ["modes", namespace, name, "approve"]) => {
            modes::approve(&call, namespace, name).await
        }
        (&Method::POST, ["modes", namespace, name, "off"]) => {
            let wanted = body::shaped(taken(body)).await?;
            modes::off(&call, namespace, name, wanted).await
        }
        (&Method::POST, ["certificates", "approve"]) => {
            certificates::approve(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::GET, ["denials"]) => audit::denials(&call).await,
        (&Method::GET, ["audit", "status"]) => audit::status(&call),
        (&Method::GET, ["audit", "head"]) => audit::head(&call),
        (&Method::POST, ["audit", "backup"]) => {
            audit::backup(&call, body::shaped(taken(body)).await?).await
        }
        (&Method::GET, ["audit", "verify"]) => audit::verify(&call).await,
        (&Method::GET, ["audit", "events"]) => audit::events(&call).await,
        (&Method::GET, ["history"]) => read::history(&call),
        (&Method::GET, ["events"]) => read::events(&call),
        (&Method::GET, ["rollout"]) => read::rollout(&call).await,
        (&Method::GET, ["status"]) => read::status(&call).await,
        (&Method::GET, ["status", kind, namespace, name]) => {
            read::status_of(&call, kind, namespace, name).await
        }
        (&Method::GET, ["proxies"]) => read::proxies(&call).await,
        (&Method::GET, ["workloads"]) => read::workloads(&call).await,
        (&Method::GET, ["traces"]) => read::traces(&call).await,
        (&Method::GET, ["traces", id]) => read::trace(&call, id).await,
        (&Method::GET, ["installation"]) => installation::installation(&call).await,
        (&Method::GET, ["mesh"]) => read::mesh(&call),
        (&Method::GET, ["world"]) => {
            call.subject.need(
                Role::Viewer,
                "",
                "read the live configuration of all namespaces",
            )?;
            Ok(ok(&call.state.live.world().await))
        }
        (_, [known, ..]) if KNOWN.contains(known) => Err(call.no_method()),
        _ => Err(Problem::no_path(&call.path)),
    }
}

const KNOWN: &[&str] = &[
    "apply",
    "diff",
    "undo",
    "confirm",
    "tokens",
    "reveal",
    "revoked-tokens",
    "seal",
    "authority",
    "certificates",
    "modes",
    "audit",
    "denials",
    "history",
    "events",
    "rollout",
    "rollouts",
    "status",
    "proxies",
    "workloads",
    "traces",
    "installation",
    "mesh",
    "world",
];
