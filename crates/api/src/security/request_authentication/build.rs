//! The typed RequestAuthentication from a checked tree.

use super::{JwtRule, Keys, RequestAuthentication, TokenPlace};
use crate::codes;
use crate::decode::Report;
use crate::decode::meta::labels;
use crate::networking::read::{duration, is_header_name};
use crate::security::attached;
use crate::tree::{Data, Node, join};
use naka_types::jwk::{KeySet, KeyUri};
use std::time::Duration;

/// Time for fetching keys, unless an object says otherwise; Istio's.
const FETCHED_WITHIN: Duration = Duration::from_secs(5);

/// Builds.
pub(crate) fn build(report: &mut Report, spec: &Node) -> RequestAuthentication {
    let selector = spec
        .at(&["selector", "matchLabels"])
        .map(|node| labels(Some(node)))
        .filter(|labels| !labels.is_empty());
    let rules = each(spec, "spec", "jwtRules");
    RequestAuthentication {
        selector,
        attached: attached::read(report, spec),
        rules: rules
            .iter()
            .filter_map(|(at, node)| rule(report, at, node))
            .collect(),
    }
}

/// Items of a list with their paths.
fn each<'n>(node: &'n Node, at: &str, field: &str) -> Vec<(String, &'n Node)> {
    let at = join(at, field);
    let all = node.get(field).map(Node::items).unwrap_or_default();
    let place = |(index, item)| (format!("{at}[{index}]"), item);
    all.iter().enumerate().map(place).collect()
}

fn rule(report: &mut Report, at: &str, node: &Node) -> Option<JwtRule> {
    let text = |field: &str| node.get(field).and_then(Node::text).unwrap_or_default();
    let keys = keys(report, at, node)?;
    let mut places = Vec::new();
    for (at, header) in each(node, at, "fromHeaders") {
        let name = name(report, &at, header, "name")?;
        let prefix = header.get("prefix").and_then(Node::text);
        places.push(TokenPlace::Header(
            name,
            prefix.unwrap_or_default().to_owned(),
        ));
    }
    let words = |report: &mut Report, field: &str| words(report, at, node, field);
    places.extend(
        words(report, "fromParams")
            .into_iter()
            .map(TokenPlace::Parameter),
    );
    places.extend(
        words(report, "fromCookies")
            .into_iter()
            .map(TokenPlace::Cookie),
    );
    if places.is_empty() {
        places = vec![
            TokenPlace::Header("authorization".to_owned(), "Bearer ".to_owned()),
            TokenPlace::Parameter("access_token".to_owned()),
        ];
    }
    let mut claim_headers = Vec::new();
    for (at, one) in each(node, at, "outputClaimToHeaders") {
        let name = name(report, &at, one, "header")?;
        let claim = one.get("claim").and_then(Node::text).unwrap_or_default();
        if claim.split('.').any(str::is_empty) {
            let what = format!("{claim:?} is no name of a claim");
            let fix = "write a name, with dots between those of nested claims".to_owned();
            report.invalid(&join(&at, "claim"), one, what, fix);
        }
        claim_headers.push((name, claim.to_owned()));
    }
    let payload_header = match text("outputPayloadToHeader") {
        "" => None,
        _ => Some(name(report, at, node, "outputPayloadToHeader")?),
    };
    Some(JwtRule {
        issuer: text("issuer").to_owned(),
        audiences: words(report, "audiences"),
        keys,
        places,
        forward: node
            .get("forwardOriginalToken")
            .is_some_and(|node| node.data == Data::Bool(true)),
        payload_header,
        claim_headers,
        word_lists: words(report, "spaceDelimitedClaims"),
        required: text("presence") == "REQUIRED",
    })
}

fn keys(report: &mut Report, at: &str, node: &Node) -> Option<Keys> {
    let old = node.get("jwks_uri").map(|uri| ("jwks_uri", uri));
    let uri = node.get("jwksUri").map(|uri| ("jwksUri", uri)).or(old);
    match (node.get("jwks"), uri) {
        (Some(jwks), _) => written(report, &join(at, "jwks"), jwks),
        (None, Some((field, uri))) => {
            let timeout = duration(node.get("timeout")).unwrap_or(FETCHED_WITHIN);
            match KeyUri::parse(uri.text().unwrap_or_default()) {
                Ok(uri) => Some(Keys::Fetched { uri, timeout }),
                Err(why) => {
                    let what = format!("it is no address that keys can be fetched from: {why}");
                    let fix = "write an address like https://issuer.example/keys".to_owned();
                    report.invalid(&join(at, field), uri, what, fix);
                    None
                }
            }
        }
        (None, None) => {
            report.error(
                codes::E901,
                at,
                node.place,
                "without keys no token can be verified, and they are not looked up from the issuer's name".to_owned(),
                "write jwksUri, or jwks with the issuer's public keys".to_owned(),
            );
            None
        }
    }
}

fn written(report: &mut Report, field: &str, jwks: &Node) -> Option<Keys> {
    match KeySet::parse(jwks.text().unwrap_or_default()) {
        Ok((keys, left)) => {
            for why in left {
                let fix = "nothing to change when tokens are signed with the others".to_owned();
                report.error(codes::W903, field, jwks.place, why, fix);
            }
            Some(Keys::Written(keys))
        }
        Err(why) => {
            let fix = "write a JSON Web Key Set with public keys: {\"keys\": [{\"kty\": …}]}";
            report.invalid(field, jwks, why.to_string(), fix.to_owned());
            None
        }
    }
}

/// Texts of a list; empty ones are errors.
fn words(report: &mut Report, at: &str, node: &Node, field: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, item) in each(node, at, field) {
        let text = item.text().unwrap_or_default();
        if text.is_empty() {
            let what = "an empty text is no name".to_owned();
            report.invalid(&at, item, what, "write a name, or leave it out".to_owned());
        }
        out.push(text.to_owned());
    }
    out
}

/// A header's name.
fn name(report: &mut Report, at: &str, node: &Node, field: &str) -> Option<String> {
    let text = node.get(field).and_then(Node::text).unwrap_or_default();
    if !is_header_name(text) || text.eq_ignore_ascii_case("host") {
        let what = format!("{text:?} cannot be the name of a header here");
        let fix = "write a name like x-jwt-claim".to_owned();
        report.invalid(&join(at, field), node.get(field).unwrap_or(node), what, fix);
        return None;
    }
    Some(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::{Keys, TokenPlace};
    use crate::{Mode, Object, decode_yaml};

    const KEY: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn decode(rule: &str) -> (Option<Object>, Vec<(String, String)>) {
        let rule = rule.replace("KEYS", &format!("'{{\"keys\":[{KEY}]}}'"));
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: shop}}\nspec: {{jwtRules: [{rule}]}}\n"
        );
        let decoded = decode_yaml("a.yaml", text.as_bytes(), Mode::Compat);
        let found = decoded.findings.into_iter();
        let found = found.map(|f| (f.code.to_string(), f.field)).collect();
        (decoded.objects.into_iter().next(), found)
    }

    #[test]
    fn what_is_wrong_is_named_and_puts_the_object_out_of_force() {
        for (rule, code, field) in [
            ("{jwks: KEYS}", "E006", "issuer"),
            ("{issuer: a}", "E901", ""),
            ("{issuer: a, jwks: no}", "E007", "jwks"),
            ("{issuer: a, jwks: '{\"keys\":[]}'}", "E007", "jwks"),
            (
                "{issuer: a, jwks: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'}",
                "E007",
                "jwks",
            ),
            ("{issuer: a, jwksUri: 'a.example/keys'}", "E007", "jwksUri"),
            (
                "{issuer: a, jwksUri: 'file:///etc/keys'}",
                "E007",
                "jwksUri",
            ),
            (
                "{issuer: a, jwks_uri: 'https://u:p@a/'}",
                "E007",
                "jwks_uri",
            ),
            (
                "{issuer: a, jwks: KEYS, jwksUri: 'https://a/'}",
                "E007",
                "jwksUri",
            ),
            (
                "{issuer: a, jwksUri: 'https://a/', jwks_uri: 'https://b/'}",
                "E007",
                "jwks_uri",
            ),
            (
                "{issuer: a, jwksUri: 'https://a/', timeout: soon}",
                "E007",
                "timeout",
            ),
            (
                "{issuer: a, jwks: KEYS, presence: ALWAYS}",
                "E007",
                "presence",
            ),
            (
                "{issuer: a, jwks: KEYS, fromHeaders: [{name: 'a b'}]}",
                "E007",
                "fromHeaders[0].name",
            ),
            (
                "{issuer: a, jwks: KEYS, fromParams: ['']}",
                "E007",
                "fromParams[0]",
            ),
            (
                "{issuer: a, jwks: KEYS, outputPayloadToHeader: 'a b'}",
                "E007",
                "outputPayloadToHeader",
            ),
            (
                "{issuer: a, jwks: KEYS, outputClaimToHeaders: [{header: a, claim: b..c}]}",
                "E007",
                "outputClaimToHeaders[0].claim",
            ),
        ] {
            let (object, found) = decode(rule);
            let field = match field {
                "" => "spec.jwtRules[0]".to_owned(),
                field => format!("spec.jwtRules[0].{field}"),
            };
            assert!(
                found.contains(&(code.to_owned(), field)),
                "{rule}: {found:?}"
            );
            let rules = object.and_then(|o| o.request_authentication().map(|r| r.rules.len()));
            assert!(matches!(rules, None | Some(0)), "{rule}");
        }
    }

    #[test]
    fn what_is_sound_is_read() {
        let (object, found) = decode(
            "{issuer: a, jwks: KEYS, audiences: [b], fromHeaders: [{name: X-Tok, prefix: 'T '}], fromCookies: [c], forwardOriginalToken: true, outputClaimToHeaders: [{header: X-Sub, claim: a.b}]}",
        );
        assert!(found.is_empty(), "{found:?}");
        let object = object.unwrap();
        let rule = &object.request_authentication().unwrap().rules[0];
        let header = TokenPlace::Header("x-tok".to_owned(), "T ".to_owned());
        assert_eq!(rule.places, [header, TokenPlace::Cookie("c".to_owned())]);
        assert!(rule.forward && matches!(&rule.keys, Keys::Written(set) if set.keys().len() == 1));
        assert_eq!(rule.claim_headers[0].0, "x-sub");
        let (object, _) = decode("{issuer: a, jwks: KEYS}");
        let object = object.unwrap();
        let rule = &object.request_authentication().unwrap().rules[0];
        assert_eq!(rule.places.len(), 2);
        assert!(!rule.forward && !rule.required);
        let (object, _) = decode("{issuer: a, jwks: KEYS, presence: REQUIRED}");
        assert!(object.unwrap().request_authentication().unwrap().rules[0].required);
        for (rule, within) in [
            ("{issuer: a, jwksUri: 'https://a.example/keys'}", 5_000),
            (
                "{issuer: a, jwks_uri: 'https://a.example/keys', timeout: 1500ms}",
                1_500,
            ),
        ] {
            let (object, found) = decode(rule);
            assert!(found.is_empty(), "{found:?}");
            let object = object.unwrap();
            let keys = &object.request_authentication().unwrap().rules[0].keys;
            let Keys::Fetched { uri, timeout } = keys else {
                panic!("{keys:?}");
            };
            assert_eq!((uri.host(), timeout.as_millis()), ("a.example", within));
        }
    }
}
