//! Forged, stale, foreign and doubled tokens (row 26), at a sidecar before a program that nobody may call without one.
//!
//! Landed when a call that should be refused reaches the program. Each attack begins with a sound token that must get
//! through, so that a door that is shut for everybody withstands nothing. Without the guard: a relay that believes every
//! token. The tokens stand in `tokens.txt`, by the attack they are for; all but `key` and `secret` are signed with the
//! issuer's key (`scripts/case-token.py`).

use crate::ground::{Ground, Side};
use crate::wire::{send, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;

pub(crate) const ATTACKS: &[Attack] = &[
    token("a token without a signature", |g, s| alone(g, s, "none")),
    token("a public key as a shared secret", |g, s| {
        alone(g, s, "secret")
    }),
    token("a key that the token names itself", |g, s| {
        alone(g, s, "key")
    }),
    token(
        "a token whose time is over, not come, or no time",
        |g, s| alone(g, s, "time"),
    ),
    token("a token of another issuer or for others", |g, s| {
        alone(g, s, "other")
    }),
    token(
        "a token that two readers read differently, and giant ones",
        |g, s| alone(g, s, "twice"),
    ),
    token("a bad token behind a good one", behind),
    token("a path that hides from a rule about tokens", hidden),
    token("a header that tells who somebody is", told),
];

const fn token(name: &'static str, run: fn(&Ground, Side) -> Outcome) -> Attack {
    Attack { row: 26, name, run }
}

const TOKENS: &str = include_str!("tokens.txt");

const OBJECTS: &str = r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: attacked, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  jwtRules:
  - issuer: https://issuer.example
    audiences: [vault]
    jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"rfc8037","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
    outputClaimToHeaders: [{header: x-user, claim: sub}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: attacked, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{from: [{source: {notRequestPrincipals: ['*']}}], to: [{operation: {paths: ['/vault*']}}]}]
"#;

/// Tokens for an attack.
fn tokens(of: &str) -> Vec<&'static str> {
    let lines = TOKENS.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(name, _)| *name == of)
        .map(|(_, token)| token)
        .collect()
}

/// The way in, with the objects in force and a sound token let through.
fn door(ground: &Ground, side: Side) -> std::net::SocketAddr {
    let way = ground.relay(side);
    if side == Side::Naka {
        ground.mesh.apply("tokens.yaml", OBJECTS);
        until(format_args!("tokens are demanded"), SOON, || {
            (ask(ground, side, "/vault/probe", &[]) == "403").then_some(())
        });
    }
    let sound = format!("authorization: Bearer {}", tokens("sound")[0]);
    let got = ask(ground, side, "/vault/sound", &[&sound]);
    assert_eq!(got, "200", "a sound token gets through");
    ground.program.forget();
    way
}

/// Status of the answer to a request.
fn ask(ground: &Ground, side: Side, target: &str, headers: &[&str]) -> String {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{more}\r\n");
    let (answer, _) = send(ground.relay(side), request.as_bytes());
    status(&answer).to_owned()
}

/// What became of some requests.
fn judged(ground: &Ground, answers: &[String]) -> Outcome {
    let reached = ground.program.count("/vault/1");
    let mut seen: Vec<&str> = answers.iter().map(String::as_str).collect();
    seen.sort_unstable();
    seen.dedup();
    outcome(
        reached > 0,
        format!(
            "{reached} of {} reached the program, answers {seen:?}",
            answers.len()
        ),
    )
}

/// Each token by itself, at both places.
fn alone(ground: &Ground, side: Side, of: &str) -> Outcome {
    door(ground, side);
    let mut answers = Vec::new();
    for token in tokens(of) {
        let header = format!("authorization: Bearer {token}");
        answers.push(ask(ground, side, "/vault/1", &[&header]));
        // Longer ones do not fit into a target.
        if token.len() < 4000 {
            answers.push(ask(
                ground,
                side,
                &format!("/vault/1?access_token={token}"),
                &[],
            ));
        }
    }
    judged(ground, &answers)
}

/// A sound token in front of one that is not.
fn behind(ground: &Ground, side: Side) -> Outcome {
    door(ground, side);
    let sound = tokens("sound");
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let first = bearer(sound[0]);
    let mut answers = Vec::new();
    for bad in [
        tokens("none")[0],
        tokens("key")[0],
        tokens("time")[0],
        sound[1],
    ] {
        let second = bearer(bad);
        let both = format!("{first}, Bearer {bad}");
        for (target, headers) in [
            ("/vault/1".to_owned(), vec![&first, &second]),
            ("/vault/1".to_owned(), vec![&second, &first]),
            ("/vault/1".to_owned(), vec![&both]),
            (format!("/vault/1?access_token={bad}"), vec![&first]),
            (format!("/vault/1?access%5Ftoken={bad}"), vec![&first]),
            (
                format!("/vault/1?access_token={}&access_token={bad}", sound[0]),
                vec![],
            ),
        ] {
            let headers: Vec<&str> = headers.into_iter().map(String::as_str).collect();
            answers.push(ask(ground, side, &target, &headers));
        }
    }
    judged(ground, &answers)
}

/// No token at all, and the path in disguise. What arrives under another path asked for another thing.
fn hidden(ground: &Ground, side: Side) -> Outcome {
    door(ground, side);
    let targets = [
        "/vault?x",
        "/vault%3Fx",
        "/vault%23x",
        "/vault;x",
        "/%76ault",
        "/./vault",
        "/x/../vault",
        "//vault",
        "/vault/",
        "/x/%2e%2e/vault",
        "/vault%2F1",
        "/vault?access_token=",
        "/vault?access_token",
        "http://web/vault",
        "/x/..%2fvault",
    ];
    let answers: Vec<String> = targets.map(|target| ask(ground, side, target, &[])).into();
    let at_vault = ground.program.count("GET /vault");
    let seen = judged(ground, &answers).seen;
    outcome(at_vault > 0, seen)
}

/// A name that only a token may tell.
fn told(ground: &Ground, side: Side) -> Outcome {
    door(ground, side);
    let sound = format!("authorization: Bearer {}", tokens("sound")[0]);
    for name in [
        "x-user: root",
        "X-USER: root",
        "x-user: alice\r\nx-user: root",
    ] {
        ask(ground, side, "/open", &[name]);
        ask(ground, side, "/vault/1", &[name, &sound]);
    }
    let told = ground.program.count("root");
    outcome(
        told > 0,
        format!("the program saw {told} of 6 forged names"),
    )
}
