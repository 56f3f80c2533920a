//! What leaves the machine in a support bundle, and what does not.
//!
//! Three nets, one behind the other. By name: a field, variable or header whose name speaks of a secret loses its
//! value. By shape: keys, tokens, bearer values, cookies, passwords in addresses and values of queries lose theirs
//! wherever they stand. By value: each secret this machine's files hold is looked for literally in everything else.
//! Too much taken out is a nuisance, too little is a leak: in doubt a value goes.
//!
//! Pure: text in, text out. Whoever collects decides what is collected; private keys are not even read
//! ([`super::collect`]).

use crate::exit::{Exit, Outcome};
use regex::{Captures, Regex};
use serde_json::Value;
use std::collections::BTreeSet;

/// What stands where a value was.
pub(super) const GONE: &str = "[redacted]";
/// Shorter values would be found in words that are no secrets.
const SHORTEST: usize = 8;
/// Words in a name that make its value a secret.
const NAMES: &[&str] = &[
    "token",
    "secret",
    "passw",
    "passphrase",
    "credential",
    "authorization",
    "cookie",
    "private",
    "apikey",
    "api_key",
    "api-key",
    "bearer",
    "session",
    "signature",
    "key-data",
    "keydata",
    "access_key",
    "accesskey",
    "_proxy",
];
/// Names that have such a word and hold none.
const HARMLESS: &[&str] = &[
    "no_proxy",
    "token_id",
    "secret_name",
    "secretname",
    "credentialname",
    "tokens",
];

/// Takes secrets out of text and JSON.
#[derive(Debug)]
pub(super) struct Redactor {
    shapes: Vec<(Regex, &'static str)>,
    known: BTreeSet<String>,
    off: bool,
}

impl Redactor {
    /// With all nets; `off` lets everything through, for the test that shows that it is these nets that hold.
    pub(super) fn new(off: bool) -> Outcome<Self> {
        let shapes = [
            (
                r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)",
                "[redacted key]",
            ),
            (r"naka1\.(join|api)\.[^\s\x22',;]+", "naka1.$1.[redacted]"),
            (
                r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
                "[redacted JWT]",
            ),
            (
                r"(?i)\b(bearer|basic|negotiate|digest)\s+[A-Za-z0-9._~+/=-]{4,}",
                "$1 [redacted]",
            ),
            (r"([a-z][a-z0-9+.-]*://)[^/\s@\x22']+@", "$1[redacted]@"),
            (
                r"(?i)((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-[a-z0-9-]*token)(\\?\x22?\s*[:=]\s*\\?\x22?)[^\x22\r\n\\]+",
                "$1$2[redacted]",
            ),
            (
                r"(?i)\b([a-z0-9_-]*(?:password|passwd|passphrase|secret|token|credential|api_?key))(\s*[=]\s*|\x22\s*:\s*)\x22?[^\s\x22&,;]+",
                "$1$2[redacted]",
            ),
            (r"([?&][^=&\s\x22#]+=)[^&\s\x22#]+", "$1[redacted]"),
        ];
        let shapes = shapes
            .into_iter()
            .map(|(pattern, with)| Ok((Regex::new(pattern)?, with)))
            .collect::<Result<_, regex::Error>>()
            .map_err(|error| Exit::failed(format!("redaction: {error}")))?;
        Ok(Self {
            shapes,
            known: BTreeSet::new(),
            off,
        })
    }

    /// A value that is a secret wherever it stands.
    pub(super) fn know(&mut self, value: &str) {
        let value = value.trim();
        if value.len() >= SHORTEST {
            self.known.insert(value.to_owned());
        }
    }

    /// Learns the values of secret names in JSON.
    pub(super) fn learn(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if speaks_of_a_secret(name) => self.know(text),
                        other => self.learn(other),
                    }
                }
            }
            Value::Array(all) => all.iter().for_each(|value| self.learn(value)),
            _ => {}
        }
    }

    /// Text without its secrets.
    pub(super) fn text(&self, text: &str) -> String {
        if self.off {
            return text.to_owned();
        }
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), GONE);
            }
        }
        for (shape, with) in &self.shapes {
            let with = *with;
            text = shape
                .replace_all(&text, |found: &Captures<'_>| {
                    let mut out = String::new();
                    found.expand(with, &mut out);
                    out
                })
                .into_owned();
        }
        text
    }

    /// JSON without its secrets.
    pub(super) fn json(&self, value: &Value) -> Value {
        if self.off {
            return value.clone();
        }
        match value {
            Value::Object(fields) => {
                let secret = fields.get("kind").and_then(Value::as_str) == Some("Secret");
                fields
                    .iter()
                    .map(|(name, value)| {
                        let gone = speaks_of_a_secret(name);
                        let data = secret && matches!(name.as_str(), "data" | "stringData");
                        let value = if gone || data {
                            emptied(value)
                        } else {
                            self.json(value)
                        };
                        (name.clone(), value)
                    })
                    .collect()
            }
            Value::Array(all) => all.iter().map(|value| self.json(value)).collect(),
            Value::String(text) => Value::from(self.text(text)),
            other => other.clone(),
        }
    }

    /// A line of a log: JSON by name as well, anything else by shape and value.
    pub(super) fn line(&self, line: &str) -> String {
        match serde_json::from_str::<Value>(line) {
            Ok(value @ Value::Object(_)) => self.json(&value).to_string(),
            _ => self.text(line),
        }
    }

    /// The value of a variable: those of ours and of the machine that hold no secret, and nothing of all others.
    pub(super) fn variable(&self, name: &str, value: &str) -> String {
        const SHOWN: &[&str] = &[
            "PATH",
            "HOME",
            "USER",
            "SHELL",
            "LANG",
            "LC_ALL",
            "TERM",
            "PWD",
            "NAKA_HOME",
            "NAKA_LOG",
        ];
        if self.off || SHOWN.contains(&name) {
            self.text(value)
        } else {
            GONE.to_owned()
        }
    }
}

/// The shape of a secret: a password may stand one level deeper (`inlineString`), and its field's name tells nothing.
fn emptied(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), emptied(value)))
            .collect(),
        Value::Bool(_) | Value::Null => value.clone(),
        _ => Value::from(GONE),
    }
}

/// Whether the value under this name is one that nobody else should have.
pub(super) fn speaks_of_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !HARMLESS.contains(&name.as_str())
        && (name == "key" || NAMES.iter().any(|word| name.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::{Redactor, speaks_of_a_secret};
    use serde_json::json;

    const PLANT: &str = "pl4nted-s3cret";

    /// Each shape with the plant in it; the twin is the same with redaction off.
    #[test]
    fn no_shape_of_a_secret_gets_through() {
        let on = Redactor::new(false).unwrap();
        let off = Redactor::new(true).unwrap();
        let shapes = [
            format!("-----BEGIN PRIVATE KEY-----\n{PLANT}\n-----END PRIVATE KEY-----"),
            format!("-----BEGIN EC PRIVATE KEY-----\n{PLANT}"),
            format!("token naka1.join.10.0.0.5:15012.abc.id.{PLANT} was used"),
            format!("authorization: Bearer {PLANT}"),
            format!("Authorization: Basic {PLANT}"),
            format!("proxy-authorization: {PLANT} and more"),
            format!("{{\"cookie\":\"session={PLANT}; b=c\"}}"),
            format!("set-cookie={PLANT}"),
            format!("http://naka:{PLANT}@127.0.0.1:15001"),
            format!("GET /pay?card={PLANT}&x=1"),
            format!("password={PLANT}"),
            format!("DB_PASSWORD = {PLANT}"),
            format!("x-api-key: {PLANT}"),
            format!("eyJhbGciOi.{PLANT}.sig"),
        ];
        for text in shapes {
            assert!(
                !on.text(&text).contains(PLANT),
                "{text} -> {}",
                on.text(&text)
            );
            assert!(off.text(&text).contains(PLANT), "{text}");
        }
    }

    #[test]
    fn values_go_by_name_and_known_values_go_everywhere() {
        let mut on = Redactor::new(false).unwrap();
        let config =
            json!({"users": [{"user": {"token": PLANT}}], "server": "https://10.0.0.5:15080"});
        on.learn(&config);
        assert!(!on.json(&config).to_string().contains(PLANT));
        assert!(
            on.json(&config)
                .to_string()
                .contains("https://10.0.0.5:15080"),
            "what is no secret stays"
        );
        assert_eq!(
            on.text(&format!("somebody logged {PLANT}")),
            "somebody logged [redacted]"
        );
        let deeper =
            json!({"password": {"inlineString": PLANT}, "privateKey": [{"inline_bytes": PLANT}]});
        assert_eq!(
            on.json(&deeper),
            json!({"password": {"inlineString": "[redacted]"}, "privateKey": "[redacted]"})
        );
        let secret =
            json!({"kind": "Secret", "data": {"tls.key": "YWJj"}, "metadata": {"name": "pair"}});
        let out = on.json(&secret).to_string();
        assert!(
            !out.contains("YWJj") && out.contains("tls.key") && out.contains("pair"),
            "{out}"
        );
        assert_eq!(on.variable("STRIPE", "x"), "[redacted]");
        assert_eq!(on.variable("PATH", "/bin"), "/bin");
        let off = Redactor::new(true).unwrap();
        assert!(off.json(&config).to_string().contains(PLANT));
    }

    #[test]
    fn log_lines_stay_readable() {
        let on = Redactor::new(false).unwrap();
        let line = json!({"method": "GET", "path": "/pay?card=1234567890", "authorization": PLANT, "reason": "no-route", "duration_ms": 3});
        let out = on.line(&line.to_string());
        assert!(
            out.contains("no-route") && out.contains("/pay?card=[redacted]"),
            "{out}"
        );
        assert!(!out.contains(PLANT));
        let plain =
            "2026-11-26T01:00:00Z  INFO the control plane listens addresses=127.0.0.1:15012";
        assert_eq!(on.line(plain), plain);
        for (name, expect) in [
            ("token", true),
            ("sessionToken", true),
            ("key", true),
            ("keys", false),
            ("path", false),
            ("token_id", false),
        ] {
            assert_eq!(speaks_of_a_secret(name), expect, "{name}");
        }
    }
}
