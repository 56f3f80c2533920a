//! What a look at the directory means for the objects: which to put, which to delete, which to leave alone. Pure.
//!
//! An object is deleted only when it is certain that its file no longer holds it: not when a file cannot be read, not
//! when it is there but broken, and not many at once. Directories vanish by accident (a volume not mounted, a checkout
//! half done) more often than on purpose.

use super::scan::View;
use naka_api::codes;
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// A look that would delete more than this share of what the directory owns is held.
const MOST_DELETED_PERCENT: usize = 30;

/// An object the directory has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Where it stands, `file:line`.
    pub(super) place: String,
    /// What was stored; `None` when that was before this process began.
    pub(super) digest: Option<u64>,
}

/// Objects the directory owns.
pub(super) type Owns = BTreeMap<ObjectRef, Given>;

/// One object to store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) object: ObjectRef,
    pub(super) file: PathBuf,
    pub(super) given: Given,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) puts: Vec<Put>,
    pub(super) deletes: Vec<ObjectRef>,
    /// Deletions that wait to be released, by this id.
    pub(super) held: Option<(String, Vec<ObjectRef>)>,
    /// Objects that only moved.
    pub(super) moved: Vec<(ObjectRef, String)>,
    pub(super) findings: Vec<Finding>,
}

/// Decides. `released` is the id of held deletions that somebody let go.
pub(super) fn decide(
    views: &BTreeMap<PathBuf, View>,
    owns: &Owns,
    released: Option<&str>,
) -> Decision {
    let mut decision = Decision::default();
    let refused: BTreeSet<&str> = views
        .values()
        .flat_map(|view| view.refused.iter().map(String::as_str))
        .collect();
    let mut found: BTreeMap<&ObjectRef, Vec<Place<'_>>> = BTreeMap::new();
    for (file, view) in views {
        decision.findings.extend(view.findings.iter().cloned());
        for seen in &view.objects {
            found.entry(&seen.object).or_default().push(Place {
                file,
                line: seen.line,
                digest: seen.digest,
            });
        }
    }
    for finding in &mut decision.findings {
        let stays = owns
            .keys()
            .any(|object| object.to_string() == finding.object);
        if stays && refused.contains(finding.object.as_str()) {
            finding
                .message
                .push_str("; its last good version stays in force");
        }
    }
    for (object, places) in &found {
        decision.one(object, places, owns.get(*object));
    }
    let gone: Vec<ObjectRef> = owns
        .keys()
        .filter(|object| {
            !found.contains_key(object) && !refused.contains(object.to_string().as_str())
        })
        .cloned()
        .collect();
    decision.gone(gone, views, owns.len(), released);
    decision
}

struct Place<'a> {
    file: &'a PathBuf,
    line: u32,
    digest: u64,
}

impl Place<'_> {
    fn shown(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

impl Decision {
    /// An object that is there, in one place or several.
    fn one(&mut self, object: &ObjectRef, places: &[Place<'_>], given: Option<&Given>) {
        let Some(first) = places.first() else {
            return;
        };
        if let Some(second) = places.get(1) {
            let differ = places.iter().any(|place| place.digest != first.digest);
            let (code, what) = if differ {
                (codes::E961, "different versions of it")
            } else {
                (codes::W960, "the same version of it")
            };
            let others: Vec<String> = places[1..].iter().map(Place::shown).collect();
            let stays = match (differ, given) {
                (false, _) => "",
                (true, Some(_)) => "; its last good version stays in force",
                (true, None) => "; neither is in force",
            };
            let message = format!(
                "{} and {} hold {what}{stays}",
                first.shown(),
                others.join(", ")
            );
            let mut finding = Finding::new(code.id, message)
                .on(object)
                .fix("keep one of them");
            finding.file = second.file.display().to_string();
            finding.line = second.line;
            self.findings.push(finding);
            if differ {
                return;
            }
        }
        let place = first.shown();
        match given {
            Some(given) if given.digest == Some(first.digest) => {
                if given.place != place {
                    self.moved.push((object.clone(), place));
                }
            }
            _ => self.puts.push(Put {
                object: object.clone(),
                file: first.file.clone(),
                given: Given {
                    place,
                    digest: Some(first.digest),
                },
            }),
        }
    }

    /// Objects that are in no file.
    fn gone(
        &mut self,
        gone: Vec<ObjectRef>,
        views: &BTreeMap<PathBuf, View>,
        owned: usize,
        released: Option<&str>,
    ) {
        let Some(first) = gone.first() else {
            return;
        };
        let named = match gone.len() - 1 {
            0 => first.to_string(),
            more => format!("{first} and {more} more"),
        };
        if let Some((file, _)) = views.iter().find(|(_, view)| view.broken) {
            let message = format!(
                "{named} stay in force: {} cannot be read and may hold them",
                file.display()
            );
            let mut finding = Finding::new(codes::W962.id, message).fix("correct that file");
            finding.file = file.display().to_string();
            self.findings.push(finding);
            return;
        }
        let id = id(&gone);
        let many = gone.len() * 100 > owned * MOST_DELETED_PERCENT;
        if many && released != Some(id.as_str()) {
            let message = format!(
                "{} of {owned} objects are in no file any more ({named}); more than {MOST_DELETED_PERCENT} % at once is not believed, so they stay",
                gone.len()
            );
            let finding = Finding::new(codes::W961.id, message).fix(format!(
                "bring the files back, or delete the objects with: naka confirm {id}"
            ));
            self.findings.push(finding);
            self.held = Some((id, gone));
        } else {
            self.deletes = gone;
        }
    }
}

/// Name of a set of deletions: another set has another name, so nobody releases what he has not seen.
fn id(gone: &[ObjectRef]) -> String {
    let mut hasher = DefaultHasher::new();
    for object in gone {
        object.to_string().hash(&mut hasher);
    }
    format!("dir-{:08x}", hasher.finish() & 0xffff_ffff)
}

#[cfg(test)]
mod tests;
