//! What is left of an event when it leaves the mesh's own hands: values that are about people, or that open a door, are
//! replaced.
//!
//! Which these are says the table of attributes (`naka_expr::TABLE`): what it calls personal, and of headers and
//! cookies those whose names are of secrets; claims of tokens are personal too. Beside that, fields whose very name
//! says so (`mobile`, `email`, `password`), and numbers in the form of a telephone's wherever they stand in a text.
//!
//! Not here: values of Secrets, which never leave the log (`naka_store::redact`).

use naka_expr::{Sensitivity, TABLE, is_secret_header};
use serde_json::Value;

/// What stands in the place of a value.
pub(crate) const MASKED: &str = "[masked]";

/// Fields whose name is enough, without `-` and `_`.
const PERSONAL: &[&str] = &[
    "mobile",
    "phone",
    "msisdn",
    "email",
    "password",
    "passphrase",
    "cookie",
    "apikey",
];
/// Digits of a telephone number: with a country's code in front, or as they are dialled at home.
const DIGITS: std::ops::RangeInclusive<usize> = 10..=12;

/// Masks a value in place.
pub(crate) fn mask(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(masked) = numbers(text) {
                *text = masked;
            }
        }
        Value::Array(all) => all.iter_mut().for_each(mask),
        Value::Object(map) => {
            // `{key: request.headers[authorization], values: […]}` and `{name: authorization, value: …}`.
            let spoken = ["key", "name"].iter().find_map(|field| {
                let name = map.get(*field)?.as_str()?;
                Some(attribute(name) || *field == "name" && header(name))
            });
            for (key, inner) in map.iter_mut() {
                let of_key = matches!(key.as_str(), "values" | "notValues" | "value");
                if attribute(key) || named(key) || of_key && spoken == Some(true) {
                    blank(inner);
                } else if of_headers(key) {
                    headers(inner);
                } else {
                    mask(inner);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces every text and number below.
fn blank(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Array(all) => all.iter_mut().for_each(blank),
        Value::Object(map) => map.values_mut().for_each(blank),
        Value::Number(_) | Value::String(_) => *value = MASKED.into(),
    }
}

/// Whether a name is of an attribute that is not shown, or of a part of one.
fn attribute(name: &str) -> bool {
    let (name, part) = name.split_once('[').unwrap_or((name, ""));
    let part = part.trim_end_matches(']').to_ascii_lowercase();
    let row = TABLE.iter().find(|row| row.name == name);
    match row.map(|row| row.sensitivity) {
        Some(Sensitivity::Personal) => true,
        Some(Sensitivity::ByName) => header(&part),
        Some(Sensitivity::Plain) => false,
        None => name.starts_with("request.auth."),
    }
}

fn header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // The one header with such a word in it that says nothing secret.
    named(&name) || is_secret_header(&name) && !name.ends_with("authority")
}

fn named(name: &str) -> bool {
    let bare: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect();
    PERSONAL.iter().any(|word| bare.ends_with(word))
}

/// Whether a field holds headers by their names.
fn of_headers(key: &str) -> bool {
    key.to_ascii_lowercase().contains("headers") || matches!(key, "set" | "add")
}

fn headers(value: &mut Value) {
    let Value::Object(map) = value else {
        return mask(value);
    };
    for (name, inner) in map.iter_mut() {
        match inner {
            // `headers: {request: {set: {…}}}`: headers of both ways.
            Value::Object(_) if matches!(name.as_str(), "request" | "response") => mask(inner),
            _ if of_headers(name) => headers(inner),
            _ if header(name) => blank(inner),
            _ => mask(inner),
        }
    }
}

/// A text whose telephone numbers keep their last two digits; `None` when there are none.
fn numbers(text: &str) -> Option<String> {
    let mut out = String::new();
    let (mut kept, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let begin = at;
        while at < bytes.len() && bytes[at].is_ascii_digit() {
            at += 1;
        }
        // Part of a longer word, a decimal or a hexadecimal number: no telephone's.
        let joined = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        let apart =
            !joined(begin.checked_sub(1).and_then(|i| bytes.get(i))) && !joined(bytes.get(at));
        if apart && DIGITS.contains(&(at - begin)) {
            out.push_str(&text[kept..begin]);
            out.push_str(&"•".repeat(at - begin - 2));
            kept = at - 2;
        }
    }
    (kept > 0).then(|| out + &text[kept..])
}

#[cfg(test)]
mod tests {
    use super::mask;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(given: Value, expect: Value) {
        let mut value = given;
        mask(&mut value);
        assert_eq!(value, expect);
    }

    #[test]
    fn what_is_about_people_or_opens_a_door_is_replaced_and_nothing_else() {
        let m = "[masked]";
        check(
            json!({"headers": {"authorization": {"exact": "Basic x"}, "x-user": {"prefix": "a"}, "cookie": {"regex": "s=.*"}}}),
            json!({"headers": {"authorization": {"exact": m}, "x-user": {"prefix": "a"}, "cookie": {"regex": m}}}),
        );
        check(
            json!({"headers": {"request": {"set": {"x-api-key": "k", "host": "h"}, "remove": ["cookie"]}}}),
            json!({"headers": {"request": {"set": {"x-api-key": m, "host": "h"}, "remove": ["cookie"]}}}),
        );
        check(
            json!({"when": [
                {"key": "request.headers[authorization]", "values": ["Bearer x"]},
                {"key": "request.auth.claims[sub]", "values": ["asha"], "notValues": ["ravi"]},
                {"key": "source.namespace", "values": ["shop"]},
                {"key": "request.headers[x-tier]", "values": ["gold"]},
            ]}),
            json!({"when": [
                {"key": "request.headers[authorization]", "values": [m]},
                {"key": "request.auth.claims[sub]", "values": [m], "notValues": [m]},
                {"key": "source.namespace", "values": ["shop"]},
                {"key": "request.headers[x-tier]", "values": ["gold"]},
            ]}),
        );
        check(
            json!({"requestHeaderModifier": {"add": [{"name": "Authorization", "value": "x"}, {"name": "x-a", "value": "b"}]}}),
            json!({"requestHeaderModifier": {"add": [{"name": "Authorization", "value": m}, {"name": "x-a", "value": "b"}]}}),
        );
        check(
            json!({"source.address": "10.0.0.1", "source.principal": "a/ns/b/sa/c", "request.path": "/users/9876543210/pay"}),
            json!({"source.address": m, "source.principal": "a/ns/b/sa/c", "request.path": "/users/••••••••10/pay"}),
        );
        check(
            json!({"annotations": {"owner-mobile": "+919876543210", "owner": "asha"}, "authority": {"exact": "shop.example"}}),
            json!({"annotations": {"owner-mobile": m, "owner": "asha"}, "authority": {"exact": "shop.example"}}),
        );
    }

    #[test]
    fn only_numbers_in_the_form_of_a_telephones_are_taken_for_one() {
        for (text, expect) in [
            (
                "call +919876543210 or 9876543210.",
                "call +••••••••••10 or ••••••••10.",
            ),
            ("1732703745000", "1732703745000"),
            ("a9876543210", "a9876543210"),
            ("serial 98765432101a", "serial 98765432101a"),
            ("10.255.255.255:65535", "10.255.255.255:65535"),
            ("9876543210", "••••••••10"),
        ] {
            check(json!(text), json!(expect));
        }
    }
}
