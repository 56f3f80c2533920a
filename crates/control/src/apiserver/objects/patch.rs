//! The three patch forms that `kubectl patch`, `edit`, `label` and client-side `apply` send.
//!
//! Strategic merge is the merge patch plus lists that merge by a key. Naka serves one kind with such lists whose form
//! kubectl knows: a Service's ports, by `port`. For every other list a strategic patch that would need a key is
//! refused rather than guessed.

use crate::apiserver::answer::{Outcome, Problem};
use serde_json::{Map, Value};

/// Form of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// RFC 7396.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own.
    Strategic,
}

impl Form {
    /// From the content type.
    pub(crate) fn of(content_type: &str) -> Outcome<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" | "application/json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                Err(Problem::media_type(
                    "server-side apply is not supported yet: use `naka apply -f`, or kubectl apply without --server-side",
                ))
            }
            other => Err(Problem::media_type(format!(
                "patch form {other:?} is not understood; use application/merge-patch+json"
            ))),
        }
    }

    /// Applies `patch` to `value`.
    pub(crate) fn apply(self, value: &mut Value, patch: &Value) -> Outcome<()> {
        match self {
            Self::Merge => {
                object(patch)?;
                naka_api::merge_patch(value, patch);
                Ok(())
            }
            Self::Json => {
                let patch: json_patch::Patch =
                    serde_json::from_value(patch.clone()).map_err(|error| {
                        Problem::bad_request(format!("cannot read the JSON patch: {error}"))
                    })?;
                json_patch::patch(value, &patch).map_err(|error| {
                    Problem::bad_request(format!("the JSON patch does not fit: {error}"))
                })
            }
            Self::Strategic => {
                object(patch)?;
                merge(value, patch, "")
            }
        }
    }
}

fn object(patch: &Value) -> Outcome<()> {
    if patch.is_object() {
        Ok(())
    } else {
        Err(Problem::bad_request("a patch is an object"))
    }
}

/// Key by which the list at this path merges.
fn merge_key(path: &str) -> Option<&'static str> {
    (path == "/spec/ports").then_some("port")
}

fn merge(value: &mut Value, patch: &Value, path: &str) -> Outcome<()> {
    let Value::Object(fields) = patch else {
        *value = patch.clone();
        return Ok(());
    };
    if fields.get("$patch").is_some_and(|how| how == "replace") {
        let rest = fields.iter().filter(|(key, _)| key.as_str() != "$patch");
        *value = Value::Object(
            rest.map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        );
        return Ok(());
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Some(map) = value.as_object_mut() else {
        return Ok(());
    };
    for (key, change) in fields {
        if key.starts_with("$setElementOrder/") || key.starts_with("$retainKeys") {
            continue;
        }
        if key.starts_with('$') {
            return Err(Problem::bad_request(format!(
                "the strategic patch directive {key} is not supported; use --type=merge"
            )));
        }
        let at = format!("{path}/{key}");
        match change {
            Value::Null => {
                map.remove(key);
            }
            Value::Array(items) => {
                let slot = map.entry(key.clone()).or_insert(Value::Null);
                merge_list(slot, items, &at)?;
            }
            change => merge(map.entry(key.clone()).or_insert(Value::Null), change, &at)?,
        }
    }
    Ok(())
}

fn merge_list(slot: &mut Value, items: &[Value], path: &str) -> Outcome<()> {
    let Some(key) = merge_key(path) else {
        if items.iter().any(|item| item.get("$patch").is_some()) {
            return Err(Problem::bad_request(format!(
                "the list {path} has no merge key; use --type=merge"
            )));
        }
        *slot = Value::Array(items.to_vec());
        return Ok(());
    };
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    let Some(list) = slot.as_array_mut() else {
        return Ok(());
    };
    for item in items {
        let found = list.iter().position(|have| have.get(key) == item.get(key));
        match (item.get("$patch").and_then(Value::as_str), found) {
            (Some("delete"), Some(at)) => {
                list.remove(at);
            }
            (Some("delete"), None) => {}
            (_, Some(at)) => merge(&mut list[at], item, &format!("{path}/*"))?,
            (_, None) => list.push(item.clone()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Form;
    use serde_json::{Value, json};

    fn applied(form: Form, value: Value, patch: &Value) -> Result<Value, String> {
        let mut value = value;
        form.apply(&mut value, patch)
            .map(|()| value)
            .map_err(|problem| problem.message)
    }

    #[test]
    fn each_form_does_its_own_thing_with_lists() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "b"}], "x": [1]}});
        let strategic = json!({"spec": {"$setElementOrder/ports": [{"port": 80}], "x": [2],
            "ports": [{"port": 81, "$patch": "delete"}, {"port": 80, "name": "web"}, {"port": 82}]}});
        assert_eq!(
            applied(Form::Strategic, service.clone(), &strategic).unwrap(),
            json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 82}], "x": [2]}})
        );
        let merge = json!({"spec": {"ports": [{"port": 82}], "x": null}});
        assert_eq!(
            applied(Form::Merge, service.clone(), &merge).unwrap(),
            json!({"spec": {"ports": [{"port": 82}]}})
        );
        let patch = json!([{"op": "test", "path": "/spec/x/0", "value": 1}, {"op": "remove", "path": "/spec/ports"}]);
        assert_eq!(
            applied(Form::Json, service.clone(), &patch).unwrap(),
            json!({"spec": {"x": [1]}})
        );
        for (form, patch) in [
            (Form::Json, json!([{"op": "remove", "path": "/nothing"}])),
            (Form::Json, json!({"op": "remove"})),
            (Form::Merge, json!([1])),
            (
                Form::Strategic,
                json!({"spec": {"x": [{"$patch": "delete"}]}}),
            ),
            (
                Form::Strategic,
                json!({"spec": {"$deleteFromPrimitiveList/x": [1]}}),
            ),
        ] {
            assert!(
                applied(form, service.clone(), &patch).is_err(),
                "{form:?} {patch}"
            );
        }
    }

    #[test]
    fn server_side_apply_is_refused_in_words() {
        let refused = Form::of("application/apply-patch+yaml").unwrap_err();
        assert_eq!(refused.code, 415);
        assert!(refused.message.contains("server-side apply"));
        assert_eq!(
            Form::of("application/merge-patch+json; charset=utf-8"),
            Ok(Form::Merge)
        );
    }
}
