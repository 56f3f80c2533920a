//! The tokens of a request: found, verified, used up.
//!
//! Every token at a place that an issuer looks at must be taken by one of those issuers, so that no second, bad one
//! reaches a program behind a good one; two tokens of one issuer that differ are refused, because nobody could say
//! which of them the request stands for. The key decides what a signature may be, never the token: there is no `none`
//! and no shared secret, and of a token's header only `alg` and `kid` are read, to choose among the keys that the
//! configuration gave. Headers that tell a program what was proven are taken out of every request first.
//!
//! An issuer whose token is required gets the first word on each, so that one token of two that could take it counts for
//! the one that demands it; every such issuer wants a token of its own, as at an Envoy.
//!
//! Not here: who may call with which claims (`access`). A request without a token costs the looks at its places.

use super::Cx;
use super::guard::Anomaly;
use crate::canonical::Canonical;
use crate::limits;
use crate::model::{ClaimPath, Claims, Issuer, TokenPlace, Tokens, claim_at};
use crate::why::{Stage, Why};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{self as sig, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use naka_types::jwk::{Algorithm, Hash, Key, Public};
use naka_types::reason::Reason;
use naka_types::revoked_token::{RevokedTokens, material};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

mod json;

/// A token where it stands.
struct Found {
    place: TokenPlace,
    text: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// Another's; the weakest word.
    Issuer,
    /// Anything else, in words.
    Invalid(&'static str),
    /// Its time: over, still to come, or taken back.
    Expired(&'static str),
    /// Sound so far, but for somebody else.
    Audience,
    /// There is none of an issuer whose token is required; the last word, when all that there are were taken.
    Missing,
}

impl Wrong {
    fn because(self) -> &'static str {
        match self {
            Self::Issuer => "its issuer is none whose tokens are looked for at its place",
            Self::Invalid(why) | Self::Expired(why) => why,
            Self::Audience => "it is for other audiences",
            Self::Missing => "there is none of an issuer whose token is required",
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Audience => Reason::TokenAudience,
            Self::Missing => Reason::TokenMissing,
            Self::Issuer | Self::Invalid(_) | Self::Expired(_) => Reason::TokenInvalid,
        }
    }

    /// None where there is no token: nobody tried one.
    fn anomaly(self) -> Option<Anomaly> {
        Some(match self {
            Self::Missing => return None,
            Self::Issuer | Self::Audience => Anomaly::Issuer,
            Self::Expired(_) => Anomaly::Expired,
            Self::Invalid(_) => Anomaly::Signature,
        })
    }
}

/// Verifies the tokens of a request and puts what they prove into it; else why not, and what guards see in that.
pub(super) fn authenticate(
    tokens: &Tokens,
    request: &mut Canonical,
    cx: &mut Cx<'_>,
) -> Result<(), (Reason, Option<Anomaly>)> {
    let made = tokens.issuers.iter().flat_map(made_headers);
    for name in made {
        request.parts.headers.remove(name);
    }
    if is_preflight(request) {
        return Ok(());
    }
    let found = found(tokens, request);
    let is_required = |issuer: &Issuer| issuer.required;
    if found.is_empty() && !tokens.issuers.iter().any(is_required) {
        cx.explain(|| {
            Why::new(
                Stage::Policy,
                "no token",
                "nothing is proven of the request",
            )
        });
        return Ok(());
    }
    let now = cx.now + cx.around.epoch;
    match taken(tokens, &found, now, cx.snapshot.revoked_tokens()) {
        Err(wrong) => {
            cx.explain(|| Why::new(Stage::Policy, "token refused", wrong.because()));
            Err((wrong.reason(), wrong.anomaly()))
        }
        Ok(taken) => {
            cx.explain(|| {
                let issuers = taken.iter().map(|one| &*one.issuer.name);
                let names = issuers.collect::<Vec<_>>().join(", ");
                Why::new(Stage::Policy, "token taken", format!("it is of {names}"))
            });
            use_up(taken, &found, request).map_err(|reason| (reason, None))
        }
    }
}

fn made_headers(issuer: &Issuer) -> impl Iterator<Item = &HeaderName> {
    let claims = issuer.claim_headers.iter().map(|(name, _)| name);
    issuer.payload_header.iter().chain(claims)
}

/// A browser's question before a call never carries a token, and its answer says nothing of the program.
fn is_preflight(request: &Canonical) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Every token of the request, each place once.
fn found(tokens: &Tokens, request: &Canonical) -> Vec<Found> {
    let mut out: Vec<Found> = Vec::new();
    for place in tokens.issuers.iter().flat_map(|issuer| &issuer.places) {
        if out.iter().any(|known| known.place == *place) {
            continue;
        }
        at(place, request, |text| {
            out.push(Found {
                place: place.clone(),
                text: text.to_owned(),
            });
        });
    }
    out
}

/// The tokens at a place. What is no text counts as a token, which then is not one.
fn at(place: &TokenPlace, request: &Canonical, mut each: impl FnMut(&str)) {
    match place {
        TokenPlace::Header(name, prefix) => {
            for value in request.headers().get_all(name) {
                let text = String::from_utf8_lossy(value.as_bytes());
                // The prefix anywhere, as an Envoy looks for it: what one proxy takes for a token is one here too.
                if let Some((_, token)) = text.split_once(&**prefix) {
                    each(token.trim());
                }
            }
        }
        TokenPlace::Parameter(name) => {
            for (_, value) in parameters(request).filter(|(key, _)| **key == **name) {
                each(&value);
            }
        }
        TokenPlace::Cookie(name) => {
            for value in request.headers().get_all(header::COOKIE) {
                let text = String::from_utf8_lossy(value.as_bytes());
                let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
                for (_, value) in pairs.filter(|(key, _)| key.trim() == &**name) {
                    each(value.trim().trim_matches('"'));
                }
            }
        }
    }
}

fn parameters(request: &Canonical) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = request.query().unwrap_or_default().split('&');
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    })
}

/// A part of a query as programs read it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = pair.and_then(|two| u8::from_str_radix(two, 16).ok());
        (out, rest) = match (first, byte) {
            (b'%', Some(byte)) => (pushed(out, byte), &after[2..]),
            (b'+', _) => (pushed(out, b' '), after),
            (other, _) => (pushed(out, *other), after),
        };
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

fn pushed(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// A token that an issuer's keys bear out.
struct Taken<'t> {
    issuer: &'t Issuer,
    /// Which of those that were found.
    index: usize,
    payload: &'t str,
    claims: Map<String, Value>,
}

/// Who takes each token; in the order of the issuers.
fn taken<'t>(
    tokens: &'t Tokens,
    found: &'t [Found],
    now: Duration,
    revoked: &RevokedTokens,
) -> Result<Vec<Taken<'t>>, Wrong> {
    if found.len() > limits::TOKENS {
        return Err(Wrong::Invalid(
            "the request has more tokens than are looked at",
        ));
    }
    let mut all = Vec::new();
    for (index, one) in found.iter().enumerate() {
        let token = Token::read(&one.text)?;
        let mut worst = Wrong::Issuer;
        let mut own = None;
        let of = |required| {
            let all = tokens.issuers.iter().enumerate();
            all.filter(move |(_, issuer)| issuer.required == required)
        };
        for (rank, issuer) in of(true).chain(of(false)) {
            if !issuer.places.contains(&one.place) {
                continue;
            }
            match token
                .check(issuer, now)
                .and_then(|()| token.stands(revoked))
            {
                Ok(()) => {
                    own = Some((rank, issuer));
                    break;
                }
                Err(wrong) => worst = worst.max(wrong),
            }
        }
        let (rank, issuer) = own.ok_or(worst)?;
        let (payload, claims) = (token.payload, token.claims);
        all.push((
            rank,
            Taken {
                issuer,
                index,
                payload,
                claims,
            },
        ));
    }
    all.sort_by_key(|(rank, _)| *rank);
    let differ = |pair: &[(usize, Taken<'_>)]| {
        pair[0].0 == pair[1].0 && found[pair[0].1.index].text != found[pair[1].1.index].text
    };
    if all.windows(2).any(differ) {
        return Err(Wrong::Invalid(
            "there are two of one issuer, and they differ",
        ));
    }
    let is_there = |wanted: usize| all.iter().any(|(rank, _)| *rank == wanted);
    let mut ranked = tokens.issuers.iter().enumerate();
    if ranked.any(|(rank, issuer)| issuer.required && !is_there(rank)) {
        return Err(Wrong::Missing);
    }
    Ok(all.into_iter().map(|(_, taken)| taken).collect())
}

/// A token taken apart, not yet believed.
struct Token<'t> {
    algorithm: Algorithm,
    key: Option<String>,
    payload: &'t str,
    claims: Map<String, Value>,
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    fn read(text: &'t str) -> Result<Self, Wrong> {
        const FORM: Wrong = Wrong::Invalid("it has not the form of a signed token (RFC 7519)");
        if text.len() > limits::TOKEN_BYTES {
            return Err(Wrong::Invalid("it is longer than any token may be"));
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(FORM)?;
        let (head, payload) = signed.split_once('.').ok_or(FORM)?;
        if payload.contains('.') {
            return Err(FORM);
        }
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| FORM);
        let object = |part: &str| json::object(&bytes(part)?).map_err(Wrong::Invalid);
        let head = object(head)?;
        if head.contains_key("crit") {
            return Err(Wrong::Invalid("its header asks for an extension (crit)"));
        }
        let word = |name: &str| match head.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(FORM),
        };
        let algorithm = word("alg")?.and_then(|name| Algorithm::parse(&name));
        Ok(Self {
            algorithm: algorithm.ok_or(Wrong::Invalid(
                "its algorithm is none that is taken: none and shared secrets never are",
            ))?,
            key: word("kid")?,
            claims: object(payload)?,
            payload,
            signed,
            signature: bytes(signature)?,
        })
    }

    /// Whether it is an issuer's, now, for one of its audiences, and bears its signature.
    fn check(&self, issuer: &Issuer, now: Duration) -> Result<(), Wrong> {
        let text = |name: &str| self.claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&*issuer.name) {
            return Err(Wrong::Issuer);
        }
        if let Some(end) = self.time("exp")?
            && now > end.saturating_add(issuer.leeway)
        {
            return Err(Wrong::Expired("its time is over (exp)"));
        }
        if let Some(begin) = self.time("nbf")?
            && now.saturating_add(issuer.leeway) < begin
        {
            return Err(Wrong::Expired("its time has not come (nbf)"));
        }
        let wanted = |value: &Value| {
            let text = value.as_str();
            issuer.audiences.iter().any(|one| Some(&**one) == text)
        };
        let meant = match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(wanted),
            Some(one) => wanted(one),
            None => false,
        };
        if !issuer.audiences.is_empty() && !meant {
            return Err(Wrong::Audience);
        }
        let Some(keys) = &issuer.keys else {
            return Err(Wrong::Invalid("the keys of its issuer are not known"));
        };
        let named = |key: &&Key| match (&self.key, &key.id) {
            (Some(wanted), Some(id)) => **wanted == **id,
            _ => true,
        };
        let mut fitting = keys.keys().iter().filter(named);
        let verified = fitting.any(|key| {
            self.algorithm.fits(key)
                && verifies(
                    self.algorithm,
                    &key.public,
                    self.signed.as_bytes(),
                    &self.signature,
                )
        });
        match verified {
            true => Ok(()),
            false => Err(Wrong::Invalid(
                "no key of its issuer bears out its signature",
            )),
        }
    }

    /// Whether nobody took it back. One that has no `jti` cannot be.
    fn stands(&self, revoked: &RevokedTokens) -> Result<(), Wrong> {
        let text = |name: &str| self.claims.get(name).and_then(Value::as_str);
        // Most meshes take none back: then nothing is hashed.
        let named = text("iss").zip(text("jti")).filter(|_| !revoked.is_empty());
        let is_listed = named.is_some_and(|(issuer, jti)| {
            let hash = digest(&SHA256, material(issuer, jti).as_bytes());
            let first = hash.as_ref().first_chunk();
            first.is_some_and(|fingerprint| revoked.contains(fingerprint))
        });
        match is_listed {
            false => Ok(()),
            true => Err(Wrong::Expired("it was revoked (jti)")),
        }
    }

    /// A claim that is a time since 1970; what is no time is no reason to believe the token.
    fn time(&self, name: &str) -> Result<Option<Duration>, Wrong> {
        const FORM: Wrong = Wrong::Invalid("a time of it is no number (exp, nbf)");
        let Some(value) = self.claims.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().ok_or(FORM)?;
        Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| FORM)
    }
}

fn verifies(algorithm: Algorithm, key: &Public, signed: &[u8], signature: &[u8]) -> bool {
    let rsa = |n: &[u8], e: &[u8], how: &'static sig::RsaParameters| {
        let key = RsaPublicKeyComponents { n, e };
        key.verify(how, signed, signature).is_ok()
    };
    let plain = |bytes: &[u8], how: &'static dyn sig::VerificationAlgorithm| {
        let key = UnparsedPublicKey::new(how, bytes);
        key.verify(signed, signature).is_ok()
    };
    match (algorithm, key) {
        (Algorithm::Rs(hash), Public::Rsa { modulus, exponent }) => {
            let how = match hash {
                Hash::Sha256 => &sig::RSA_PKCS1_2048_8192_SHA256,
                Hash::Sha384 => &sig::RSA_PKCS1_2048_8192_SHA384,
                Hash::Sha512 => &sig::RSA_PKCS1_2048_8192_SHA512,
            };
            rsa(modulus, exponent, how)
        }
        (Algorithm::Ps(hash), Public::Rsa { modulus, exponent }) => {
            let how = match hash {
                Hash::Sha256 => &sig::RSA_PSS_2048_8192_SHA256,
                Hash::Sha384 => &sig::RSA_PSS_2048_8192_SHA384,
                Hash::Sha512 => &sig::RSA_PSS_2048_8192_SHA512,
            };
            rsa(modulus, exponent, how)
        }
        (Algorithm::Es(hash), Public::Ec(_, point)) => match hash {
            Hash::Sha256 => plain(point, &sig::ECDSA_P256_SHA256_FIXED),
            Hash::Sha384 => plain(point, &sig::ECDSA_P384_SHA384_FIXED),
            Hash::Sha512 => plain(point, &sig::ECDSA_P521_SHA512_FIXED),
        },
        (Algorithm::EdDsa, Public::Ed25519(point)) => plain(point, &sig::ED25519),
        _ => false,
    }
}

/// Takes tokens out of the request, writes what they prove into headers, and keeps the claims for policy.
fn use_up(taken: Vec<Taken<'_>>, found: &[Found], request: &mut Canonical) -> Result<(), Reason> {
    let mut proven = None;
    for one in taken {
        let issuer = one.issuer;
        if !issuer.forward {
            take_out(&found[one.index].place, request)?;
        }
        tell(issuer, &one, &mut request.parts.headers);
        if proven.is_none() {
            let mut claims = one.claims;
            for name in &issuer.word_lists {
                if let Some(value) = claims.get_mut(&**name)
                    && let Value::String(text) = value
                {
                    *value = text.split_whitespace().map(Value::from).collect();
                }
            }
            proven = Some(Arc::new(Claims(claims)));
        }
    }
    request.claims = proven;
    Ok(())
}

/// Cookies stay, as with an Envoy: there a token is the browser's session, and programs look for it.
fn take_out(place: &TokenPlace, request: &mut Canonical) -> Result<(), Reason> {
    match place {
        TokenPlace::Header(name, _) => {
            request.parts.headers.remove(name);
            Ok(())
        }
        TokenPlace::Cookie(_) => Ok(()),
        TokenPlace::Parameter(name) => {
            let query = request.query().unwrap_or_default();
            let kept = query.split('&').filter(|pair| {
                let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
                *decoded(key) != **name
            });
            let kept = kept.collect::<Vec<_>>().join("&");
            request.set_query(&kept)
        }
    }
}

fn tell(issuer: &Issuer, taken: &Taken<'_>, headers: &mut HeaderMap) {
    if let Some(name) = &issuer.payload_header
        && let Ok(value) = HeaderValue::from_str(taken.payload)
    {
        headers.insert(name, value);
    }
    for (name, path) in &issuer.claim_headers {
        if let Some(value) = claim_text(&taken.claims, path)
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(name, value);
        }
    }
}

/// A claim as a header's value: lists and objects as base64 of their JSON, as an Envoy writes them.
fn claim_text(claims: &Map<String, Value>, path: &ClaimPath) -> Option<String> {
    let found = claim_at(claims, path)?;
    Some(match found {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Object(_) => STANDARD.encode(found.to_string()),
    })
}
