//! Requests that somebody else decides about: whether one is asked about, and what the answer does.
//!
//! Asked is after tokens were read and before DENY and ALLOW rules, so that what a provider lets pass may still be
//! refused by a rule. What cannot be known counts as matching: the provider is asked rather than passed by. No answer,
//! an answer that is none, and a provider without a ready endpoint are the same: the request is refused, unless the
//! provider is set to fail open. A body that is too long, or does not come, is never that: nobody could be asked about
//! it because of its sender, who would walk around the provider otherwise.
//!
//! A question is never asked about a question ([`names::CHECK`]): where a policy holds for its own provider too, the
//! first question is refused instead of asking another one, and another one.
//!
//! Not here: sockets, and the messages of gRPC (`proxy`).

use super::attempt::{Avoid, choose};
use super::{Cx, Effect, Exchange, access};
use crate::canonical::{Canonical, Direction, own};
use crate::model::{Access, Authorizer, Cluster, Endpoint, HttpCheck, TextCondition};
use crate::reply::LocalReply;
use crate::runtime::Permit;
use crate::why::{Stage, Why};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header, response};
use naka_types::header as names;
use naka_types::reason::Reason;
use std::sync::Arc;

/// Marks a question.
pub const CHECK: HeaderName = own(names::CHECK);
/// Says with a body whether it is only the beginning.
pub const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// In an answer: headers that the request is to lose.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What is being asked.
#[derive(Debug)]
pub(super) struct Asking {
    authorizer: Arc<Authorizer>,
    rule: Arc<str>,
}

/// Where to ask.
#[derive(Debug)]
pub struct Call {
    /// Destination.
    pub cluster: Arc<Cluster>,
    /// Whom to call.
    pub endpoint: Arc<Endpoint>,
    /// Counts the question; keep until it is answered.
    pub permit: Permit,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// The request may pass, changed like this.
    Allowed(Box<Changes>),
    /// It may not.
    Denied(Box<Denial>),
    /// Nobody answered, and why.
    Unanswered(Box<str>),
    /// The body is longer than what may be told.
    TooLong,
    /// The body did not come in time.
    Late,
}

/// How a header is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Values that are there go.
    Set,
    /// One more.
    Add,
    /// One more, where there is one.
    AddToOthers,
    /// Where there is none.
    IfAbsent,
    /// Where there is one, which goes.
    Replace,
}

/// A change of a header.
pub type Edit = (HeaderName, HeaderValue, How);

/// What an answer changes about a request that passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Headers that the request loses.
    pub remove: Vec<HeaderName>,
    /// Of its headers.
    pub request: Vec<Edit>,
    /// Of those of the answer that its caller gets.
    pub response: Vec<Edit>,
    /// Parameters of its query that go.
    pub query_remove: Vec<String>,
    /// Parameters of its query, name and value.
    pub query_set: Vec<(String, String)>,
}

/// What a caller is told who is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Text.
    pub body: Bytes,
}

impl Exchange {
    /// Who is to be asked about this request.
    #[must_use]
    pub fn asking(&self) -> Option<&Arc<Authorizer>> {
        self.asking.as_ref().map(|asking| &asking.authorizer)
    }

    /// Chooses whom to ask.
    ///
    /// # Errors
    /// The reason when nobody can be.
    pub fn authorizer(&self, cx: &mut Cx<'_>) -> Result<Call, Reason> {
        let authorizer = self.asking().ok_or(Reason::Internal)?;
        let (id, name) = (authorizer.cluster, Arc::clone(&authorizer.name));
        let chosen = choose(id, &name, Avoid::default(), None, None, |_, _| None, cx)?;
        Ok(Call {
            cluster: chosen.cluster,
            endpoint: chosen.endpoint,
            permit: chosen.permit,
        })
    }

    /// Whether somebody else decides about this request; then they are to be asked.
    pub(super) fn asks(
        &mut self,
        access: &Access,
        request: &Canonical,
        cx: &mut Cx<'_>,
    ) -> Result<bool, Reason> {
        let Some(check) = &access.check else {
            return Ok(false);
        };
        let Some(rule) = access::asked_about(check, Some(request), cx).cloned() else {
            cx.explain(|| Why::new(Stage::Policy, "nobody is asked", "no CUSTOM rule matches"));
            return Ok(false);
        };
        if request.headers().contains_key(CHECK) {
            let because = "the request is such a question itself";
            cx.explain(|| Why::new(Stage::Policy, "nobody is asked", because));
            return Err(self.unanswered(&rule));
        }
        let name = &check.authorizer.name;
        cx.explain(|| {
            let because = format!("a CUSTOM rule matches: {rule}");
            Why::new(Stage::Policy, format!("asks {name}"), because)
        });
        self.asking = Some(Box::new(Asking {
            authorizer: Arc::clone(&check.authorizer),
            rule,
        }));
        Ok(true)
    }

    fn unanswered(&mut self, rule: &Arc<str>) -> Reason {
        let judged = self.judged.get_or_insert_default();
        judged.refused_by = Some(Arc::clone(rule));
        judged.by = access::By::Silence;
        Reason::ExternalUnavailable
    }

    /// Takes the answer; the rest of the policies is asked when the request may pass.
    pub(super) fn checked(
        &mut self,
        request: &mut Canonical,
        checked: Checked,
        cx: &mut Cx<'_>,
    ) -> Effect {
        let Some(asking) = self.asking.take() else {
            return self.refuse(request, Reason::Internal, cx);
        };
        match checked {
            Checked::Allowed(changes) => {
                cx.explain(|| Why::new(Stage::Policy, "allowed", &*asking.authorizer.name));
                if let Err(reason) = changes.apply(request) {
                    return self.refuse(request, reason, cx);
                }
                if !changes.response.is_empty() {
                    self.answer_edits = Some(changes.response.into());
                }
                self.admitted_by_others(request, cx)
            }
            Checked::Denied(denial) => {
                let judged = self.judged.get_or_insert_default();
                judged.refused_by = Some(asking.rule);
                judged.by = access::By::Authorizer;
                cx.explain(|| Why::new(Stage::Policy, "denied", &*asking.authorizer.name));
                let reply = denial.reply(request.is_grpc());
                Self::answer(reply, cx)
            }
            Checked::Unanswered(why) => {
                let open = asking.authorizer.fail_open;
                cx.explain(|| {
                    let decision = if open { "passes unasked" } else { "denied" };
                    Why::new(Stage::Policy, decision, &*why)
                });
                if open {
                    let noticed = &mut self.judged.get_or_insert_default().noticed;
                    noticed.push(access::Noticed {
                        outcome: "unanswered",
                        rule: asking.rule,
                    });
                    return self.admitted_by_others(request, cx);
                }
                let reason = self.unanswered(&asking.rule);
                let mut reply = LocalReply::new(reason, request.is_grpc());
                reply.told_as(asking.authorizer.status_on_error, request.is_grpc());
                cx.explain(|| Why::new(Stage::Reply, reason.code(), reason.meaning()));
                Effect::Reply(match cx.origin.direction {
                    Direction::Gateway => reply.at_gateway(super::headers::request_id_of(request)),
                    Direction::Outbound | Direction::Inbound { .. } => reply,
                })
            }
            Checked::TooLong => self.refuse(request, Reason::BodyTooLarge, cx),
            Checked::Late => self.refuse(request, Reason::BadRequest, cx),
        }
    }

    /// Changes the answer as who was asked wants it.
    pub(super) fn edit_answer(&mut self, headers: &mut HeaderMap) {
        for edit in self.answer_edits.take().into_iter().flatten() {
            change(headers, edit);
        }
    }
}

impl Denial {
    fn reply(self, grpc: bool) -> LocalReply {
        let mut reply = LocalReply::new(Reason::ExternalDenied, grpc);
        reply.told_as(self.status, grpc);
        if grpc {
            if let Ok(text) = HeaderValue::try_from(percent_encoded(&self.body)) {
                reply.headers.insert("grpc-message", text);
            }
            let plain = |name: &HeaderName| *name != header::CONTENT_TYPE;
            add_all(&mut reply.headers, &self.headers, plain);
            return reply;
        }
        reply.headers.remove(header::CONTENT_TYPE);
        add_all(&mut reply.headers, &self.headers, |_| true);
        reply.body = self.body;
        reply
    }
}

/// A message as gRPC has it in a header.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Headers that would replace ours of the same name do, with all their values.
fn add_all(to: &mut HeaderMap, from: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    for name in from.keys().filter(|name| wanted(name)) {
        to.remove(name);
        for value in from.get_all(name) {
            to.append(name.clone(), value.clone());
        }
    }
}

impl Changes {
    fn apply(&self, request: &mut Canonical) -> Result<(), Reason> {
        for name in self.remove.iter().filter(|name| free(name)) {
            request.parts.headers.remove(name);
        }
        for edit in &self.request {
            change(&mut request.parts.headers, edit.clone());
        }
        if self.query_remove.is_empty() && self.query_set.is_empty() {
            return Ok(());
        }
        let gone = |name: &str| {
            let set = self.query_set.iter().any(|(known, _)| known == name);
            set || self.query_remove.iter().any(|known| known == name)
        };
        let query = request.query().unwrap_or_default();
        let kept = query.split('&').filter(|pair| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            !pair.is_empty() && !gone(name)
        });
        let set = self.query_set.iter().map(|(name, value)| {
            let name = encoded(name);
            format!("{name}={}", encoded(value))
        });
        let all: Vec<String> = kept.map(str::to_owned).chain(set).collect();
        request.set_query(&all.join("&"))
    }
}

/// A part of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn change(headers: &mut HeaderMap, (name, value, how): Edit) {
    if !free(&name) {
        return;
    }
    let there = headers.contains_key(&name);
    match how {
        How::Set => {
            headers.insert(name, value);
        }
        How::Add => {
            headers.append(name, value);
        }
        How::AddToOthers if there => {
            headers.append(name, value);
        }
        How::IfAbsent if !there => {
            headers.append(name, value);
        }
        How::Replace if there => {
            headers.insert(name, value);
        }
        How::AddToOthers | How::IfAbsent | How::Replace => {}
    }
}

/// Whether a header may be changed by, or taken from, an answer: framing, the host and the mesh's own may not.
#[must_use]
pub fn free(name: &HeaderName) -> bool {
    const FRAMING: [&str; 10] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "proxy-connection",
        "expect",
    ];
    !FRAMING.contains(&name.as_str()) && !names::is_internal(name.as_str())
}

fn wanted(patterns: &[TextCondition], name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    patterns.iter().any(|pattern| pattern.holds(name))
}

impl HttpCheck {
    /// The head of the question about a request, for HTTP/1. `partial`: whether a body that goes with it is only the
    /// beginning; `None`: none does. Each value of a header that came more than once is told.
    ///
    /// # Errors
    /// When the path cannot be written behind the prefix.
    pub fn question(
        &self,
        request: &Canonical,
        partial: Option<bool>,
    ) -> Result<Request<()>, Reason> {
        let target = format!("{}{}", self.path_prefix, request.target());
        let uri = Uri::try_from(target).map_err(|_| Reason::BadRequest)?;
        let host = HeaderValue::try_from(request.authority()).map_err(|_| Reason::BadRequest)?;
        let mut out = Request::new(());
        *out.method_mut() = request.method().clone();
        *out.uri_mut() = uri;
        let headers = out.headers_mut();
        for (name, value) in request.headers() {
            let told = *name == header::AUTHORIZATION || wanted(&self.request_headers, name);
            if told && sendable(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.added {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(header::HOST, host);
        mark(headers, partial);
        Ok(out)
    }

    /// What an answer says.
    #[must_use]
    pub fn answer(&self, mut head: response::Parts, body: Bytes) -> Checked {
        if head.status.is_informational() || head.status.as_u16() >= 500 {
            return Checked::Unanswered(format!("it answered {}", head.status).into());
        }
        if head.status == StatusCode::OK {
            return Checked::Allowed(Box::new(self.changes(&head.headers)));
        }
        // What callers always get, as from an Envoy.
        let always = [header::WWW_AUTHENTICATE, header::LOCATION];
        let all = self.downstream_on_deny.is_empty();
        let names: Vec<HeaderName> = head.headers.keys().cloned().collect();
        for name in names {
            let told = all || always.contains(&name) || wanted(&self.downstream_on_deny, &name);
            if !told || !free(&name) {
                head.headers.remove(name);
            }
        }
        Checked::Denied(Box::new(Denial {
            status: head.status,
            headers: head.headers,
            body,
        }))
    }

    fn changes(&self, headers: &HeaderMap) -> Changes {
        let mut changes = Changes::default();
        for name in headers.keys() {
            let on = wanted(&self.upstream_on_allow, name);
            let back = wanted(&self.downstream_on_allow, name);
            for (index, value) in headers.get_all(name).iter().enumerate() {
                let how = if index == 0 { How::Set } else { How::Add };
                if on {
                    changes.request.push((name.clone(), value.clone(), how));
                }
                if back {
                    let edit = (name.clone(), value.clone(), How::Add);
                    changes.response.push(edit);
                }
            }
        }
        for value in headers.get_all(TO_REMOVE) {
            let words = value.to_str().unwrap_or_default().split(',');
            let names = words.filter_map(|word| word.trim().parse().ok());
            changes.remove.extend(names);
        }
        changes
    }
}

/// Whether a header of a request may stand in a question.
fn sendable(name: &HeaderName) -> bool {
    *name != CHECK && *name != PARTIAL_BODY && free_to_tell(name)
}

/// The mesh's own headers may be told; framing is the question's own.
fn free_to_tell(name: &HeaderName) -> bool {
    free(name) || names::is_internal(name.as_str())
}

/// What every question carries.
pub fn mark(headers: &mut HeaderMap, partial: Option<bool>) {
    headers.insert(CHECK, HeaderValue::from_static("1"));
    match partial {
        None => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Some(partial) => {
            let word = if partial { "true" } else { "false" };
            headers.insert(PARTIAL_BODY, HeaderValue::from_static(word));
        }
    }
}
