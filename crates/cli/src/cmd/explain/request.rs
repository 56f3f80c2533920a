//! One request through compile, intake and engine.

pub(super) mod inbound;
mod standing;

use super::explained::{Explained, Got, Sent};
use crate::args;
use crate::cmd::causes;
use crate::cmd::standing::Told;
use crate::exit::{Exit, Outcome};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use naka_control::compile::{Class, Key, compile, roots};
use naka_control::world::World;
use naka_engine::canonical::{Canonical, Origin, Source};
use naka_engine::exchange::{
    Answered, Around, Cx, Effect, Exchange, Input, Need, Outcome as Ended, Tried,
};
use naka_engine::model::{Chain, Met};
use naka_engine::pick::Cursors;
use naka_engine::why::{Stage, Why};
use naka_proxy::names::{self, Filter, InMesh, Outside};
use naka_proxy::state::book::{Book, Near};
use naka_types::finding::Finding;
use naka_types::host::Host;
use naka_types::labels::Labels;
use naka_types::name::VirtualHostName;
use naka_types::node::Role;
use naka_types::reason::Reason;
use naka_wire::type_url;
use naka_xds::Resource;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// No request needs more steps; a loop here would be a fault of ours.
const MAX_STEPS: usize = 32;

/// What a name outside the mesh is taken to mean: an address reserved for documentation.
const ASSUMED: [u8; 4] = [192, 0, 2, 1];

/// A request as asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    uri: http::Uri,
    /// Host without port.
    pub(crate) host: String,
    port: u16,
    headers: HeaderMap,
    from: String,
    /// Labels of the caller.
    labels: Labels,
    namespace: String,
    body: Option<String>,
    /// Time since 1970.
    at: Duration,
    /// Labels of the gateway that is asked; none: a sidecar is.
    gateway: Labels,
    /// How the tries end, one after the other; after the last one every try is answered with 200.
    answers: Vec<Answer>,
}

/// How a try ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A response with this status, and a header.
    Status(http::StatusCode, Option<(HeaderName, HeaderValue)>),
    /// The endpoint refused the stream.
    RefusedStream,
    /// No connection.
    ConnectFailed,
    /// The connection broke after the request was sent.
    Reset,
}

impl Asked {
    /// Reads `GET http://payment/pay` and its headers.
    pub(crate) fn read(args: &args::Explain) -> Outcome<Self> {
        let words: Vec<&str> = match args.what.as_slice() {
            [both] => both.split_whitespace().collect(),
            more => more.iter().map(String::as_str).collect(),
        };
        let whole;
        let (method, url) = match (words.as_slice(), &args.to) {
            ([path], Some(to)) if path.starts_with('/') => {
                whole = format!("http://{to}{path}");
                ("GET", whole.as_str())
            }
            ([method, path], Some(to)) if path.starts_with('/') => {
                whole = format!("http://{to}{path}");
                (*method, whole.as_str())
            }
            (_, Some(_)) => {
                return Err(Exit::usage(
                    "with --to write METHOD PATH, for example: 'POST /pay'",
                ));
            }
            ([url], None) => ("GET", *url),
            ([method, url], None) => (*method, *url),
            _ => {
                return Err(Exit::usage(
                    "write METHOD URL, for example: GET http://payment/pay",
                ));
            }
        };
        let wrong = |what: &dyn std::fmt::Display| Exit::usage(format!("{url}: {what}"));
        let method = Method::from_str(&method.to_ascii_uppercase())
            .map_err(|_| Exit::usage(format!("{method:?} is no method")))?;
        let uri: http::Uri = url
            .parse()
            .map_err(|error: http::uri::InvalidUri| wrong(&error))?;
        let tls = uri.scheme_str() == Some("https");
        if uri.scheme_str() != Some("http") && (!tls || args.gateway.is_empty()) {
            return Err(wrong(
                &"programs call the mesh by http://, the sidecars encrypt",
            ));
        }
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let mut headers = HeaderMap::new();
        for text in &args.headers {
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| Exit::usage(format!("-H {text}: write NAME: VALUE")))?;
            let name = HeaderName::from_str(name.trim())
                .map_err(|_| Exit::usage(format!("-H {text}: no header name")))?;
            let value = HeaderValue::from_str(value.trim())
                .map_err(|_| Exit::usage(format!("-H {text}: no header value")))?;
            headers.append(name, value);
        }
        let from = args.from.clone().unwrap_or_default();
        let (namespace, from) = match from.split_once('/') {
            Some((namespace, account)) => (namespace.to_owned(), account.to_owned()),
            None => (args.namespace.clone(), from),
        };
        Ok(Self {
            method,
            uri,
            host,
            port,
            headers,
            from,
            namespace,
            body: args.body.clone(),
            at: args.at.unwrap_or_else(|| {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.unwrap_or_default()
            }),
            gateway: crate::cmd::token::labels(&args.gateway)?
                .iter()
                .map(|(key, value)| (key.clone(), crate::cmd::apply::show(value)))
                .collect(),
            labels: args.labels.iter().cloned().collect(),
            answers: args
                .answers
                .iter()
                .map(|text| Answer::parse(text))
                .collect::<Outcome<_>>()?,
        })
    }
}

impl Answer {
    fn parse(text: &str) -> Outcome<Self> {
        match text {
            "connect-failed" => Ok(Self::ConnectFailed),
            "reset" => Ok(Self::Reset),
            "refused-stream" => Ok(Self::RefusedStream),
            _ => Self::response(text).ok_or_else(|| {
                Exit::usage(format!(
                    "--answer {text}: a status, connect-failed, refused-stream or reset"
                ))
            }),
        }
    }

    fn response(text: &str) -> Option<Self> {
        let (status, header) = text.split_once(' ').unwrap_or((text, ""));
        let header = match header.split_once(':') {
            Some((name, value)) => Some((
                HeaderName::from_str(name.trim()).ok()?,
                HeaderValue::from_str(value.trim()).ok()?,
            )),
            None if header.is_empty() => None,
            None => return None,
        };
        Some(Self::Status(status.parse().ok()?, header))
    }
}

impl Asked {
    /// Who calls.
    fn identity(&self, world: &World) -> String {
        format!(
            "spiffe://{}/ns/{}/sa/{}",
            world.trust_domain, self.namespace, self.from
        )
    }

    /// What else about the objects explains the answer.
    pub(crate) fn causes(&self, world: &World, explained: &mut Explained) {
        if !self.gateway.is_empty() {
            let refused = explained.got.as_ref().and_then(|got| got.reason);
            if explained.closed || refused == Some(Reason::NoRoute) {
                let all = causes::of_gateway(world, &self.gateway, self.port, &self.host);
                causes::merge(&mut explained.findings, all);
            }
            return;
        }
        let knows = |host: &str| {
            let host = Host::parse(host).ok();
            host.is_some_and(|host| world.services.contains_key(&host))
        };
        let Ok(InMesh::Yes(host)) = names::in_mesh(&self.host, &self.namespace, knows) else {
            let host = Host::resolve(&self.host, &self.namespace).ok();
            let meant = host.filter(|host| causes::hint(world, host).is_some());
            let told = meant.map(|host| causes::unknown(world, &host));
            explained.findings.extend(told);
            return;
        };
        let all = causes::of_host(world, &host, Some(&self.namespace));
        causes::merge(&mut explained.findings, all);
        let hidden = causes::left_out(world, &host, &self.namespace, &self.labels);
        explained.findings.extend(hidden);
    }
}

/// Lets the request take its way, past what the caller's proxy found out about those it calls.
pub(crate) fn explain(world: &World, asked: &Asked, seen: &[Told]) -> Explained {
    let mut explained = Explained {
        request: describe(asked),
        trail: Vec::new(),
        findings: Vec::new(),
        verdict: String::new(),
        sent: Vec::new(),
        copies: Vec::new(),
        delay: Duration::ZERO,
        trust: Vec::new(),
        got: None,
        closed: false,
    };
    let origin = match asked.gateway.is_empty() {
        true => Origin::outbound(80),
        false => Origin::gateway(asked.port, asked.uri.scheme_str() == Some("https"), None),
    };
    // Inside TLS a client writes the path alone.
    let uri = match asked.uri.path_and_query() {
        Some(path) if asked.uri.scheme_str() == Some("https") => http::Uri::from(path.clone()),
        _ => asked.uri.clone(),
    };
    let mut builder = Request::builder().method(asked.method.clone()).uri(uri);
    if let Some(headers) = builder.headers_mut() {
        headers.clone_from(&asked.headers);
        if let Some(host) = asked
            .uri
            .authority()
            .and_then(|a| HeaderValue::from_str(a.as_str()).ok())
        {
            headers.entry(http::header::HOST).or_insert(host);
        }
    }
    let parts = match builder.body(()) {
        Ok(request) => request.into_parts().0,
        Err(error) => {
            explained.verdict = error.to_string();
            return explained;
        }
    };
    match Canonical::from_parts(parts, &origin) {
        Ok(canonical) => Walk::new(world, asked, &origin, seen).run(canonical, &mut explained),
        Err(refused) => {
            explained.got = Some(Got {
                status: http::StatusCode::from_u16(refused.reason.http_status())
                    .unwrap_or(http::StatusCode::BAD_REQUEST),
                headers: HeaderMap::new(),
                reason: Some(refused.reason),
            });
            explained.verdict = format!(
                "{} {}: {}",
                refused.reason.http_status(),
                refused.reason,
                refused.detail
            );
        }
    }
    explained
}

struct Walk<'a> {
    world: &'a World,
    asked: &'a Asked,
    origin: &'a Origin,
    class: Class,
    book: Book,
    seen: &'a [Told],
}

impl<'a> Walk<'a> {
    fn new(world: &'a World, asked: &'a Asked, origin: &'a Origin, seen: &'a [Told]) -> Self {
        Self {
            world,
            asked,
            origin,
            seen,
            class: Class {
                role: match asked.gateway.is_empty() {
                    true => Role::Sidecar,
                    false => Role::Gateway,
                },
                // Where `naka proxy gateway` is unless it is told another namespace.
                namespace: match asked.gateway.is_empty() {
                    true => asked.namespace.clone(),
                    false => naka_types::host::ROOT_NAMESPACE.to_owned(),
                },
                labels: match asked.gateway.is_empty() {
                    true => world.labels_read(&asked.namespace, &asked.labels),
                    false => asked.gateway.clone(),
                },
                narrow: world.narrows(&asked.namespace),
                network: world.network_of_caller(match asked.gateway.is_empty() {
                    true => &asked.labels,
                    false => &asked.gateway,
                }),
                ..Class::default()
            },
            book: Book::new(&asked.namespace)
                .without_secrets()
                .called_by(Near::new(asked.labels.clone(), &own_host(asked))),
        }
    }

    /// The server of a gateway that takes the connection; `None`: it is closed.
    fn chain(&self, explained: &mut Explained) -> Option<Arc<Chain>> {
        let snapshot = self.book.snapshot();
        let here = IpAddr::from([127, 0, 0, 1]);
        let name = self.asked.host.to_ascii_lowercase();
        let met = Met {
            tls: self.origin.tls,
            server_name: self.origin.tls.then_some(name.as_str()),
            local: here,
            direct: here,
            remote: here,
        };
        let port = self.asked.port;
        let found = snapshot.edge(port).and_then(|edge| edge.choose(&met));
        let Some(chain) = found else {
            let because = format!("no server of port {port} takes such a connection");
            explained.trail.push(Why::new(Stage::Host, "none", because));
            explained.verdict = "the connection is closed".to_owned();
            explained.closed = true;
            return None;
        };
        let because = format!("takes the connection to port {port}");
        explained
            .trail
            .push(Why::new(Stage::Host, &*chain.name, because));
        Some(Arc::clone(chain))
    }

    fn run(mut self, mut request: Canonical, explained: &mut Explained) {
        let mut origin = self.origin.clone();
        let mut exchange = Exchange::new();
        let mut rng = fastrand::Rng::new();
        let mut cursors = Cursors::new();
        let mut response = http::Response::new(()).into_parts().0;
        let mut input = Input::Begin;
        let mut answers = self.asked.answers.iter();
        let around = self.around();
        if self.class.role == Role::Gateway {
            let listeners = roots::listeners(self.world, &self.class);
            self.load(listeners.into_iter().collect(), explained);
            match self.chain(explained) {
                Some(chain) => {
                    origin.chain = Some(Arc::clone(&chain.name));
                    if chain.grpc_web {
                        request.take_grpc_web();
                    }
                }
                None => return,
            }
        }
        let mut found;
        for _ in 0..MAX_STEPS {
            let snapshot = self.book.snapshot();
            let mut cx = Cx {
                snapshot: &snapshot,
                origin: &origin,
                now: Duration::ZERO,
                around: &around,
                rng: &mut rng,
                cursors: &mut cursors,
                why: Some(&mut explained.trail),
            };
            input = match exchange.step(&mut request, input, &mut cx) {
                Effect::Need(Need::VirtualHost { host, port }) => {
                    Input::Answer(self.fetch(&host, port, explained))
                }
                Effect::Need(Need::Body { limit }) => Input::Body(self.body(limit)),
                Effect::Need(Need::Backoff(_)) => Input::TimerFired,
                Effect::Need(Need::Delay(pause)) => {
                    explained.delay += pause;
                    Input::TimerFired
                }
                Effect::Need(Need::Lookup(_) | Need::Peer(_)) => Input::Answer(Answered::Ready),
                Effect::Need(Need::Check) => Input::Checked(inbound::assumed(&mut explained.trail)),
                Effect::Need(Need::Addresses { port, .. }) => {
                    found = [SocketAddr::from((ASSUMED, port))];
                    Input::Addresses(&found)
                }
                Effect::Try(to_try) => {
                    if exchange.may_copy() {
                        let copies = exchange.copies(&request, &mut cx);
                        explained.copies = copies.iter().map(copied).collect();
                    }
                    explained.verdict = self.verdict(&request, &to_try);
                    explained.sent.push(sent(&request, &to_try));
                    let outcome = match answers.next() {
                        Some(Answer::ConnectFailed) => Ended::ConnectFailed,
                        Some(Answer::Reset) => Ended::Reset,
                        Some(Answer::RefusedStream) => Ended::RefusedStream,
                        answer => {
                            exchange.hold(to_try.permit);
                            response = http::Response::new(()).into_parts().0;
                            if let Some(Answer::Status(status, header)) = answer {
                                response.status = *status;
                                response.headers.extend(header.clone());
                            }
                            Ended::Response(&mut response)
                        }
                    };
                    Input::Tried(Tried {
                        outcome,
                        replayable: true,
                    })
                }
                Effect::PassThrough(outside) => {
                    explained.outside(&outside);
                    return;
                }
                Effect::Reply(reply) => {
                    explained.replied(reply);
                    return;
                }
                Effect::Relay => {
                    explained.got = Some(Got {
                        status: response.status,
                        headers: response.headers,
                        reason: None,
                    });
                    return;
                }
                Effect::Done => return,
            };
        }
    }

    /// What the proxy would do on demand: ask for the virtual host, get everything it refers to before it.
    fn fetch(&mut self, host: &str, port: u16, explained: &mut Explained) -> Answered {
        let filter = self.filter();
        let knows = |host: &str| filter.as_ref().is_some_and(|filter| filter.contains(host));
        let full = match names::in_mesh(host, &self.asked.namespace, knows) {
            Err(reason) => return Answered::Failed(reason),
            Ok(InMesh::No) => {
                let seen = self
                    .world
                    .services
                    .keys()
                    .any(|known| known.as_str() == host);
                let because = if seen {
                    format!("{host} is not to be seen from this caller")
                } else {
                    format!("{host} is no service of the mesh")
                };
                let why = Why::new(Stage::Host, "outside the mesh", because);
                explained.trail.push(why);
                return self.outside(explained);
            }
            Ok(InMesh::Yes(full)) => full,
        };
        let name = VirtualHostName {
            host: full.as_str().to_owned(),
            port,
        };
        if self.load(vec![Key::VirtualHost(name)], explained) {
            return Answered::Ready;
        }
        let because = format!("{full} has no port {port}");
        let why = Why::new(Stage::Host, "no such port", because);
        explained.trail.push(why);
        // As at the proxy: only names of the mesh's own domain can be nothing else.
        if names::is_of_mesh(full.as_str()) {
            Answered::Failed(Reason::NoSuchPort)
        } else {
            self.outside(explained)
        }
    }

    /// The names that this caller may know.
    fn filter(&self) -> Option<Filter> {
        let names = compile(self.world, &Key::Names, &self.class).resource?;
        Filter::decode(&naka_wire::unpack(&names.any).ok()?).ok()
    }

    /// What becomes of a call to a host that is not of the mesh.
    fn outside(&mut self, explained: &mut Explained) -> Answered {
        let refers = compile(self.world, &Key::Names, &self.class).refers;
        match self.filter().as_ref().map(Filter::outside) {
            None | Some(Outside::Allowed) => Answered::External,
            Some(Outside::Denied) => Answered::Failed(Reason::EgressDenied),
            Some(Outside::Through(name)) => {
                self.load(refers, explained);
                let snapshot = self.book.snapshot();
                let found = snapshot.clusters().find(|c| **c.name() == **name);
                found.map_or(Answered::Failed(Reason::UnknownCluster), |cluster| {
                    Answered::Through(cluster.id)
                })
            }
        }
    }

    /// Gives the proxy these resources with everything they refer to; `false` if there is none of them.
    fn load(&mut self, mut wanted: Vec<Key>, explained: &mut Explained) -> bool {
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        let mut all: Vec<Resource> = Vec::new();
        while let Some(key) = wanted.pop() {
            if !seen.insert(key.clone()) {
                continue;
            }
            let compiled = compile(self.world, &key, &self.class);
            explained.findings.extend(compiled.findings);
            wanted.extend(compiled.refers);
            let Some(encoded) = compiled.resource else {
                continue;
            };
            let resource = Resource {
                type_url: key.type_url().to_owned(),
                name: key.name(),
                version: encoded.version.to_string(),
                any: encoded.any.clone(),
            };
            match key {
                Key::Cluster(_)
                | Key::Raw(_)
                | Key::Endpoints(_)
                | Key::VirtualHost(_)
                | Key::Listener(_) => all.push(resource),
                _ => {}
            }
        }
        let roots = [type_url::LISTENER, type_url::VIRTUAL_HOST];
        let found = all
            .iter()
            .any(|resource| roots.contains(&resource.type_url.as_str()));
        for kind in [
            type_url::CLUSTER,
            type_url::ENDPOINT,
            type_url::LISTENER,
            type_url::VIRTUAL_HOST,
        ] {
            let of = all.iter().filter(|resource| resource.type_url == kind);
            let of: Vec<Resource> = of.cloned().collect();
            for reject in self.book.apply(kind, &of, &[]) {
                let finding = Finding::new(
                    naka_api::codes::E902.id,
                    format!("the proxy refuses {}: {}", reject.name, reject.reason),
                );
                explained.findings.push(finding);
            }
        }
        for name in self.book.names() {
            let address = name.parse().unwrap_or(IpAddr::from(ASSUMED));
            self.book.means(&name, vec![address]);
        }
        self.book.settle();
        self.stand(explained);
        found
    }

    fn verdict(&self, request: &Canonical, to_try: &naka_engine::exchange::Try) -> String {
        let endpoint = &to_try.endpoint;
        let how = if to_try.cluster.spec.outside.is_some() {
            "over TLS"
        } else if endpoint.mtls {
            "over mutual TLS"
        } else {
            "in plaintext"
        };
        let from = if self.asked.from.is_empty() {
            String::new()
        } else {
            format!(" as {}", self.identity())
        };
        let timeout = to_try.deadline.map_or_else(String::new, |at| {
            format!(", timeout {}", naka_types::duration::Show(at))
        });
        format!(
            "{} {} to {} ({}) {how}{from}{timeout}",
            request.method(),
            request.target(),
            endpoint.address,
            to_try.cluster.name()
        )
    }

    /// What is known besides the request: the caller, if it was named, and the calendar.
    fn around(&self) -> Around {
        let named = !self.asked.from.is_empty();
        let own = Source {
            identity: if named {
                self.identity().into()
            } else {
                Arc::default()
            },
            workload: self.asked.from.as_str().into(),
            id: None,
        };
        Around {
            own,
            epoch: self.asked.at,
            ..Around::default()
        }
    }

    /// The body, as a proxy would have read it.
    fn body(&self, limit: usize) -> Option<Bytes> {
        let body = self.asked.body.clone().unwrap_or_default();
        (body.len() <= limit).then(|| body.into())
    }

    fn identity(&self) -> String {
        self.asked.identity(self.world)
    }
}

fn copied(copy: &naka_engine::exchange::Copy) -> (String, String) {
    let host = String::from_utf8_lossy(copy.host.as_bytes());
    (copy.cluster.name().to_string(), host.into_owned())
}

fn sent(request: &Canonical, to_try: &naka_engine::exchange::Try) -> Sent {
    let mut headers = request.headers().clone();
    if let Some(form) = request.grpc_web() {
        form.request(&mut headers);
    }
    Sent {
        cluster: to_try.cluster.name().to_string(),
        address: to_try.endpoint.address,
        target: request.target().to_owned(),
        authority: request.authority().to_owned(),
        headers,
        timeout: to_try.deadline,
        per_try_timeout: to_try.per_try_timeout,
    }
}

fn describe(asked: &Asked) -> String {
    let from = if asked.from.is_empty() {
        format!("a program in namespace {}", asked.namespace)
    } else {
        format!("{} in namespace {}", asked.from, asked.namespace)
    };
    format!(
        "{} {} (port {}) from {from}",
        asked.method, asked.uri, asked.port
    )
}

/// Host of the service that calls, empty if none was named.
fn own_host(asked: &Asked) -> String {
    if asked.from.is_empty() {
        return String::new();
    }
    Host::of_service(&asked.from, &asked.namespace).to_string()
}
