//! Manifests and requests made by chance, for which the verdict is what `naka explain` predicts: Naka and an Envoy must
//! see the same.
//!
//! Only what is decided without chance is made (weights are 0 and 100), from small pools, so that requests hit rules
//! often and several rules apply to the same request. A manifest is the text of a case file: one that fails is written
//! to `target/referee/` and can be run as a case.

use super::case::{File, Verdict, Wanted};
use super::explained;
use super::seen::{Seen, TIMEOUT};
use anyhow::{Result, anyhow, bail};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Requests of a manifest.
const REQUESTS: usize = 8;
const PATHS: &[&str] = &[
    "/",
    "/pay",
    "/pay/new",
    "/pay/new/7",
    "/Pay",
    "/users/17/bills",
    "/users/x",
    "/old",
    "/payment",
];
const PREFIXES: &[&str] = &["/", "/pay", "/pay/", "/users/", "/old", "/P"];
const REGEXES: &[&str] = &["/users/[0-9]+/bills", "/pay.*", ".*new.*", "/(old|pay)"];
const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE"];
const HEADERS: &[&str] = &["x-tier", "x-city"];
const VALUES: &[&str] = &["gold", "golden", "silver", "17", ""];
const VALUE_REGEXES: &[&str] = &["gold.*", "[0-9]+", "gold|silver"];
const HOSTS: &[&str] = &[
    "payment",
    "payment.default",
    "payment.default.svc.cluster.local",
];
/// Headers that rules edit.
const EDITED: &[&str] = &["x-one", "x-two", "x-tier"];
const CODES: &[u16] = &[301, 302, 303, 307, 308];
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: payment}\nspec: {host: payment, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n";

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// The text of case number `number` of a seed.
#[must_use]
pub fn text(seed: u64, number: u64) -> String {
    let rng = &mut Rng::with_seed(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(number),
    );
    let rules: Vec<Value> = (0..rng.usize(3..7)).map(|_| rule(rng, false)).collect();
    let last = (rng.u8(..4) > 0).then(|| rule(rng, true));
    let http: Vec<Value> = rules.into_iter().chain(last).collect();
    let mut head = format!("about: \"made of seed {seed}, number {number}\"\nrequests:\n");
    for _ in 0..REQUESTS {
        let _ = writeln!(head, "- {}", request(rng));
    }
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "payment"}, "spec": {"hosts": ["payment"], "http": http},
    });
    format!("{head}---\n{object}\n{RULES}")
}

fn request(rng: &mut Rng) -> Value {
    let query = match rng.u8(..4) {
        0 => "?v=2",
        1 => "?v=17&w=gold",
        _ => "",
    };
    let (method, host, path) = (pick(rng, METHODS), pick(rng, HOSTS), pick(rng, PATHS));
    let mut headers = Map::new();
    for name in HEADERS.iter().chain(EDITED) {
        // An empty value is no value in transit.
        let value = pick(rng, &VALUES[..VALUES.len() - 1]);
        if rng.bool() {
            headers.insert((*name).to_owned(), json!(value));
        }
    }
    json!({"request": format!("{method} http://{host}{path}{query}"), "headers": headers})
}

fn rule(rng: &mut Rng, last: bool) -> Value {
    let mut rule = Map::new();
    let mut prefixed = last;
    if !last {
        let matches: Vec<Value> = (0..rng.usize(1..3)).map(|_| condition(rng)).collect();
        prefixed = matches.iter().all(|one| !one["uri"]["prefix"].is_null());
        rule.insert("match".to_owned(), json!(matches));
    }
    match rng.u8(..6) {
        0 => {
            let status = 200 + u16::from(rng.u8(..250));
            let body = json!({"string": pick(rng, VALUES)});
            rule.insert(
                "directResponse".to_owned(),
                json!({"status": status, "body": body}),
            );
        }
        1 => {
            rule.insert("redirect".to_owned(), redirect(rng));
        }
        _ => route(rng, prefixed, &mut rule),
    }
    if rng.u8(..3) == 0 {
        rule.insert("headers".to_owned(), edits(rng));
    }
    rule.into()
}

fn condition(rng: &mut Rng) -> Value {
    let mut all = Map::new();
    if rng.u8(..3) > 0 {
        let uri = match rng.u8(..3) {
            0 => json!({"exact": pick(rng, PATHS)}),
            1 => json!({"regex": pick(rng, REGEXES)}),
            _ => json!({"prefix": pick(rng, PREFIXES)}),
        };
        if uri["regex"].is_null() && rng.u8(..4) == 0 {
            all.insert("ignoreUriCase".to_owned(), json!(true));
        }
        all.insert("uri".to_owned(), uri);
    }
    if rng.u8(..4) == 0 {
        let method = match rng.u8(..3) {
            0 => json!({"prefix": "P"}),
            1 => json!({"regex": "GET|PUT"}),
            _ => json!({"exact": pick(rng, METHODS)}),
        };
        all.insert("method".to_owned(), method);
    }
    if rng.u8(..3) == 0 {
        all.insert(
            "headers".to_owned(),
            json!({pick(rng, HEADERS): value(rng)}),
        );
    }
    if rng.u8(..5) == 0 {
        all.insert(
            "withoutHeaders".to_owned(),
            json!({pick(rng, HEADERS): value(rng)}),
        );
    }
    if rng.u8(..5) == 0 {
        all.insert("queryParams".to_owned(), json!({"v": value(rng)}));
    }
    if rng.u8(..6) == 0 {
        all.insert(
            "authority".to_owned(),
            json!({"prefix": pick(rng, &["payment.", "pay"])}),
        );
    }
    if all.is_empty() {
        all.insert("port".to_owned(), json!(80));
    }
    all.into()
}

fn value(rng: &mut Rng) -> Value {
    let some = &VALUES[..VALUES.len() - 1];
    match rng.u8(..3) {
        0 => json!({"exact": pick(rng, some)}),
        1 => json!({"prefix": pick(rng, some)}),
        _ => json!({"regex": pick(rng, VALUE_REGEXES)}),
    }
}

fn redirect(rng: &mut Rng) -> Value {
    let mut all = Map::new();
    all.insert("uri".to_owned(), json!(pick(rng, PATHS)));
    if rng.bool() {
        all.insert("authority".to_owned(), json!("pay.example.org"));
    }
    if rng.u8(..3) == 0 {
        all.insert("scheme".to_owned(), json!("https"));
    }
    if rng.bool() {
        all.insert(
            "redirectCode".to_owned(),
            json!(CODES[rng.usize(..CODES.len())]),
        );
    }
    if rng.u8(..4) == 0 {
        all.insert("port".to_owned(), json!(8443));
    }
    all.into()
}

fn route(rng: &mut Rng, prefixed: bool, rule: &mut Map<String, Value>) {
    let one = |rng: &mut Rng| match rng.u8(..4) {
        0 => json!({"host": "ledger"}),
        1 => json!({"host": "payment"}),
        2 => json!({"host": "payment", "subset": "v1"}),
        _ => json!({"host": "payment", "subset": "v2"}),
    };
    let first = one(rng);
    let mut all = vec![json!({"destination": first})];
    if rng.u8(..3) == 0 {
        all[0]["weight"] = json!(100);
        all.push(json!({"destination": one(rng), "weight": 0}));
    }
    if rng.u8(..3) == 0 {
        all[0]["headers"] = edits(rng);
    }
    rule.insert("route".to_owned(), json!(all));
    match rng.u8(..6) {
        0 if prefixed => {
            rule.insert(
                "rewrite".to_owned(),
                json!({"uri": pick(rng, &["/", "/new/"])}),
            );
        }
        1 => {
            rule.insert(
                "rewrite".to_owned(),
                json!({"authority": "ledger.example.org"}),
            );
        }
        2 => {
            let regex = json!({"match": "^/users/([^/]+)", "rewrite": "/people/\\1"});
            rule.insert("rewrite".to_owned(), json!({"uriRegexRewrite": regex}));
        }
        _ => {}
    }
    if rng.u8(..4) == 0 {
        rule.insert("timeout".to_owned(), json!("7s"));
    }
}

fn edits(rng: &mut Rng) -> Value {
    let mut sides = Map::new();
    for side in ["request", "response"] {
        let name = pick(rng, EDITED);
        let edit = match rng.u8(..4) {
            0 => json!({"set": {name: "set"}}),
            1 => json!({"add": {name: "added"}}),
            2 => json!({"remove": [name]}),
            _ => continue,
        };
        sides.insert(side.to_owned(), edit);
    }
    sides.into()
}

/// The case with what explain predicts as its verdicts.
///
/// # Errors
/// When explain refuses the request, or says something else each time.
pub fn predicted(name: &str, text: &str) -> Result<File> {
    let mut file = File::parse(name, text)?;
    let objects = file.objects()?.objects;
    for at in 0..file.case.requests.len() {
        let wanted = file.case.requests[at].clone();
        let all = explained::ask(&file, &wanted, &objects).map_err(|e| anyhow!(e))?;
        let verdict = all.first().map(|one| verdict(&wanted, one));
        let Some(verdict) = verdict else {
            bail!("{name}: nothing came of {}", wanted.request);
        };
        if let Some(why) = verdict.differs(super::seen::Who::Explain, &all) {
            bail!("{name}: {}: not the same each time: {why}", wanted.request);
        }
        file.case.requests[at].verdict = verdict;
    }
    Ok(file)
}

fn verdict(wanted: &Wanted, one: &Seen) -> Verdict {
    let last = one.arrivals.last();
    let looked = || {
        wanted
            .headers
            .keys()
            .map(String::as_str)
            .chain(EDITED.iter().copied())
    };
    let sends = last.map_or(Value::Null, |last| {
        let headers: Map<String, Value> = looked()
            .map(|name| (name.to_owned(), json!(last.headers.get(name))))
            .collect();
        json!({"target": last.target, "authority": last.authority, "headers": headers})
    });
    let answered = EDITED.iter().chain(&["location"]);
    Verdict {
        to: last.map(|last| last.clusters.clone()).unwrap_or_default(),
        reply: Some(match &one.reason {
            Some(reason) => format!("{} {reason}", one.status),
            None => one.status.to_string(),
        }),
        sends,
        answer_headers: answered
            .map(|name| ((*name).to_owned(), one.headers.get(*name).cloned()))
            .collect(),
        timeout: last.map(|last| {
            let time = last.headers.get(TIMEOUT).cloned();
            time.unwrap_or_else(|| "none".to_owned())
        }),
        ..Verdict::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{predicted, text};

    #[test]
    fn a_seed_makes_the_same_cases_again_and_others_with_another() {
        assert_eq!(text(1, 2), text(1, 2));
        assert_ne!(text(1, 2), text(1, 3));
        assert_ne!(text(1, 2), text(2, 2));
        for number in 0..20 {
            let text = text(7, number);
            let file = predicted("made", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            let errors = file.objects().expect("objects").findings;
            let errors: Vec<_> = errors.iter().filter(|one| one.is_error()).collect();
            assert!(errors.is_empty(), "{errors:?}\n{text}");
        }
    }
}
