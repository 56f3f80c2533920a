//! Label and field selectors of lists and watches.

use super::answer::{Outcome, Problem};
use serde_json::Value;
use std::collections::BTreeMap;

/// Which objects a list or watch wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    /// From the query's `labelSelector` and `fieldSelector`.
    pub(crate) fn of(query: &BTreeMap<String, String>) -> Outcome<Self> {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        let labels = split(text("labelSelector"))
            .into_iter()
            .map(|part| requirement(part.trim()))
            .collect::<Outcome<_>>()?;
        let fields = text("fieldSelector")
            .split(',')
            .filter(|part| !part.trim().is_empty())
            .map(|part| field(part.trim()))
            .collect::<Outcome<_>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether an object matches.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object
                .get("metadata")
                .and_then(|meta| meta.get("labels"))
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|have| values.iter().any(|v| v == have))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|have| values.iter().all(|v| v != have))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        });
        labels
            && self.fields.iter().all(|(path, equal, value)| {
                let have = object.pointer(&format!("/{}", path.replace('.', "/")));
                (have.and_then(Value::as_str).unwrap_or_default() == value) == *equal
            })
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(text: &str) -> Outcome<Requirement> {
    let bad = || Problem::bad_request(format!("cannot read the label selector {text:?}"));
    let word = |word: &str| {
        let word = word.trim();
        let sound = word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if sound {
            Ok(word.to_owned())
        } else {
            Err(bad())
        }
    };
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(word(key)?, vec![word(value)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(word(key)?, vec![word(value)?]));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(bad)?;
        let values = values.split(',').map(word).collect::<Outcome<Vec<_>>>()?;
        let parts: Vec<&str> = head.split_whitespace().collect();
        return match parts.as_slice() {
            [key, "in"] => Ok(Requirement::In(word(key)?, values)),
            [key, "notin"] => Ok(Requirement::NotIn(word(key)?, values)),
            _ => Err(bad()),
        };
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(word(key)?)),
        None => Ok(Requirement::Exists(word(text)?)),
    }
}

fn field(text: &str) -> Outcome<(String, bool, String)> {
    let (path, equal, value) = if let Some((path, value)) = text.split_once("!=") {
        (path, false, value)
    } else if let Some((path, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (path, true, value)
    } else {
        return Err(Problem::bad_request(format!(
            "cannot read the field selector {text:?}"
        )));
    };
    if !["metadata.name", "metadata.namespace"].contains(&path) {
        return Err(Problem::bad_request(format!(
            "field label not supported: {path} (metadata.name and metadata.namespace are)"
        )));
    }
    Ok((path.to_owned(), equal, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Selector;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn selector(labels: &str, fields: &str) -> Result<Selector, String> {
        let query = BTreeMap::from([
            ("labelSelector".to_owned(), labels.to_owned()),
            ("fieldSelector".to_owned(), fields.to_owned()),
        ]);
        Selector::of(&query).map_err(|problem| problem.message)
    }

    #[test]
    fn selectors_choose_as_in_kubernetes() {
        let object = json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "pay", "v": "1"}}});
        for (labels, fields, want) in [
            ("", "", true),
            ("app=pay", "", true),
            ("app==pay,v!=2", "", true),
            ("app!=pay", "", false),
            ("app in (x, pay),v", "", true),
            ("app notin (x,pay)", "", false),
            ("!gone", "", true),
            ("gone", "", false),
            ("gone!=1", "", true),
            ("", "metadata.name=a", true),
            ("", "metadata.name!=a", false),
            ("", "metadata.name=a,metadata.namespace=other", false),
        ] {
            assert_eq!(
                selector(labels, fields).unwrap().matches(&object),
                want,
                "{labels} {fields}"
            );
        }
        for (labels, fields) in [
            ("a=b c", ""),
            ("a in (b", ""),
            ("a like (b)", ""),
            ("", "spec.x=1"),
            ("", "name"),
        ] {
            assert!(selector(labels, fields).is_err(), "{labels} {fields}");
        }
    }
}
