//! Regular expressions in linear time with bounded memory, on bytes.
//!
//! Why the meta engine: it is RE2's model (no back-references, no exponential matching), so an expression that Istio
//! takes means the same here. Dense automata are off; caches are capped, because routes are many and sidecars small.

use super::Error;
use crate::limits;
use regex_automata::meta::{Config, Regex};
use regex_automata::util::{captures::Captures, syntax};
use regex_automata::{Anchored, Input};
use std::sync::Arc;

/// A compiled regular expression.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Compiles an expression that must match the whole text ([`Pattern::is_full_match`]).
    ///
    /// # Errors
    /// [`Error::Pattern`] when it does not compile or is over a cap.
    pub fn full(text: &str) -> Result<Self, Error> {
        // Compiled alone first, so that an unbalanced `)` cannot close the group put around it.
        Self::compile(text, text)?;
        Self::compile(text, &format!(r"\A(?:{text})\z"))
    }

    /// Compiles an expression that may match anywhere ([`Pattern::replace_all`]).
    ///
    /// # Errors
    /// [`Error::Pattern`] when it does not compile or is over a cap.
    pub fn search(text: &str) -> Result<Self, Error> {
        Self::compile(text, text)
    }

    fn compile(text: &str, expression: &str) -> Result<Self, Error> {
        let fail = |why: String| Error::Pattern {
            pattern: text.to_owned(),
            why,
        };
        if text.len() > limits::PATTERN_BYTES {
            return Err(fail(format!(
                "it is longer than {} bytes",
                limits::PATTERN_BYTES
            )));
        }
        Regex::builder()
            .configure(
                Config::new()
                    .utf8_empty(false)
                    .nfa_size_limit(Some(limits::PATTERN_NFA_BYTES))
                    .hybrid_cache_capacity(limits::PATTERN_CACHE_BYTES),
            )
            .syntax(syntax::Config::new().utf8(false))
            .build(expression)
            .map(|regex| Self {
                text: text.into(),
                regex,
            })
            .map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                fail(cause.unwrap_or_else(|| error.to_string()))
            })
    }

    /// The expression as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches; only for patterns made by [`Pattern::full`].
    #[must_use]
    pub fn is_full_match(&self, text: &[u8]) -> bool {
        self.regex
            .is_match(Input::new(text).anchored(Anchored::Yes))
    }

    /// Whether it matches anywhere; only for patterns made by [`Pattern::search`].
    #[must_use]
    pub fn is_found(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// Replaces every match; `\0`…`\9` in the substitution stand for groups, `\\` for a backslash.
    #[must_use]
    pub fn replace_all(&self, text: &[u8], substitution: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut captures = self.regex.create_captures();
        let mut end = 0;
        for found in self.regex.captures_iter(text) {
            captures.clone_from(&found);
            let Some(whole) = captures.get_match() else {
                continue;
            };
            out.extend_from_slice(&text[end..whole.start()]);
            expand(&captures, text, substitution, &mut out);
            end = whole.end();
        }
        out.extend_from_slice(&text[end..]);
        out
    }
}

fn expand(captures: &Captures, text: &[u8], substitution: &str, out: &mut Vec<u8>) {
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(digit) if digit.is_ascii_digit() => {
                if let Some(span) = captures.get_group(usize::from(digit - b'0')) {
                    out.extend_from_slice(&text[span.range()]);
                }
            }
            Some(other) => out.push(other),
            None => out.push(b'\\'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn a_full_pattern_matches_all_of_the_text_or_nothing() {
        for (pattern, text, want) in [
            ("/a.*", "/abc", true),
            ("/a.*", "x/abc", false),
            ("a|ab", "ab", true),
            ("a", "a\n", false),
            ("(?i)/ABC", "/abc", true),
            ("[0-9]+", "12x", false),
            ("", "", true),
        ] {
            assert_eq!(
                Pattern::full(pattern)
                    .unwrap()
                    .is_full_match(text.as_bytes()),
                want,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn what_is_broken_or_too_big_is_refused() {
        for bad in [
            "(",
            ")",
            "a)(b",
            r"(a)\1",
            "(?=a)",
            &"a".repeat(5000),
            "(a{1000}){1000}",
        ] {
            assert!(Pattern::full(bad).is_err(), "{}", &bad[..bad.len().min(20)]);
        }
        let longest = "a".repeat(crate::limits::PATTERN_BYTES);
        assert!(Pattern::full(&longest).is_ok());
    }

    #[test]
    fn patterns_are_equal_as_written() {
        let pattern = |text| Pattern::full(text).unwrap();
        assert!(pattern("/a") == pattern("/a") && pattern("/a") != pattern("/b"));
    }

    #[test]
    fn replacement_expands_groups() {
        let pattern = Pattern::search("/v([0-9])/([a-z]+)").unwrap();
        let got = pattern.replace_all(b"/api/v1/pay/x", r"/\2/\1\\");
        assert_eq!(got, br"/api/pay/1\/x");
        let none = Pattern::search("zzz").unwrap();
        assert_eq!(none.replace_all(b"/a", "b"), b"/a");
    }
}
