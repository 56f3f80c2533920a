//! Compiled resources that somebody holds, kept current as worlds follow each other.
//!
//! A resource is compiled when the first subscriber of a scope holds it and forgotten when the last one lets go, so
//! memory follows what is called, not the size of the mesh. A new world recompiles what read something that differs;
//! only resources whose version or references came out different are reported.

use crate::compile::{Class, Compiled, Key, compile};
use crate::push::SubscriberId;
use crate::world::{Read, World};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Shared by everything that points at an entry: with a thousand subscribers most of this cache is such pointers.
type Slot = Arc<(Key, Class)>;

#[derive(Debug)]
struct Entry {
    slot: Slot,
    compiled: Arc<Compiled>,
    holders: BTreeSet<SubscriberId>,
}

/// The cache with its world.
#[derive(Debug, Default)]
pub struct Cache {
    world: Arc<World>,
    entries: BTreeMap<Slot, Entry>,
    readers: BTreeMap<Read, BTreeSet<Slot>>,
    held: BTreeMap<SubscriberId, BTreeSet<Slot>>,
}

/// What a new world changed.
#[derive(Debug, Default)]
pub struct Change {
    /// Resources that came out different, with who holds them.
    pub keys: Vec<(Key, BTreeSet<SubscriberId>)>,
    /// What differs between the worlds.
    pub reads: BTreeSet<Read>,
}

impl Cache {
    /// The current world.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Takes the next world.
    pub fn advance(&mut self, world: Arc<World>) -> Change {
        let reads = self.world.changes(&world);
        self.world = world;
        let stale: BTreeSet<Slot> = reads
            .iter()
            .filter_map(|read| self.readers.get(read))
            .flatten()
            .cloned()
            .collect();
        let mut keys = Vec::new();
        for slot in stale {
            let mut fresh = compile(&self.world, &slot.0, &slot.1);
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            // Streams share these; equal ones stay the same ones.
            fresh.name = Arc::clone(&entry.compiled.name);
            if version(&entry.compiled) == version(&fresh) {
                fresh.resource.clone_from(&entry.compiled.resource);
            }
            let old = std::mem::replace(&mut entry.compiled, Arc::new(fresh));
            let same =
                version(&old) == version(&entry.compiled) && old.refers == entry.compiled.refers;
            if !same {
                keys.push((slot.0.clone(), entry.holders.clone()));
            }
            if old.reads != entry.compiled.reads {
                let new = entry.compiled.reads.clone();
                self.unindex(&slot, &old.reads);
                self.index(&slot, &new);
            }
        }
        Change { keys, reads }
    }

    /// Lets a subscriber hold a resource and returns it.
    pub fn hold(&mut self, id: SubscriberId, key: &Key, class: &Class) -> Arc<Compiled> {
        let slot = (key.clone(), key.scope(class));
        if let Some(entry) = self.entries.get_mut(&slot) {
            let compiled = Arc::clone(&entry.compiled);
            if entry.holders.insert(id) {
                let slot = Arc::clone(&entry.slot);
                self.held.entry(id).or_default().insert(slot);
            }
            return compiled;
        }
        let slot = Arc::new(slot);
        let compiled = Arc::new(compile(&self.world, key, &slot.1));
        self.index(&slot, &compiled.reads);
        self.held.entry(id).or_default().insert(Arc::clone(&slot));
        let entry = Entry {
            slot: Arc::clone(&slot),
            compiled: Arc::clone(&compiled),
            holders: [id].into(),
        };
        self.entries.insert(slot, entry);
        compiled
    }

    /// A resource somebody holds.
    #[must_use]
    pub fn get(&self, key: &Key, class: &Class) -> Option<&Arc<Compiled>> {
        let slot = (key.clone(), key.scope(class));
        self.entries.get(&slot).map(|entry| &entry.compiled)
    }

    /// A resource that this subscriber holds.
    #[must_use]
    pub fn held(&self, id: SubscriberId, key: &Key, class: &Class) -> Option<&Arc<Compiled>> {
        let slot = (key.clone(), key.scope(class));
        let entry = self.entries.get(&slot)?;
        entry.holders.contains(&id).then_some(&entry.compiled)
    }

    /// Lets go of everything a subscriber holds but `keep`, and of what it held as another class than this.
    pub fn retain(&mut self, id: SubscriberId, keep: &BTreeSet<Key>, class: &Class) {
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        let gone: Vec<Slot> = held
            .iter()
            .filter(|slot| !keep.contains(&slot.0) || slot.0.scope(class) != slot.1)
            .cloned()
            .collect();
        for slot in &gone {
            held.remove(slot);
        }
        for slot in gone {
            self.release(id, &slot);
        }
    }

    /// Lets go of everything.
    pub fn release_all(&mut self, id: SubscriberId) {
        for slot in self.held.remove(&id).unwrap_or_default() {
            self.release(id, &slot);
        }
    }

    fn release(&mut self, id: SubscriberId, slot: &Slot) {
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        entry.holders.remove(&id);
        if entry.holders.is_empty() {
            let reads = entry.compiled.reads.clone();
            self.entries.remove(slot);
            self.unindex(slot, &reads);
        }
    }

    fn index(&mut self, slot: &Slot, reads: &BTreeSet<Read>) {
        for read in reads {
            self.readers
                .entry(read.clone())
                .or_default()
                .insert(slot.clone());
        }
    }

    fn unindex(&mut self, slot: &Slot, reads: &BTreeSet<Read>) {
        for read in reads {
            if let Some(slots) = self.readers.get_mut(read) {
                slots.remove(slot);
                if slots.is_empty() {
                    self.readers.remove(read);
                }
            }
        }
    }

    /// Who holds an endpoint set that a workload stands in.
    #[must_use]
    pub fn holders_of_workload(&self, workload_id: &str) -> BTreeSet<SubscriberId> {
        let hosts: BTreeSet<&str> = self
            .world
            .endpoints
            .iter()
            .filter(|(_, ports)| {
                ports
                    .values()
                    .flatten()
                    .any(|endpoint| endpoint.workload_id == workload_id)
            })
            .map(|(host, _)| host.as_str())
            .collect();
        self.entries
            .iter()
            .filter(|(slot, _)| match &slot.0 {
                Key::Endpoints(naka_types::name::ClusterName::Outbound { host, .. }) => {
                    hosts.contains(host.as_str())
                }
                _ => false,
            })
            .flat_map(|(_, entry)| entry.holders.iter().copied())
            .collect()
    }

    /// How many resources of each type a subscriber holds.
    #[must_use]
    pub fn held_by(&self, id: SubscriberId) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for slot in self.held.get(&id).into_iter().flatten() {
            *counts.entry(slot.0.type_url()).or_insert(0) += 1;
        }
        counts
    }

    /// Whether a subscriber holds a key that is wanted.
    #[must_use]
    pub fn holds_any(&self, id: SubscriberId, wanted: &impl Fn(&Key) -> bool) -> bool {
        let held = self.held.get(&id);
        held.is_some_and(|held| held.iter().any(|slot| wanted(&slot.0)))
    }

    /// All keys held by anybody, for tests.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&Slot, &Arc<Compiled>)> {
        self.entries
            .iter()
            .map(|(slot, entry)| (slot, &entry.compiled))
    }
}

fn version(compiled: &Compiled) -> Option<&str> {
    compiled
        .resource
        .as_ref()
        .map(|resource| &*resource.version)
}
