//! Header operations of routes.
//!
//! Values with Envoy's variables (`%REQ(x)%`) are refused: sent literally they would tell the called program something
//! wrong. `%%` is a percent sign.

use super::Error;
use naka_engine::model::HeaderEdits;
use naka_wire::envoy::config::core::v3::{
    HeaderValueOption, header_value_option::HeaderAppendAction,
};

/// Operations to add and remove, in Envoy's form.
///
/// # Errors
/// [`Error`] with the index of the operation that cannot be carried out.
#[expect(
    deprecated,
    reason = "older control planes still write the older form of append"
)]
pub fn edits(
    add: &[HeaderValueOption],
    remove: &[String],
    field: &str,
) -> Result<HeaderEdits, Error> {
    let mut set = Vec::new();
    let mut appended = Vec::new();
    for (index, option) in add.iter().enumerate() {
        let at = |what: &str| Error::at(format!("{field}_to_add[{index}]"), what);
        let header = option
            .header
            .as_ref()
            .ok_or_else(|| at("it names no header"))?;
        let value = literal(&header.value)
            .ok_or_else(|| at("its value has a variable, which this proxy does not fill in"))?;
        let overwrite = option.append.as_ref().is_some_and(|append| !append.value);
        match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) if !overwrite => {
                appended.push((header.key.as_str(), value));
            }
            Ok(
                HeaderAppendAction::AppendIfExistsOrAdd
                | HeaderAppendAction::OverwriteIfExistsOrAdd,
            ) => set.push((header.key.as_str(), value)),
            _ => return Err(at("this append action is not supported")),
        }
    }
    HeaderEdits::new(
        set.iter().map(|(name, value)| (*name, value.as_str())),
        appended.iter().map(|(name, value)| (*name, value.as_str())),
        remove.iter().map(String::as_str),
    )
    .map_err(|error| Error::at(field, error))
}

/// The text a value stands for; `None` when it has a variable.
fn literal(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
        } else if rest.starts_with(|c: char| c.is_ascii_uppercase()) && rest.contains('%') {
            return None;
        }
        out.push('%');
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naka_wire::envoy::config::core::v3::HeaderValue;

    fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: key.into(),
                value: value.into(),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        }
    }

    #[test]
    fn operations_do_what_envoy_would_do() {
        let made = edits(
            &[
                option("a", "new", HeaderAppendAction::OverwriteIfExistsOrAdd),
                option("b", "more", HeaderAppendAction::AppendIfExistsOrAdd),
            ],
            &["c".to_owned()],
            "request_headers",
        )
        .unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in [("a", "old"), ("b", "first"), ("c", "gone")] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        made.apply(&mut headers);
        assert_eq!(headers["a"], "new");
        assert_eq!(headers.get_all("b").iter().count(), 2);
        assert!(!headers.contains_key("c"));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_its_place() {
        let sound = option("a", "b", HeaderAppendAction::AppendIfExistsOrAdd);
        for bad in [
            option("a", "b", HeaderAppendAction::AddIfAbsent),
            option("a", "%REQ(x)%", HeaderAppendAction::AppendIfExistsOrAdd),
            HeaderValueOption::default(),
        ] {
            let error = edits(&[sound.clone(), bad], &[], "request_headers").unwrap_err();
            assert_eq!(error.field, "request_headers_to_add[1]");
        }
        let host = option("host", "b", HeaderAppendAction::AppendIfExistsOrAdd);
        assert!(edits(&[host], &[], "request_headers").is_err());
    }

    #[test]
    fn percent_signs() {
        for (value, expect) in [
            ("plain", Some("plain")),
            ("50%", Some("50%")),
            ("50%% off", Some("50% off")),
            ("a%20b", Some("a%20b")),
            ("%START_TIME%", None),
            ("x %REQ(a)% y", None),
        ] {
            assert_eq!(literal(value).as_deref(), expect, "{value}");
        }
    }
}
