//! Conditions of a route on path, headers, query, method and authority.
//!
//! Semantics are those of an Istio VirtualService as Envoy carries them out: regular expressions match the whole
//! value, several values of one header count as one joined by commas, a missing header satisfies no condition
//! (inverted or not) unless the condition is about presence or says that missing means empty.

use super::{Error, Pattern};
use http::HeaderName;
use std::fmt;
use std::sync::Arc;

/// A rule on one text.
#[derive(Debug, Clone, PartialEq)]
pub enum TextRule {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Ends with.
    Suffix(Arc<str>),
    /// Contains.
    Contains(Arc<str>),
    /// The whole text matches.
    Regex(Pattern),
}

/// A rule on one text, with or without regard to case.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCondition {
    /// The rule.
    pub rule: TextRule,
    /// Whether ASCII case does not matter (not for regular expressions).
    pub ignore_case: bool,
}

impl TextCondition {
    /// Case-sensitive.
    #[must_use]
    pub fn new(rule: TextRule) -> Self {
        Self {
            rule,
            ignore_case: false,
        }
    }

    /// Equal to a text.
    #[must_use]
    pub fn exact(text: &str) -> Self {
        Self::new(TextRule::Exact(text.into()))
    }

    /// Whether a text satisfies it.
    #[must_use]
    pub fn holds(&self, text: &[u8]) -> bool {
        let case = self.ignore_case;
        match &self.rule {
            TextRule::Exact(want) => equal(text, want.as_bytes(), case),
            TextRule::Prefix(want) => starts(text, want.as_bytes(), case),
            TextRule::Suffix(want) => text
                .len()
                .checked_sub(want.len())
                .is_some_and(|from| equal(&text[from..], want.as_bytes(), case)),
            TextRule::Contains(want) => {
                want.is_empty()
                    || text
                        .windows(want.len())
                        .any(|part| equal(part, want.as_bytes(), case))
            }
            TextRule::Regex(pattern) => pattern.is_full_match(text),
        }
    }
}

/// A rule on the path (without query).
#[derive(Debug, Clone, PartialEq, Default)]
pub enum PathCondition {
    /// Every path.
    #[default]
    Any,
    /// Equal.
    Exact(Arc<str>),
    /// Starts with; `/pay` also takes `/payment`.
    Prefix(Arc<str>),
    /// Starts with whole segments; `/pay` takes `/pay` and `/pay/x`, not `/payment`.
    Separated(Arc<str>),
    /// The whole path matches.
    Regex(Pattern),
}

impl PathCondition {
    /// A prefix of whole segments.
    ///
    /// # Errors
    /// [`Error::Path`] when it does not start with `/`.
    pub fn separated(prefix: &str) -> Result<Self, Error> {
        if !prefix.starts_with('/') {
            return Err(Error::Path(prefix.to_owned()));
        }
        Ok(match prefix.trim_end_matches('/') {
            "" => Self::Any,
            trimmed => Self::Separated(trimmed.into()),
        })
    }

    /// Whether a path satisfies it.
    #[must_use]
    pub fn holds(&self, path: &str, ignore_case: bool) -> bool {
        let path = path.as_bytes();
        match self {
            Self::Any => true,
            Self::Exact(want) => equal(path, want.as_bytes(), ignore_case),
            Self::Prefix(want) => starts(path, want.as_bytes(), ignore_case),
            Self::Separated(want) => {
                starts(path, want.as_bytes(), ignore_case)
                    && matches!(path.get(want.len()), None | Some(b'/'))
            }
            Self::Regex(pattern) => pattern.is_full_match(path),
        }
    }
}

/// What a header condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A header.
    Header(HeaderName),
    /// `:method`.
    Method,
    /// `:authority`, with the port if the caller gave one.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:path`, with the query.
    Target,
}

impl Subject {
    /// From a name as Envoy writes it, pseudo-headers with a colon.
    ///
    /// # Errors
    /// [`Error::Header`] when it is no header name.
    pub fn parse(name: &str) -> Result<Self, Error> {
        Ok(match name {
            ":method" => Self::Method,
            ":authority" | "host" | "Host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":path" => Self::Target,
            other => {
                Self::Header(HeaderName::try_from(other).map_err(|_| Error::Header(other.into()))?)
            }
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(name) => name.as_str(),
            Self::Method => ":method",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
            Self::Target => ":path",
        })
    }
}

/// Whether a header must be there, or what its value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderRule {
    /// There, with any value.
    Present,
    /// There, with such a value.
    Value(TextCondition),
}

/// A rule on one header.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderCondition {
    /// Which header.
    pub subject: Subject,
    /// What must hold.
    pub rule: HeaderRule,
    /// Whether the rule must not hold instead.
    pub invert: bool,
    /// Whether a missing header counts as one with an empty value (Istio's `withoutHeaders`).
    pub missing_is_empty: bool,
}

impl HeaderCondition {
    /// A condition that is neither inverted nor takes a missing header for an empty one.
    #[must_use]
    pub fn new(subject: Subject, rule: HeaderRule) -> Self {
        Self {
            subject,
            rule,
            invert: false,
            missing_is_empty: false,
        }
    }

    /// Whether a value (`None`: missing) satisfies it.
    #[must_use]
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match (&self.rule, value) {
            (HeaderRule::Present, value) => value.is_some() != self.invert,
            (HeaderRule::Value(text), Some(value)) => text.holds(value) != self.invert,
            (HeaderRule::Value(text), None) => {
                self.missing_is_empty && text.holds(b"") != self.invert
            }
        }
    }
}

fn equal(text: &[u8], want: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        text.eq_ignore_ascii_case(want)
    } else {
        text == want
    }
}

fn starts(text: &[u8], want: &[u8], ignore_case: bool) -> bool {
    text.len() >= want.len() && equal(&text[..want.len()], want, ignore_case)
}

// === how they read in an explanation ===

impl fmt::Display for TextCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            TextRule::Exact(want) => write!(f, "= {want:?}"),
            TextRule::Prefix(want) => write!(f, "starts with {want:?}"),
            TextRule::Suffix(want) => write!(f, "ends with {want:?}"),
            TextRule::Contains(want) => write!(f, "contains {want:?}"),
            TextRule::Regex(pattern) => write!(f, "matches regex {:?}", pattern.as_str()),
        }?;
        if self.ignore_case {
            f.write_str(" ignoring case")?;
        }
        Ok(())
    }
}

impl fmt::Display for PathCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any path"),
            Self::Exact(want) => write!(f, "path = {want:?}"),
            Self::Prefix(want) => write!(f, "path starts with {want:?}"),
            Self::Separated(want) => write!(f, "path is under {want:?}"),
            Self::Regex(pattern) => write!(f, "path matches regex {:?}", pattern.as_str()),
        }
    }
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.invert {
            f.write_str("not ")?;
        }
        match &self.rule {
            HeaderRule::Present => write!(f, "header {} present", self.subject),
            HeaderRule::Value(text) => write!(f, "header {} {text}", self.subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderCondition, HeaderRule, PathCondition, Pattern, Subject};
    use super::{TextCondition, TextRule};

    #[test]
    fn how_they_read() {
        let text = |rule| TextCondition::new(rule);
        let regex = || Pattern::full("a+").unwrap();
        let ignoring = TextCondition {
            ignore_case: true,
            ..TextCondition::exact("a")
        };
        for (condition, want) in [
            (text(TextRule::Exact("a".into())), r#"= "a""#),
            (text(TextRule::Prefix("a".into())), r#"starts with "a""#),
            (text(TextRule::Suffix("a".into())), r#"ends with "a""#),
            (text(TextRule::Contains("a".into())), r#"contains "a""#),
            (text(TextRule::Regex(regex())), r#"matches regex "a+""#),
            (ignoring, r#"= "a" ignoring case"#),
        ] {
            assert_eq!(condition.to_string(), want);
        }
        for (path, want) in [
            (PathCondition::Any, "any path"),
            (PathCondition::Exact("/a".into()), r#"path = "/a""#),
            (
                PathCondition::Prefix("/a".into()),
                r#"path starts with "/a""#,
            ),
            (
                PathCondition::Separated("/a".into()),
                r#"path is under "/a""#,
            ),
            (PathCondition::Regex(regex()), r#"path matches regex "a+""#),
        ] {
            assert_eq!(path.to_string(), want);
        }
        for (name, shown) in [
            (":method", ":method"),
            (":authority", ":authority"),
            ("Host", ":authority"),
            ("host", ":authority"),
            (":scheme", ":scheme"),
            (":path", ":path"),
            ("X-User", "x-user"),
        ] {
            let subject = Subject::parse(name).unwrap();
            let value = HeaderRule::Value(TextCondition::exact("a"));
            let mut condition = HeaderCondition::new(subject.clone(), value);
            assert_eq!(condition.to_string(), format!(r#"header {shown} = "a""#));
            condition.invert = true;
            let inverted = format!(r#"not header {shown} = "a""#);
            assert_eq!(condition.to_string(), inverted);
            let present = HeaderCondition::new(subject, HeaderRule::Present);
            assert_eq!(present.to_string(), format!("header {shown} present"));
        }
        assert!(Subject::parse("a b").is_err());
    }
}
