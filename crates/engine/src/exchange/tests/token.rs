//! Tokens: what is taken, what is refused, and what becomes of a request.

use super::{World, refused, tried};
use crate::canonical::{Caller, Canonical, Origin};
use crate::exchange::matching::holds;
use crate::exchange::{Effect, first_failing};
use crate::model::{
    Access, AccessFilter, AccessRule, ClaimCondition, Claims, Issuer, Match, MtlsMode, Test,
    TextCondition, TokenPlace, Tokens, Verdict,
};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naka_types::jwk::KeySet;
use naka_types::reason::Reason;
use naka_types::revoked_token::{RevokedTokens, material};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Seconds since 1970 at which everything happens.
const NOW: u64 = 1_800_000_000;

struct Keys {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

/// Made once: RSA takes its time.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
});

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Keys {
    fn set(&self) -> KeySet {
        let point = self.ec.public_key().as_ref();
        let public = self.rsa.public_key();
        let set = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(self.ed.public_key())},
            {"kty": "RSA", "kid": "rsa", "n": b64(public.modulus().big_endian_without_leading_zero()),
             "e": b64(public.exponent().big_endian_without_leading_zero())},
        ]});
        let (set, left) = KeySet::parse(&set.to_string()).unwrap();
        assert!(left.is_empty(), "{left:?}");
        set
    }

    /// A token with this header and payload, signed as its `alg` says.
    fn sign(&self, head: &Value, payload: &str) -> String {
        let signed = format!("{}.{}", b64(head.to_string()), b64(payload));
        let random = SystemRandom::new();
        let rsa = |how| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa
                .sign(how, &random, signed.as_bytes(), &mut out)
                .unwrap();
            out
        };
        let signature = match head["alg"].as_str() {
            Some("ES256") => self
                .ec
                .sign(&random, signed.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Some("EdDSA") => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            Some("RS256") => rsa(&RSA_PKCS1_SHA256),
            Some("PS512") => rsa(&RSA_PSS_SHA512),
            _ => Vec::new(),
        };
        format!("{signed}.{}", b64(signature))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "ec"}), &claims.to_string())
    }
}

fn issuer(name: &str) -> Issuer {
    Issuer {
        name: name.into(),
        audiences: Box::default(),
        keys: Some(KEYS.set()),
        places: Box::new([
            TokenPlace::Header(http::header::AUTHORIZATION, "Bearer ".into()),
            TokenPlace::Parameter("access_token".into()),
        ]),
        forward: false,
        payload_header: None,
        claim_headers: Box::default(),
        word_lists: Box::new(["scope".into()]),
        leeway: Duration::from_secs(60),
        required: false,
    }
}

fn world(issuers: Vec<Issuer>, filters: Vec<AccessFilter>) -> World {
    let mut world = World::new();
    let access = Access {
        tokens: Some(Tokens {
            issuers: issuers.into(),
        }),
        ..Access::new(filters.into())
    };
    world.inbound_under(MtlsMode::Permissive, Some(Arc::new(access)), None);
    world.origin = Origin::inbound(8080, Caller::Outside, false);
    world.around.epoch = Duration::from_secs(NOW).saturating_sub(world.now);
    world
}

fn asked(
    world: &mut World,
    target: &str,
    headers: &[(&str, &str)],
) -> (Canonical, Result<(), Reason>) {
    let mut request = world.request("GET", target, headers);
    let result = match world.begin(&mut request).1 {
        effect @ Effect::Try(_) => {
            tried(effect);
            Ok(())
        }
        effect => Err(refused(effect)),
    };
    (request, result)
}

#[track_caller]
fn check(world: &mut World, token: &str, wanted: Result<(), Reason>) {
    let value = format!("Bearer {token}");
    let (_, got) = asked(world, "/", &[("authorization", &value)]);
    assert_eq!(got, wanted, "{token}");
}

const BAD: Result<(), Reason> = Err(Reason::TokenInvalid);

#[test]
fn every_algorithm_verifies_and_no_token_chooses_its_own() {
    let mut world = world(vec![issuer("me")], Vec::new());
    let claims = json!({"iss": "me", "sub": "a"}).to_string();
    let sign = |head: &Value| KEYS.sign(head, &claims);
    for (algorithm, kid) in [
        ("ES256", "ec"),
        ("EdDSA", "ed"),
        ("RS256", "rsa"),
        ("PS512", "rsa"),
    ] {
        let token = sign(&json!({"alg": algorithm, "kid": kid}));
        check(&mut world, &token, Ok(()));
        check(&mut world, &sign(&json!({"alg": algorithm})), Ok(()));
        check(
            &mut world,
            &sign(&json!({"alg": algorithm, "kid": "other"})),
            BAD,
        );
        // A signature of one algorithm under the name of another, and one bit less.
        let head = b64(json!({"alg": "RS384"}).to_string());
        let (_, rest) = token.split_once('.').unwrap();
        check(&mut world, &format!("{head}.{rest}"), BAD);
        let (signed, _) = token.rsplit_once('.').unwrap();
        check(&mut world, &format!("{signed}."), BAD);
        check(&mut world, signed, BAD);
    }
    for algorithm in ["none", "None", "nOnE", "HS256", "", "es256"] {
        check(&mut world, &sign(&json!({ "alg": algorithm })), BAD);
    }
    check(&mut world, &sign(&json!({})), BAD);
    check(
        &mut world,
        &sign(&json!({"alg": "ES256", "crit": ["b64"]})),
        BAD,
    );
    for kid in [
        json!("../../dev/null"),
        json!("' OR 1=1"),
        json!(7),
        json!({}),
    ] {
        check(&mut world, &sign(&json!({"alg": "ES256", "kid": kid})), BAD);
    }
    // A key of the token's own is no key.
    let own = json!({"alg": "ES256", "jwk": {"kty": "EC"}, "jku": "https://evil.example/"});
    check(&mut world, &sign(&own), Ok(()));
    let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let signed = format!("{}.{}", b64(own.to_string()), b64(&claims));
    let forged = other.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    check(&mut world, &format!("{signed}.{}", b64(forged)), BAD);
}

#[test]
fn claims_must_fit_and_times_have_a_minute() {
    let mut strict = issuer("me");
    strict.audiences = Box::new(["shop".into(), "pay".into()]);
    let mut world = world(vec![strict], Vec::new());
    for (change, wanted) in [
        (json!({}), Ok(())),
        (json!({"aud": ["x", "pay"]}), Ok(())),
        (json!({"aud": "x"}), Err(Reason::TokenAudience)),
        (json!({"aud": null}), Err(Reason::TokenAudience)),
        (json!({"aud": ["shop2"]}), Err(Reason::TokenAudience)),
        (json!({"iss": "me2"}), BAD),
        (json!({"iss": ["me"]}), BAD),
        (json!({"iss": null}), BAD),
        (json!({"exp": NOW - 60}), Ok(())),
        (json!({"exp": NOW - 61}), BAD),
        (json!({"exp": "never"}), BAD),
        (json!({"exp": -1}), BAD),
        (json!({"exp": 1e300}), BAD),
        (json!({"nbf": NOW + 60}), Ok(())),
        (json!({"nbf": NOW + 61}), BAD),
    ] {
        let mut claims = json!({"iss": "me", "aud": "shop", "exp": NOW + 5});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        check(&mut world, &KEYS.token(&claims), wanted);
    }
    let head = json!({"alg": "ES256"});
    let twice = r#"{"iss":"you","iss":"me","aud":"shop"}"#;
    check(&mut world, &KEYS.sign(&head, twice), BAD);
    check(&mut world, &KEYS.sign(&head, "[]"), BAD);
    check(
        &mut world,
        &KEYS.sign(&head, &twice[13..].replace('"', "x")),
        BAD,
    );
    for text in ["", ".", "..", "...", "a.b.c", &"a".repeat(20_000)] {
        check(&mut world, text, BAD);
    }
    let long = json!({"iss": "me", "aud": "shop", "x": "y".repeat(20_000)});
    check(&mut world, &KEYS.token(&long), BAD);
}

#[test]
fn without_keys_nothing_is_taken_and_without_a_token_nothing_is_proven() {
    let mut bare = issuer("me");
    bare.keys = None;
    let mut world = world(vec![bare], Vec::new());
    let token = KEYS.token(&json!({"iss": "me"}));
    check(&mut world, &token, BAD);
    let (request, got) = asked(&mut world, "/", &[("authorization", "Basic Zm9v")]);
    assert_eq!(got, Ok(()));
    assert!(request.claims.is_none());
    assert!(request.headers().contains_key("authorization"));
}

#[test]
fn every_token_of_a_request_counts() {
    let mut world = world(vec![issuer("me")], Vec::new());
    let (a, b) = (
        KEYS.token(&json!({"iss": "me", "sub": "a"})),
        KEYS.token(&json!({"iss": "me", "sub": "b"})),
    );
    let bearer = |token: &str| format!("Bearer {token}");
    let bad = format!("{a}x");
    for (target, headers, wanted) in [
        (format!("/?access_token={a}"), vec![bearer(&a)], Ok(())),
        (format!("/?access_token={b}"), vec![bearer(&a)], BAD),
        (format!("/?access_token={bad}"), vec![bearer(&a)], BAD),
        (format!("/?access%5ftoken={bad}"), vec![bearer(&a)], BAD),
        (
            format!("/?access_token={a}&access_token={bad}"),
            vec![],
            BAD,
        ),
        ("/".to_owned(), vec![bearer(&a), bearer(&bad)], BAD),
        ("/".to_owned(), vec![bearer(&a), bearer(&b)], BAD),
        (
            "/".to_owned(),
            vec![bearer(&a), "Basic x".to_owned()],
            Ok(()),
        ),
        (
            "/".to_owned(),
            vec![format!("{}, {}", bearer(&a), bearer(&b))],
            BAD,
        ),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|v| ("authorization", v.as_str()))
            .collect();
        let (request, got) = asked(&mut world, &target, &headers);
        assert_eq!(got, wanted, "{target} {headers:?}");
        if got.is_ok() {
            assert!(!request.headers().contains_key("authorization"));
            assert_eq!(request.target(), "/");
        }
    }
}

#[test]
fn each_issuer_takes_its_own_at_its_own_places() {
    let mut other = issuer("you");
    other.places = Box::new([TokenPlace::Header("x-you".parse().unwrap(), "".into())]);
    let third = issuer("they");
    let mut world = world(vec![issuer("me"), third, other], Vec::new());
    let token = |name: &str| KEYS.token(&json!({"iss": name, "sub": name}));
    let (me, they, you) = (token("me"), token("they"), token("you"));
    for (header, value, wanted) in [
        ("authorization", format!("Bearer {me}"), Ok(())),
        ("authorization", format!("Bearer {they}"), Ok(())),
        ("authorization", format!("Bearer {you}"), BAD),
        ("x-you", you.clone(), Ok(())),
        ("x-you", me.clone(), BAD),
    ] {
        assert_eq!(
            asked(&mut world, "/", &[(header, &value)]).1,
            wanted,
            "{header}"
        );
    }
    let both = [
        ("x-you", you.as_str()),
        ("authorization", &format!("Bearer {they}")),
    ];
    let (request, got) = asked(&mut world, "/", &both);
    assert_eq!(got, Ok(()));
    let proven = request.claims.unwrap();
    assert_eq!(proven.0["iss"], "they", "the first of the issuers speaks");
    assert!(!request.parts.headers.contains_key("x-you"));
}

#[test]
fn where_a_token_is_required_every_such_issuer_wants_its_own() {
    let required = |name: &str| Issuer {
        required: true,
        ..issuer(name)
    };
    const MISSING: Result<(), Reason> = Err(Reason::TokenMissing);
    let (a, b) = (
        KEYS.token(&json!({"iss": "a"})),
        KEYS.token(&json!({"iss": "b"})),
    );
    let (first, second) = (format!("Bearer {a}"), format!("/?access_token={b}"));
    let bearer = [("authorization", first.as_str())];
    for (issuers, target, headers, wanted) in [
        (vec![required("a")], "/", &[][..], MISSING),
        (vec![required("a")], "/", &bearer[..], Ok(())),
        (vec![required("b")], "/", &bearer[..], BAD),
        (vec![issuer("a"), issuer("b")], "/", &bearer[..], Ok(())),
        (vec![issuer("a"), required("b")], "/", &bearer[..], MISSING),
        (vec![issuer("a"), required("b")], &second, &[][..], Ok(())),
        (
            vec![required("a"), required("b")],
            &second,
            &[][..],
            MISSING,
        ),
        (
            vec![required("a"), required("b")],
            &second,
            &bearer[..],
            Ok(()),
        ),
        // One token that two could take is of whoever demands it, and of one only.
        (vec![issuer("a"), required("a")], "/", &bearer[..], Ok(())),
        (
            vec![required("a"), required("a")],
            "/",
            &bearer[..],
            MISSING,
        ),
    ] {
        let mut world = world(issuers, Vec::new());
        let (_, got) = asked(&mut world, target, headers);
        assert_eq!(got, wanted, "{target} {headers:?}");
    }
    let mut world = world(vec![required("a")], Vec::new());
    let mut request = world.request("GET", "/", &[]);
    let Effect::Reply(reply) = world.begin(&mut request).1 else {
        panic!("no reply");
    };
    assert_eq!(reply.status, 401);
    assert_eq!(
        reply.headers["www-authenticate"],
        "Bearer realm=\"payment\""
    );
}

#[test]
fn headers_that_tell_are_the_proxys_alone() {
    let mut telling = issuer("me");
    telling.forward = true;
    telling.payload_header = Some("x-payload".parse().unwrap());
    telling.claim_headers = Box::new([
        ("x-sub".parse().unwrap(), Box::new(["sub".into()])),
        (
            "x-deep".parse().unwrap(),
            Box::new(["a".into(), "b".into()]),
        ),
        ("x-list".parse().unwrap(), Box::new(["list".into()])),
        ("x-none".parse().unwrap(), Box::new(["none".into()])),
    ]);
    let mut world = world(vec![telling], Vec::new());
    let forged = [("x-sub", "root"), ("x-payload", "e30"), ("x-none", "1")];
    let (request, got) = asked(&mut world, "/", &forged);
    assert_eq!(got, Ok(()));
    let gone = |name: &&(&str, &str)| !request.headers().contains_key(name.0);
    assert!(forged.iter().all(|one| gone(&one)));
    let claims = json!({"iss": "me", "sub": "a", "a": {"b": 7}, "list": ["x", 1], "scope": "r w"});
    let token = format!("Bearer {}", KEYS.token(&claims));
    let (request, _) = asked(
        &mut world,
        "/",
        &[("authorization", &token), ("x-sub", "root")],
    );
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    assert_eq!(header("x-sub").as_deref(), Some("a"));
    assert_eq!(header("x-deep").as_deref(), Some("7"));
    assert_eq!(header("x-list").as_deref(), Some("WyJ4IiwxXQ=="));
    assert_eq!(header("x-none"), None);
    assert_eq!(header("authorization").as_deref(), Some(token.as_str()));
    assert_eq!(header("x-payload"), Some(b64(claims.to_string())));
    assert_eq!(request.claims.unwrap().0["scope"], json!(["r", "w"]));
}

#[test]
fn policy_asks_for_claims() {
    let claim = |path: &[&str], text: &str, lists: bool| {
        Test::Claim(ClaimCondition {
            path: path.iter().map(|name| Arc::from(*name)).collect(),
            wanted: TextCondition::exact(text),
            lists,
        })
    };
    let rule = |test| AccessRule {
        name: "r".into(),
        test,
    };
    let allow = |test| AccessFilter {
        verdict: Verdict::Allow,
        trial: false,
        rules: Box::new([rule(test)]),
    };
    let deny = |test| AccessFilter {
        verdict: Verdict::Deny,
        trial: false,
        rules: Box::new([rule(test)]),
    };
    let claims = json!({"iss": "me", "sub": "a", "aud": ["x", "y"], "n": 7, "a": {"b": "c"}});
    let token = format!("Bearer {}", KEYS.token(&claims));
    for (test, with, without) in [
        (claim(&["sub"], "a", false), true, false),
        (claim(&["sub"], "b", false), false, false),
        (claim(&["aud"], "y", true), true, false),
        (claim(&["aud"], "y", false), false, false),
        (claim(&["a", "b"], "c", true), true, false),
        (claim(&["n"], "7", true), false, false),
        (
            Test::Not(Box::new(claim(&["sub"], "a", false))),
            false,
            true,
        ),
    ] {
        for (filter, turned) in [(allow(test.clone()), false), (deny(test.clone()), true)] {
            let mut world = world(vec![issuer("me")], vec![filter]);
            let passes = |got: Result<(), Reason>| match got {
                Ok(()) => true,
                Err(reason) => {
                    assert_eq!(reason, Reason::PermissionDenied);
                    false
                }
            };
            let (_, got) = asked(&mut world, "/", &[("authorization", &token)]);
            assert_eq!(passes(got), with != turned, "{test:?}");
            let (_, got) = asked(&mut world, "/", &[]);
            assert_eq!(passes(got), without != turned, "{test:?}");
        }
    }
}

#[test]
fn a_refusal_asks_for_a_better_token_and_never_shows_the_target() {
    let mut world = world(vec![issuer("me")], Vec::new());
    let mut request = world.request("GET", "/?access_token=x", &[]);
    let Effect::Reply(reply) = world.begin(&mut request).1 else {
        panic!("no reply");
    };
    assert_eq!(reply.status, 401);
    let challenge = "Bearer realm=\"payment\", error=\"invalid_token\"";
    assert_eq!(reply.headers["www-authenticate"], challenge);
    let preflight = [
        ("origin", "https://a"),
        ("access-control-request-method", "GET"),
    ];
    let mut request = world.request("OPTIONS", "/?access_token=x", &preflight);
    assert!(matches!(world.begin(&mut request).1, Effect::Try(_)));
}

#[test]
fn routes_ask_for_claims() {
    let condition = |text: &str| ClaimCondition {
        path: Box::new(["role".into()]),
        wanted: TextCondition::exact(text),
        lists: true,
    };
    let world = world(vec![issuer("me")], Vec::new());
    let claims = |value: Value| {
        let mut request = world.request("GET", "/", &[]);
        let Value::Object(map) = json!({ "role": value }) else {
            panic!("an object");
        };
        request.claims = Some(Arc::new(Claims(map)));
        request
    };
    let bare = world.request("GET", "/", &[("role", "admin")]);
    for (inverted, request, matches) in [
        (false, claims(json!("admin")), true),
        (false, claims(json!(["x", "admin"])), true),
        (false, claims(json!("user")), false),
        (true, claims(json!("admin")), false),
        (true, claims(json!("user")), true),
        (true, world.request("GET", "/", &[]), true),
        (false, bare, false),
    ] {
        let wanted = Match {
            claims: Box::new([(condition("admin"), inverted)]),
            ..Match::default()
        };
        let failing = first_failing(&wanted, &request, &world.origin);
        assert_eq!(failing.is_none(), matches, "{failing:?}");
        assert_eq!(holds(&wanted, &request, &world.origin), matches);
        assert!(!wanted.is_catch_all());
    }
}

#[test]
fn a_token_that_was_taken_back_is_refused_and_no_other_is() {
    let issuers = vec![issuer("https://a"), issuer("https://b")];
    let mut world = world(issuers, Vec::new());
    let of = |issuer: &str, jti: Value| KEYS.token(&json!({"iss": issuer, "jti": jti}));
    let fingerprint = |issuer: &str, jti: &str| {
        let hash = digest(&SHA256, material(issuer, jti).as_bytes());
        *hash.as_ref().first_chunk().unwrap()
    };
    let one = of("https://a", json!("1"));
    check(&mut world, &one, Ok(()));
    let mut list = RevokedTokens::default();
    list.insert(fingerprint("https://a", "1"));
    world.builder.put_revoked_tokens(Arc::new(list));
    world.snapshot = world.builder.clone().build();
    check(&mut world, &one, BAD);
    for (issuer, jti) in [
        ("https://a", json!("2")),
        ("https://b", json!("1")),
        // A number is no name of a token (RFC 7519).
        ("https://a", json!(1)),
        ("https://a", json!(null)),
    ] {
        check(&mut world, &of(issuer, jti), Ok(()));
    }
    // Whoever forges one learns nothing of the list.
    let forged = format!("{one}x");
    check(&mut world, &forged, BAD);
    // The next edit of the configuration keeps it.
    world.snapshot = world.snapshot.edit().build();
    check(&mut world, &one, BAD);
}
