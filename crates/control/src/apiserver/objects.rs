//! Kubernetes verbs on objects.

use super::answer::{Outcome, Problem, json_with, ok};
use super::auth::Role;
use super::dispatch::Call;
use super::select::Selector;
use super::{body, table};
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use naka_api::{Kind, Mode, Object};
use naka_identity::now_s;
use naka_store::{Action, Draft, Error as StoreError, Event, Snapshot, redact};
use naka_types::finding::Finding;
use naka_types::host::{DEFAULT_NAMESPACE, ROOT_NAMESPACE};
use naka_types::name::ObjectRef;
use serde_json::{Map, Value, json};
use std::sync::Arc;

mod patch;

/// Times a patch is tried anew when somebody else was faster.
const PATCH_TRIES: usize = 8;

/// A collection: a kind, in one namespace or everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
}

/// One object's place.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    pub(crate) object: ObjectRef,
}

impl Item {
    pub(crate) fn new(kind: Kind, version: String, namespace: String, name: String) -> Self {
        let object = ObjectRef {
            kind: kind.as_str().to_owned(),
            namespace,
            name,
        };
        Self {
            kind,
            version,
            object,
        }
    }

    /// Namespace a role must hold in: a Namespace belongs to the whole mesh.
    fn scope(&self) -> &str {
        &self.object.namespace
    }

    fn missing(&self) -> Problem {
        let names = self.kind.names();
        let plural = if names.group.is_empty() {
            names.plural.to_owned()
        } else {
            format!("{}.{}", names.plural, names.group)
        };
        Problem::not_found(format!("{plural} {:?} not found", self.object.name)).about(&self.object)
    }
}

impl Place {
    /// Whether an object is in it.
    pub(crate) fn holds(&self, object: &ObjectRef) -> bool {
        object.kind == self.kind.as_str()
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == object.namespace)
    }

    /// Checks that the caller may read it.
    pub(crate) fn readable(&self, call: &Call) -> Outcome<()> {
        let scope = self.namespace.as_deref().unwrap_or("");
        call.subject.need(
            Role::Viewer,
            scope,
            &format!("read {}", self.kind.names().plural),
        )
    }
}

/// The form an object leaves in: the version asked for, no secret values.
pub(crate) fn shown(kind: Kind, version: &str, value: &Value) -> Value {
    let mut value = value.clone();
    redact(&mut value);
    let group = kind.names().group;
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(api_version));
        map.insert("kind".to_owned(), json!(kind.manifest()));
    }
    value
}

/// Objects of a place that match, in order.
pub(crate) fn select<'a>(
    snapshot: &'a Snapshot,
    place: &'a Place,
    selector: &'a Selector,
) -> Vec<&'a Value> {
    snapshot
        .values()
        .filter(|(key, value)| place.holds(key) && selector.matches(value))
        .map(|(_, value)| value)
        .collect()
}

/// The state a read is about: now, or then (`?at=`).
fn state_for(call: &Call) -> Outcome<Arc<Snapshot>> {
    match call.number("at")? {
        Some(revision) => Ok(Arc::new(call.state.store.at(revision)?)),
        None => Ok(call.state.store.snapshot()),
    }
}

/// `GET` of a collection.
pub(crate) fn list(call: &Call, place: &Place) -> Outcome {
    place.readable(call)?;
    let selector = Selector::of(&call.query)?;
    let snapshot = state_for(call)?;
    let items: Vec<Value> = select(&snapshot, place, &selector)
        .into_iter()
        .map(|value| shown(place.kind, &place.version, value))
        .collect();
    if table::wanted(call.header(header::ACCEPT)) {
        return Ok(ok(&table::table(
            place.kind,
            &items,
            snapshot.revision,
            now_s(),
        )));
    }
    let group = place.kind.names().group;
    let api_version = if group.is_empty() {
        place.version.clone()
    } else {
        format!("{group}/{}", place.version)
    };
    Ok(ok(&json!({
        "kind": format!("{}List", place.kind.manifest()), "apiVersion": api_version,
        "metadata": {"resourceVersion": snapshot.revision.to_string()}, "items": items,
    })))
}

/// `GET` of an object or its status.
pub(crate) async fn get(call: &Call, item: &Item, status: bool) -> Outcome {
    call.subject.need(
        Role::Viewer,
        item.scope(),
        &format!("read {}", item.kind.names().plural),
    )?;
    let snapshot = state_for(call)?;
    let mut value = match snapshot.value(&item.object) {
        Some(value) => shown(item.kind, &item.version, value),
        None => return Err(item.missing()),
    };
    if table::wanted(call.header(header::ACCEPT)) {
        return Ok(ok(&table::table(
            item.kind,
            &[value],
            snapshot.revision,
            now_s(),
        )));
    }
    // Conditions belong to now; what they were then is not kept.
    if call.param("at").is_empty()
        && (status || item.kind != Kind::Secret && item.kind != Kind::Namespace)
    {
        let live = call.state.live.status_of(item.object.clone()).await;
        if status || !live.conditions.is_empty() {
            value["status"] =
                json!({"conditions": live.conditions, "observedRevision": live.revision});
        }
    }
    Ok(ok(&value))
}

/// `POST` to a collection.
pub(crate) async fn create(call: &Call, place: &Place, body: Body) -> Outcome {
    let scope = place.namespace.clone().unwrap_or_default();
    if place.kind.namespaced() && place.namespace.is_none() {
        return Err(Problem::bad_request(
            "an object is created in a namespace: POST to …/namespaces/<ns>/…",
        ));
    }
    call.subject.need(
        write_role(place.kind),
        &scope,
        &format!("create {}", place.kind.names().plural),
    )?;
    let mut value = body::json(call.header(header::CONTENT_TYPE), body).await?;
    name_generated(&mut value);
    let (object, findings) = decode(call, place.kind, &scope, None, &value)?;
    let draft = Draft::put(
        &call.subject.name,
        &cause(call),
        object.reference(),
        object.raw.clone(),
    )
    .expecting(Some(0));
    write(
        call,
        place.kind,
        &place.version,
        draft,
        &findings,
        StatusCode::CREATED,
    )
    .await
}

/// `PUT` of an object: creates it when there is none, as Kubernetes does for custom resources.
pub(crate) async fn replace(call: &Call, item: &Item, body: Body) -> Outcome {
    call.subject.need(
        write_role(item.kind),
        item.scope(),
        &format!("change {}", item.kind.names().plural),
    )?;
    let value = body::json(call.header(header::CONTENT_TYPE), body).await?;
    let (object, findings) = decode(
        call,
        item.kind,
        item.scope(),
        Some(&item.object.name),
        &value,
    )?;
    let expect = expected(&value)?;
    check_uid(call, item, &value)?;
    let there = call.state.store.snapshot().value(&item.object).is_some();
    let code = if there {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let draft = Draft::put(
        &call.subject.name,
        &cause(call),
        item.object.clone(),
        object.raw,
    )
    .expecting(expect);
    write(call, item.kind, &item.version, draft, &findings, code).await
}

/// `PATCH` of an object.
pub(crate) async fn patch(call: &Call, item: &Item, body: Body) -> Outcome {
    call.subject.need(
        write_role(item.kind),
        item.scope(),
        &format!("change {}", item.kind.names().plural),
    )?;
    let form = patch::Form::of(call.header(header::CONTENT_TYPE))?;
    let change = body::parse(&body::bytes(body).await?)?;
    for attempt in 1.. {
        let snapshot = call.state.store.snapshot();
        let Some(stored) = snapshot.value(&item.object) else {
            return Err(item.missing());
        };
        // Patches work on what the caller sees. Placeholders of secret values keep the values.
        let mut value = shown(item.kind, &item.version, stored);
        let seen = expected(&value)?;
        form.apply(&mut value, &change)?;
        let asked = expected(&value)?;
        let (object, findings) = decode(
            call,
            item.kind,
            item.scope(),
            Some(&item.object.name),
            &value,
        )?;
        check_uid(call, item, &value)?;
        let own_words = asked != seen;
        let draft = Draft::put(
            &call.subject.name,
            &cause(call),
            item.object.clone(),
            object.raw,
        )
        .expecting(asked);
        match write(
            call,
            item.kind,
            &item.version,
            draft,
            &findings,
            StatusCode::OK,
        )
        .await
        {
            Err(problem) if problem.reason == "Conflict" && !own_words && attempt < PATCH_TRIES => {
            }
            other => return other,
        }
    }
    Err(Problem::conflict(
        "the object changes faster than it can be patched; try again",
    ))
}

/// `DELETE` of an object. A Namespace takes everything in it along, in the same commit.
pub(crate) async fn delete(call: &Call, item: &Item, body: Body) -> Outcome {
    call.subject.need(
        write_role(item.kind),
        item.scope(),
        &format!("delete {}", item.kind.names().plural),
    )?;
    let lasting = [DEFAULT_NAMESPACE, ROOT_NAMESPACE];
    if item.kind == Kind::Namespace && lasting.contains(&item.object.name.as_str()) {
        return Err(Problem::forbidden("this namespace may not be deleted").about(&item.object));
    }
    let options: Value = body::shaped(body).await?;
    let snapshot = call.state.store.snapshot();
    let Some(stored) = snapshot.value(&item.object) else {
        return Err(item.missing());
    };
    let uid = stored.pointer("/metadata/uid").cloned().unwrap_or_default();
    let wanted = options.get("preconditions").cloned().unwrap_or_default();
    if wanted.get("uid").is_some_and(|wanted| *wanted != uid) {
        return Err(
            Problem::conflict("the uid in the preconditions is not that of the object")
                .about(&item.object),
        );
    }
    let expect = match wanted.get("resourceVersion").and_then(Value::as_str) {
        Some(text) => Some(
            text.parse()
                .map_err(|_| Problem::bad_request("resourceVersion is not a number"))?,
        ),
        None => None,
    };
    let mut drafts = vec![
        Draft::delete(&call.subject.name, &cause(call), item.object.clone()).expecting(expect),
    ];
    if item.kind == Kind::Namespace {
        let inside = snapshot.objects.keys().chain(snapshot.unreadable.keys());
        let inside = inside.filter(|object| object.namespace == item.object.name);
        drafts.extend(
            inside.map(|object| Draft::delete(&call.subject.name, &cause(call), object.clone())),
        );
    }
    let dry = call.param("dryRun") == "All" || options.pointer("/dryRun/0").is_some();
    if dry {
        call.state.store.preview(drafts)?;
    } else {
        call.state.store.commit(drafts).await?;
    }
    let names = item.kind.names();
    Ok(ok(
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": item.object.name, "group": names.group, "kind": names.plural, "uid": uid}}),
    ))
}

/// `DELETE` of a collection.
pub(crate) async fn delete_all(call: &Call, place: &Place) -> Outcome {
    let scope = place.namespace.clone().unwrap_or_default();
    if place.namespace.is_none() {
        return Err(Problem::no_method(&call.method, &call.path).explained("name a namespace"));
    }
    call.subject.need(
        write_role(place.kind),
        &scope,
        &format!("delete {}", place.kind.names().plural),
    )?;
    let selector = Selector::of(&call.query)?;
    let snapshot = call.state.store.snapshot();
    let found: Vec<ObjectRef> = snapshot
        .objects
        .iter()
        .filter(|(key, object)| place.holds(key) && selector.matches(&object.raw))
        .map(|(key, _)| key.clone())
        .collect();
    let drafts = found
        .into_iter()
        .map(|object| Draft::delete(&call.subject.name, &cause(call), object))
        .collect();
    if call.param("dryRun") != "All" {
        call.state.store.commit(drafts).await?;
    }
    Ok(ok(
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
    ))
}

/// Commits one draft and answers with the object as it now is.
async fn write(
    call: &Call,
    kind: Kind,
    version: &str,
    draft: Draft,
    findings: &[Finding],
    code: StatusCode,
) -> Outcome {
    let object = draft
        .object
        .clone()
        .unwrap_or_else(|| Item::new(kind, String::new(), String::new(), String::new()).object);
    let of = |snapshot: &Snapshot| {
        snapshot
            .value(&object)
            .map(|value| shown(kind, version, value))
    };
    let value = if call.param("dryRun") == "All" {
        of(&call.state.store.preview(vec![draft])?.after)
    } else {
        let commit = call.state.store.commit(vec![draft]).await?;
        match (commit.actions.first(), commit.events.first()) {
            (Some(Action::Unchanged), _) | (_, None) => of(&call.state.store.snapshot()),
            // What this call wrote, even if somebody has changed it again since.
            (_, Some(event)) => after(event).map(|value| shown(kind, version, &value)),
        }
    };
    let value = value.ok_or_else(|| Problem::from(StoreError::NotFound(object.clone())))?;
    let mut response = json_with(code, &value);
    warn(&mut response, findings);
    Ok(response)
}

/// An event's object with its resourceVersion.
pub(crate) fn after(event: &Event) -> Option<Value> {
    let mut value = event.after.clone().or_else(|| event.before.clone())?;
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("resourceVersion".to_owned(), json!(event.seq.to_string()));
    }
    Some(value)
}

/// Findings go back as `Warning` headers, which kubectl prints.
fn warn(response: &mut Response, findings: &[Finding]) {
    for finding in findings {
        let text: String = finding
            .to_string()
            .chars()
            .map(|c| {
                if c == '"' || c == '\\' || !(' '..='~').contains(&c) {
                    '\''
                } else {
                    c
                }
            })
            .take(400)
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Decodes a body as an object of this place.
fn decode(
    call: &Call,
    kind: Kind,
    namespace: &str,
    name: Option<&str>,
    value: &Value,
) -> Outcome<(Object, Vec<Finding>)> {
    let mut value = value.clone();
    let Some(map) = value.as_object_mut() else {
        return Err(Problem::bad_request("the body is not an object"));
    };
    map.remove("status");
    let said = map
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or(kind.manifest());
    if said != kind.manifest() {
        return Err(Problem::bad_request(format!(
            "the body is a {said}, the path is for {}",
            kind.names().plural
        )));
    }
    map.insert("kind".to_owned(), json!(kind.manifest()));
    map.entry("apiVersion")
        .or_insert_with(|| json!(kind.api_version()));
    let meta = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let (Some(meta), Some(name)) = (meta.as_object_mut(), name) {
        meta.entry("name").or_insert_with(|| json!(name));
    }
    let (object, findings) = naka_api::decode_json_in(&value, Mode::Compat, namespace);
    // kubectl asks for `Strict`: then nothing may be left out, where else the sound rest is taken with a warning.
    let strict =
        call.param("fieldValidation") == "Strict" && findings.iter().any(Finding::is_error);
    let Some(object) = object.filter(|_| !strict) else {
        let name = name
            .or_else(|| value.pointer("/metadata/name").and_then(Value::as_str))
            .unwrap_or("");
        let item = Item::new(kind, String::new(), namespace.to_owned(), name.to_owned());
        return Err(Problem::invalid(&format!("{kind} {name:?}"), &findings).about(&item.object));
    };
    if object.meta.namespace != namespace || name.is_some_and(|name| name != object.meta.name) {
        return Err(Problem::bad_request(format!(
            "the body names {}/{}, the path {namespace}/{}",
            object.meta.namespace,
            object.meta.name,
            name.unwrap_or(&object.meta.name)
        )));
    }
    Ok((object, findings))
}

/// `generateName` is answered with a name, as in Kubernetes.
fn name_generated(value: &mut Value) {
    let meta = value.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(meta) = meta.filter(|meta| !meta.contains_key("name"))
        && let Some(stem) = meta.get("generateName").and_then(Value::as_str)
    {
        let tail: String = naka_identity::random_bytes::<5>()
            .iter()
            .map(|b| char::from(b'a' + b % 26))
            .collect();
        let name = format!("{stem}{tail}");
        meta.insert("name".to_owned(), json!(name));
        meta.remove("generateName");
    }
}

/// The resourceVersion a body was made from; absent = whatever is there.
fn expected(value: &Value) -> Outcome<Option<u64>> {
    match value
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
    {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Problem::bad_request(format!(
                "resourceVersion {text:?} is not one of this server"
            ))
        }),
    }
}

/// A body that names another uid was made for an object of the same name that is gone.
fn check_uid(call: &Call, item: &Item, value: &Value) -> Outcome<()> {
    let said = value
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .filter(|uid| !uid.is_empty());
    let snapshot = call.state.store.snapshot();
    let have = snapshot
        .value(&item.object)
        .and_then(|value| value.pointer("/metadata/uid"))
        .and_then(Value::as_str);
    match (said, have) {
        (Some(said), Some(have)) if said != have => Err(Problem::conflict(format!(
            "{} has uid {have}, not {said}",
            item.object
        ))
        .about(&item.object)),
        _ => Ok(()),
    }
}

/// Namespaces belong to the whole mesh, so only an admin makes or removes them.
pub(crate) fn write_role(kind: Kind) -> Role {
    if matches!(kind, Kind::Namespace | Kind::Rollout) {
        Role::Admin
    } else {
        Role::Operator
    }
}

/// What goes into the log as the cause: the client's own words, else which client.
fn cause(call: &Call) -> String {
    match call.param("cause") {
        "" => {
            let agent = call.header(header::USER_AGENT);
            agent
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .chars()
                .take(80)
                .collect()
        }
        cause => cause.chars().take(500).collect(),
    }
}
