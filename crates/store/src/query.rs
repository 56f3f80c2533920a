//! Questions to the log: events, history, the state of then, what would take a change back.

use crate::Error;
use crate::cut;
use crate::event::{Draft, Event, Filter};
use crate::fold::{Folded, Snapshot};
use crate::log::{Span, line_hash, lines};
use crate::plan::revision_of;
use crate::store::Store;
use crate::verify::Head;
use naka_types::name::ObjectRef;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

impl Store {
    /// Events whose sequence number is in `range` and that match, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn events(
        &self,
        range: RangeInclusive<u64>,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let mut found = Vec::new();
        let (file, spans) = self.spans(*range.start());
        for span in spans {
            for event in read(&file, span)? {
                if event.seq > *range.end() || found.len() >= limit {
                    return Ok(found);
                }
                if range.contains(&event.seq) && filter.matches(&event) {
                    found.push(event);
                }
            }
        }
        Ok(found)
    }

    /// Events from a sequence number on with the hashes of their stored lines, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn page(&self, from: u64, limit: usize) -> Result<Vec<(Head, Event)>, Error> {
        let mut found = Vec::new();
        let (file, spans) = self.spans(from);
        for span in spans {
            let payload = payload(&file, span)?;
            for line in lines(&payload) {
                if found.len() >= limit {
                    return Ok(found);
                }
                let event: Event = parsed(line, span)?;
                if event.seq >= from {
                    let head = Head {
                        seq: event.seq,
                        hash: line_hash(line),
                    };
                    found.push((head, event));
                }
            }
        }
        Ok(found)
    }

    /// The newest events that match, newest first, at most `limit`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn history(&self, filter: &Filter, limit: usize) -> Result<Vec<Arc<Event>>, Error> {
        let mut found = Vec::new();
        let (file, spans) = self.spans(0);
        for span in spans.into_iter().rev() {
            for event in read(&file, span)?.into_iter().rev() {
                if found.len() >= limit {
                    return Ok(found);
                }
                if filter.matches(&event) {
                    found.push(event);
                }
            }
        }
        Ok(found)
    }

    /// Events after `revision`, for watches; only what is held in memory.
    ///
    /// # Errors
    /// [`Error::Gone`] when some of them are not held any more, [`Error::NoSuchRevision`] for the future.
    pub fn since(&self, revision: u64) -> Result<Vec<Arc<Event>>, Error> {
        let recent = self
            .shared
            .recent
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if revision < recent.gone {
            return Err(Error::Gone {
                asked: revision,
                oldest: recent.gone,
            });
        }
        let last = recent
            .events
            .back()
            .map_or(recent.gone, |(event, _)| event.seq);
        if revision > last {
            return Err(Error::NoSuchRevision(revision));
        }
        let skip = usize::try_from(revision - recent.gone).unwrap_or(usize::MAX);
        Ok(recent
            .events
            .iter()
            .skip(skip)
            .map(|(event, _)| event.clone())
            .collect())
    }

    /// The state as it was after the commit that holds `revision`; 0 is the empty state.
    ///
    /// # Errors
    /// [`Error::NoSuchRevision`] for the future, or when the log cannot be read.
    pub fn at(&self, revision: u64) -> Result<Snapshot, Error> {
        let now = self.snapshot();
        if revision == now.revision {
            return Ok(now.as_ref().clone());
        }
        if revision > now.revision {
            return Err(Error::NoSuchRevision(revision));
        }
        let (mut folded, file, spans) = self.whole()?;
        if revision < folded.revision {
            return Err(Error::Outlived {
                asked: revision,
                oldest: folded.revision,
            });
        }
        for span in spans {
            if folded.revision >= revision {
                break;
            }
            for event in read(&file, span)? {
                folded.apply(&event);
            }
        }
        Ok(folded.decode())
    }

    /// Drafts that take back what the commit of `revision` did to objects.
    ///
    /// # Errors
    /// [`Error::UndoConflict`] when a later change touched one of the objects, [`Error::NothingToUndo`] when it
    /// changed none, [`Error::NoSuchRevision`] when there is no such commit.
    pub fn undo(&self, revision: u64, actor: &str, cause: &str) -> Result<Vec<Draft>, Error> {
        let start = self.start();
        if revision > 0 && revision <= start.seq {
            return Err(Error::Outlived {
                asked: revision,
                oldest: start.seq + 1,
            });
        }
        let (file, spans) = self.spans(revision);
        let Some((own, later)) = spans.split_first().filter(|_| revision > 0) else {
            return Err(Error::NoSuchRevision(revision));
        };
        // Of several events about one object the first knows what was there before the commit.
        let mut first: BTreeMap<ObjectRef, Arc<Event>> = BTreeMap::new();
        let mut order = Vec::new();
        for event in read(&file, *own)?
            .into_iter()
            .filter(|event| event.is_object())
        {
            if let Some(object) = event.object.clone()
                && !first.contains_key(&object)
            {
                order.push(object.clone());
                first.insert(object, event);
            }
        }
        if order.is_empty() {
            return Err(Error::NothingToUndo(revision));
        }
        for span in later {
            for event in read(&file, *span)? {
                if let Some(object) = event
                    .object
                    .as_ref()
                    .filter(|o| event.is_object() && first.contains_key(o))
                {
                    return Err(Error::UndoConflict {
                        revision,
                        later: event.revision,
                        actor: event.actor.clone(),
                        object: object.clone(),
                    });
                }
            }
        }
        let now = self.snapshot();
        let drafts = order.into_iter().rev().filter_map(|object| {
            let current = now.value(&object).map(revision_of);
            let draft = match (first.get(&object)?.before.clone(), current) {
                (Some(before), _) => Draft::put(actor, cause, object, before),
                (None, Some(_)) => Draft::delete(actor, cause, object),
                (None, None) => return None,
            };
            Some(draft.expecting(Some(current.unwrap_or(0))))
        });
        Ok(drafts.collect())
    }

    /// The newest commit that changed an object.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_change(&self) -> Result<Option<u64>, Error> {
        let (file, spans) = self.spans(0);
        for span in spans.into_iter().rev() {
            if read(&file, span)?.iter().any(|event| event.is_object()) {
                return Ok(Some(span.last));
            }
        }
        Ok(None)
    }

    /// The last event that went by its age; the default where none did.
    #[must_use]
    pub fn start(&self) -> Head {
        let written = self.shared.written.read();
        written.unwrap_or_else(PoisonError::into_inner).start
    }

    /// The state that the log begins with, and all records.
    fn whole(&self) -> Result<(Folded, Arc<File>, Vec<Span>), Error> {
        let attempt = || {
            let start = self.start();
            let (file, spans) = self.spans(0);
            cut::base(&self.dir, start).map(|folded| (folded, file, spans))
        };
        // Between the two looks more may have gone; the second look is at the log of after.
        attempt().or_else(|_| attempt())
    }

    /// Records that hold `from` or anything later, and the file they lie in.
    fn spans(&self, from: u64) -> (Arc<File>, Vec<Span>) {
        let written = self.shared.written.read();
        let written = written.unwrap_or_else(PoisonError::into_inner);
        let start = written.spans.partition_point(|span| span.last < from);
        (Arc::clone(&written.file), written.spans[start..].to_vec())
    }
}

/// The events of one record of a log.
pub(crate) fn read(file: &File, span: Span) -> Result<Vec<Arc<Event>>, Error> {
    let payload = payload(file, span)?;
    lines(&payload)
        .map(|line| parsed(line, span).map(Arc::new))
        .collect()
}

fn payload(file: &File, span: Span) -> Result<Vec<u8>, Error> {
    let mut payload = vec![0; span.length as usize];
    file.read_exact_at(&mut payload, span.offset)
        .map_err(|error| Error::io("reading the log", error))?;
    Ok(payload)
}

fn parsed(line: &[u8], span: Span) -> Result<Event, Error> {
    serde_json::from_slice(line)
        .map_err(|error| Error::Invalid(format!("event before {}: {error}", span.last)))
}
