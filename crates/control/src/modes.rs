//! Modes that are on: what they lay over the objects, when they end, what is said of them.
//!
//! That a mode is on is a record of the log (who wanted it, for which incident, until when), its end an event as well;
//! so it survives a restart, and so does its end. The patches are applied to a copy of the snapshot before a world is
//! built from it ([`overlay`], pure): compiler, proxies and explanations know nothing of modes, and when one ends there
//! is nothing to take back. What was approved is one generation of the object: a Mode that is changed while it is on
//! ends.
//!
//! Not here: who may switch (`apiserver::modes`).

use crate::registry::Millis;
use naka_api::own::mode::Patch;
use naka_api::{Object, codes, decode_json, merge_patch};
use naka_store::{Draft, Snapshot, rfc3339};
use naka_types::finding::Finding;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Record kind; the id is `<namespace>/<name>` of the Mode.
pub const RECORD: &str = "mode";
/// How often ends are looked at.
pub const TICK: Duration = Duration::from_millis(200);
/// How long a mode waits for approvals.
pub const PATIENCE_MS: u64 = 15 * 60 * 1000;
const ACTOR: &str = "system";

/// That somebody wants a mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Of the Mode object as it was approved.
    pub uid: String,
    /// The same.
    pub generation: u64,
    /// Id of the incident; empty if none was asked for.
    pub incident: String,
    /// Why.
    pub why: String,
    /// Who wants it, in the order in which they said so.
    pub approvals: Vec<String>,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_ms: u64,
    /// How long it is to be on.
    pub for_ms: u64,
    /// When it ends, in milliseconds since 1970; `None`: it waits for approvals.
    pub until_ms: Option<u64>,
}

impl Switch {
    /// That of a record.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        serde_json::from_value(value.clone()).ok()
    }

    fn is_of(&self, object: &Object) -> bool {
        self.uid == object.meta.uid && self.generation == object.meta.generation
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| now_ms < until)
    }

    /// Whether it waits for approvals.
    #[must_use]
    pub fn waits(&self, now_ms: u64) -> bool {
        self.until_ms.is_none() && now_ms < self.asked_ms.saturating_add(PATIENCE_MS)
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The Mode of an id.
#[must_use]
pub fn object<'a>(snapshot: &'a Snapshot, id: &str) -> Option<&'a Arc<Object>> {
    let (namespace, name) = id.split_once('/')?;
    let reference = naka_types::name::ObjectRef {
        kind: naka_api::Kind::Mode.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let found = snapshot.objects.get(&reference)?;
    found.mode().map(|_| found)
}

/// Modes that are on, those asked for first before others.
fn on(snapshot: &Snapshot, now_ms: u64) -> Vec<(Switch, &Arc<Object>)> {
    let records = snapshot.records_of(RECORD);
    let mut all: Vec<(Switch, &Arc<Object>)> = records
        .filter_map(|(id, value)| {
            let switch = Switch::read(value)?;
            let object = object(snapshot, id)?;
            (switch.is_on(now_ms) && switch.is_of(object)).then_some((switch, object))
        })
        .collect();
    all.sort_by_key(|(switch, _)| switch.asked_ms);
    all
}

/// An object with a patch; why not, where that gives none that is sound.
///
/// # Errors
/// What the user is told.
pub fn patched(object: &Object, patch: &Patch) -> Result<Object, String> {
    let mut raw = object.raw.clone();
    merge_patch(&mut raw, &patch.merge);
    let (patched, findings) = decode_json(&raw, naka_api::Mode::Compat);
    if let Some(error) = findings.iter().find(|finding| finding.is_error()) {
        return Err(format!("{}: {}", error.field, error.message));
    }
    patched.ok_or_else(|| "it cannot be read".to_owned())
}

/// The snapshot with the patches of the modes that are on; `None` where nothing is.
#[must_use]
pub fn overlay(snapshot: &Snapshot, now_ms: u64) -> Option<Snapshot> {
    let on = on(snapshot, now_ms);
    if on.is_empty() {
        return None;
    }
    let mut laid = snapshot.clone();
    let objects = Arc::make_mut(&mut laid.objects);
    let modes = on.iter().filter_map(|(_, object)| object.mode());
    for patch in modes.flat_map(|mode| &mode.patches) {
        if let Some(there) = objects.get(&patch.target)
            && let Ok(other) = patched(there, patch)
        {
            objects.insert(patch.target.clone(), Arc::new(other));
        }
    }
    Some(laid)
}

/// Watches ends, by two clocks: a wall clock that is put back does not lengthen a mode.
#[derive(Debug, Default)]
pub struct Watch {
    /// When modes end by the clock that only goes on, by id and end.
    ends: BTreeMap<(String, u64), Millis>,
}

impl Watch {
    /// Drafts that end what has come to its end. `now` is of the clock that only goes on.
    pub fn ended(&mut self, snapshot: &Snapshot, now_ms: u64, now: Millis) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let mut known = BTreeMap::new();
        for (id, value) in snapshot.records_of(RECORD) {
            let switch = Switch::read(value);
            let own = switch
                .as_ref()
                .and_then(|s| Some((s.until_ms?, id.to_owned())));
            let mut over = false;
            if let Some((until, id)) = own {
                let key = (id, until);
                let left = Millis::try_from(until.saturating_sub(now_ms)).unwrap_or(Millis::MAX);
                let end = self.ends.get(&key).copied();
                let end = end.unwrap_or_else(|| now.saturating_add(left));
                over = now >= end;
                known.insert(key, end);
            }
            let said = match &switch {
                None => Some(("mode.end", "it cannot be read")),
                Some(switch) => match object(snapshot, id) {
                    None => Some(("mode.end", "its object is gone")),
                    Some(object) if !switch.is_of(object) => {
                        Some(("mode.end", "its object was changed"))
                    }
                    Some(_) if switch.waits(now_ms) => None,
                    Some(_) if switch.until_ms.is_none() => {
                        Some(("mode.lapse", "too few approved in time"))
                    }
                    Some(_) if over || !switch.is_on(now_ms) => {
                        Some(("mode.end", "its time is over"))
                    }
                    Some(_) => None,
                },
            };
            if let Some((kind, cause)) = said {
                drafts.push(Draft::record(ACTOR, cause, kind, RECORD, id, None));
            }
        }
        self.ends = known;
        drafts
    }
}

/// What is said of modes that are on.
#[must_use]
pub fn findings(snapshot: &Snapshot, now_ms: u64) -> Vec<Finding> {
    let mut all = Vec::new();
    for (switch, object) in on(snapshot, now_ms) {
        let Some(mode) = object.mode() else {
            continue;
        };
        let targets: Vec<String> = mode.patches.iter().map(|p| p.target.to_string()).collect();
        let incident = match switch.incident.as_str() {
            "" => String::new(),
            id => format!(" for incident {id}"),
        };
        let message = format!(
            "this mode is on until {}{incident} ({}), wanted by {}; it changes {}; {} answers for it",
            rfc3339(switch.until_ms.unwrap_or_default()),
            switch.why,
            switch.approvals.join(" and "),
            targets.join(", "),
            mode.owner,
        );
        let meta = &object.meta;
        let fix = format!("naka mode off {} -n {}", meta.name, meta.namespace);
        let finding = Finding::new(codes::W975.id, message);
        all.push(finding.on(object.reference()).fix(fix));
        for (index, patch) in mode.patches.iter().enumerate() {
            let why = match snapshot.objects.get(&patch.target) {
                None => Some("it does not exist".to_owned()),
                Some(there) => patched(there, patch).err(),
            };
            all.extend(why.map(|why| {
                let message = format!("{} stays as it is stored: {why}", patch.target);
                let finding = Finding::new(codes::W976.id, message);
                let at = format!("spec.patches[{index}]");
                finding.on(object.reference()).at(&at)
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests;
