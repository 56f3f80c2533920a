//! The attributes of a request that is being decided: where expressions get their values from.
//!
//! Nothing is copied or looked up before an expression asks. What the caller claims and what the mesh knows are told
//! apart in the one table of attributes (`naka_expr::TABLE`), not here.

use super::{Cx, Effect, Exchange, Need, Repeated, matching};
use crate::canonical::{Canonical, Direction, Origin, Source};
use crate::model::Subject;
use bytes::Bytes;
use http::HeaderName;
use naka_expr::{Body, Text, Values};
use naka_types::host::Host;
use naka_types::reason::Reason;
use std::borrow::Cow;
use std::time::Duration;

/// What is known besides a request.
#[derive(Debug, Clone)]
pub struct Around {
    /// Who this proxy speaks for.
    pub own: Source,
    /// What to add to `Cx::now` to get the time since 1970.
    pub epoch: Duration,
    /// Traces of which a call failed although it was repeated.
    pub repeated: Repeated,
    /// How many of ten thousand traces that begin here are reported whatever becomes of them.
    pub sampled_per_myriad: u16,
}

impl Default for Around {
    fn default() -> Self {
        Self {
            own: Source::default(),
            epoch: Duration::ZERO,
            repeated: Repeated::default(),
            // Istio's default.
            sampled_per_myriad: 100,
        }
    }
}

/// What is known of the body.
#[derive(Debug, Default)]
pub(super) enum Read {
    /// Nobody asked for it.
    #[default]
    NotYet,
    /// All of it.
    Whole(Bytes),
    /// It could not be had.
    Failed,
}

/// A request's attributes.
pub(super) struct Attributes<'a> {
    request: &'a Canonical,
    origin: &'a Origin,
    around: &'a Around,
    body: &'a Read,
    /// Full host of the service that is called.
    host: &'a str,
    port: u16,
    now: Duration,
}

impl<'a> Attributes<'a> {
    /// Those of a request to a service's port.
    pub(super) fn new(
        (host, port): (&'a str, u16),
        request: &'a Canonical,
        body: &'a Read,
        cx: &Cx<'a>,
    ) -> Self {
        Self {
            request,
            origin: cx.origin,
            around: cx.around,
            body,
            host,
            port,
            now: cx.now,
        }
    }

    fn source(&self) -> Option<&'a Source> {
        match self.origin.direction {
            Direction::Outbound => Some(&self.around.own),
            Direction::Inbound { .. } | Direction::Gateway => self.origin.source.as_ref(),
        }
    }

    /// Namespace and service account of the caller.
    fn principal(&self) -> Option<(&'a str, &'a str)> {
        let principal = self.source()?.identity.strip_prefix("spiffe://")?;
        let (_, rest) = principal.split_once("/ns/")?;
        let (namespace, _) = rest.split_once("/sa/")?;
        Some((principal, namespace))
    }
}

fn known(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

impl Values for Attributes<'_> {
    fn text(&self, which: Text) -> Option<Cow<'_, str>> {
        match which {
            Text::Method => known(self.request.method().as_str()),
            Text::Scheme => known(if self.origin.tls { "https" } else { "http" }),
            Text::Host => known(self.request.host()),
            Text::Path => known(self.request.path()),
            Text::SourceWorkload => known(&self.source()?.workload),
            Text::SourceNamespace => known(self.principal()?.1),
            Text::SourcePrincipal => known(self.principal()?.0),
            Text::SourceAddress => Some(Cow::Owned(self.origin.address?.to_string())),
            Text::DestinationService => known(self.host),
            Text::DestinationNamespace => {
                let host = Host::parse(self.host).ok()?;
                let (_, namespace) = host.service()?;
                Some(Cow::Owned(namespace.to_owned()))
            }
        }
    }

    fn header(&self, name: &HeaderName) -> Option<Cow<'_, str>> {
        if *name == http::header::HOST {
            return known(self.request.authority());
        }
        let subject = Subject::Header(name.clone());
        match matching::value_of(&subject, self.request, self.origin)? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        }
    }

    fn has_header(&self, name: &HeaderName) -> bool {
        *name == http::header::HOST || self.request.headers().contains_key(name)
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.query()?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!pair.is_empty() && decoded(key)? == name).then(|| decoded(value))?
        })
    }

    fn body(&self) -> Body<'_> {
        match self.body {
            Read::NotYet => Body::NotRead,
            Read::Whole(bytes) => Body::Read(bytes),
            Read::Failed => Body::Unknown,
        }
    }

    fn port(&self) -> Option<u16> {
        Some(self.port)
    }

    fn time(&self) -> Duration {
        self.now + self.around.epoch
    }
}

/// A part of a query as its writer meant it; `None` when it is no text.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high << 4 | low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// Asks for the body of a request.
pub(super) fn need_body() -> Effect {
    Effect::Need(Need::Body {
        limit: naka_expr::limits::BODY_BYTES,
    })
}

impl Exchange {
    /// Chooses the route again, now that the body decides.
    pub(super) fn body_came(
        &mut self,
        request: &mut Canonical,
        body: Option<Bytes>,
        cx: &mut Cx<'_>,
    ) -> Effect {
        self.body = body.map_or(Read::Failed, Read::Whole);
        match self.vhost.take() {
            Some(vhost) => self.follow(request, vhost, cx),
            None => self.refuse(request, Reason::Internal, cx),
        }
    }
}
