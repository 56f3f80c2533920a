//! Names of a matrix: services and groups of them.
//!
//! A name of `groups` stands for its members (names of groups again, or of services), `*` and `payment-*` for all
//! services that fit, any other for a service. `account_service` is `account-service`; `NAME.NAMESPACE` is in another
//! namespace. In a document with neither `groups` nor `services` each name is a service: nobody can say of one there
//! that it does not exist.

use super::document::{Document, is_matrix};
use naka_api::codes;
use naka_api::tree::{Data, Node, Place};
use std::collections::{BTreeMap, BTreeSet};

/// A service; its service account has the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Service {
    /// Identity of its workloads, as policies write it.
    pub(crate) fn principal(&self) -> String {
        format!("cluster.local/ns/{}/sa/{}", self.namespace, self.name)
    }
}

/// What a name stands for, and how far it reaches: 0 a service, 1 a group, 2 a wildcard.
#[derive(Debug, Clone)]
pub(crate) struct Meant {
    pub(crate) services: BTreeSet<Service>,
    pub(crate) width: u8,
}

/// All names of a document.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) namespace: String,
    groups: BTreeMap<String, Vec<(String, Place)>>,
    known: BTreeSet<Service>,
    open: bool,
}

/// A name as services have it.
pub(crate) fn canonical(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('_', "-")
}

impl Names {
    /// Reads `namespace`, `groups` and `services`.
    pub(crate) fn read(document: &mut Document, namespace: &str) -> Self {
        let root = document.root.clone();
        let namespace = match root.get("namespace") {
            Some(node) => document.text(node, "namespace").unwrap_or_default(),
            None => namespace.to_owned(),
        };
        let mut own = Self {
            namespace,
            groups: BTreeMap::new(),
            known: BTreeSet::new(),
            open: root.get("groups").is_none() && root.get("services").is_none(),
        };
        let groups = root.get("groups").map(|node| document.map(node, "groups"));
        for group in groups.unwrap_or_default() {
            let field = format!("groups.{}", group.key);
            let members = document.texts(&group.value, &field);
            own.groups.insert(canonical(&group.key), members);
        }
        own.declare(document, &root);
        let groups = own.groups.clone();
        for (group, members) in &groups {
            for (member, place) in members {
                if own.groups.contains_key(&canonical(member)) || member.contains('*') {
                    continue;
                }
                own.add(document, member, *place, &format!("groups.{group}"));
            }
        }
        if own.open {
            own.of_matrices(document, &root);
        }
        own
    }

    fn declare(&mut self, document: &mut Document, root: &Node) {
        let Some(services) = root.get("services") else {
            return;
        };
        if let Data::Map(entries) = &services.data {
            for entry in entries {
                self.add(document, &entry.key, entry.place, "services");
            }
        } else {
            for (name, place) in document.texts(services, "services") {
                self.add(document, &name, place, "services");
            }
        }
    }

    /// Without any list the names of the matrices are the services.
    fn of_matrices(&mut self, document: &mut Document, root: &Node) {
        let nested = root.get("authorization_policies");
        let all = root
            .entries()
            .iter()
            .chain(nested.map(Node::entries).unwrap_or_default());
        for matrix in all.filter(|entry| is_matrix(&entry.key)) {
            for caller in matrix.value.entries() {
                self.add(document, &caller.key, caller.place, &matrix.key);
                for list in ["allowed_to_call", "forbidden_to_call"] {
                    for item in caller.value.get(list).map(Node::items).unwrap_or_default() {
                        if let Data::Text(name) = &item.data
                            && !name.contains('*')
                        {
                            self.add(document, name, item.place, list);
                        }
                    }
                }
            }
        }
    }

    fn add(&mut self, document: &mut Document, name: &str, place: Place, field: &str) {
        if let Some(service) = self.service(document, name, place, field) {
            self.known.insert(service);
        }
    }

    fn service(
        &self,
        document: &mut Document,
        name: &str,
        place: Place,
        field: &str,
    ) -> Option<Service> {
        let text = canonical(name);
        let (service, namespace) = text.split_once('.').unwrap_or((&text, &self.namespace));
        if !is_label(service) || !is_label(namespace) {
            let said = format!("{name:?} cannot be the name of a service");
            document.found(
                &codes::E007,
                place,
                field,
                said,
                "Write letters, digits and hyphens, NAME or NAME.NAMESPACE.",
            );
            return None;
        }
        Some(Service {
            namespace: namespace.to_owned(),
            name: service.to_owned(),
        })
    }

    /// Every service there is.
    pub(crate) fn known(&self) -> &BTreeSet<Service> {
        &self.known
    }

    /// What a name means; a name that means nothing is a finding.
    pub(crate) fn meant(
        &self,
        document: &mut Document,
        name: &str,
        place: Place,
        field: &str,
    ) -> Option<Meant> {
        self.walk(document, name, place, field, &mut BTreeSet::new())
    }

    fn walk(
        &self,
        document: &mut Document,
        name: &str,
        place: Place,
        field: &str,
        passed: &mut BTreeSet<String>,
    ) -> Option<Meant> {
        let key = canonical(name);
        if let Some(members) = self.groups.get(&key) {
            let mut services = BTreeSet::new();
            // A group that was passed has given its members already.
            if passed.insert(key) {
                for (member, place) in members {
                    let field = format!("groups.{name}");
                    let meant = self.walk(document, member, *place, &field, passed);
                    services.extend(meant.into_iter().flat_map(|meant| meant.services));
                }
            }
            return Some(Meant { services, width: 1 });
        }
        if key.contains('*') {
            let fits = |service: &&Service| fits(&key, service);
            let services: BTreeSet<Service> = self.known.iter().filter(fits).cloned().collect();
            if services.is_empty() || key.matches('*').count() > 1 {
                let said = format!("{name} fits no service");
                document.found(
                    &codes::E972,
                    place,
                    field,
                    said,
                    "Write *, begin* or *end of a service's name.",
                );
                return None;
            }
            return Some(Meant { services, width: 2 });
        }
        let service = self.service(document, name, place, field)?;
        if self.known.contains(&service) {
            let services = BTreeSet::from([service]);
            return Some(Meant { services, width: 0 });
        }
        let names: Vec<&str> = self
            .groups
            .keys()
            .map(String::as_str)
            .chain(self.known.iter().map(|one| one.name.as_str()))
            .collect();
        let fix = match naka_api::schema::nearest(&key, names.into_iter()) {
            Some(near) => format!("Did you mean {near}?"),
            None => "Name it under `services`, or say under `groups` who belongs to it.".to_owned(),
        };
        let said = format!("{name} is neither a service nor a group");
        document.found(&codes::E972, place, field, said, &fix);
        None
    }
}

/// Whether a pattern with one `*` fits; a pattern without a namespace means the name alone.
fn fits(pattern: &str, service: &Service) -> bool {
    let name = if pattern.contains('.') {
        format!("{}.{}", service.name, service.namespace)
    } else {
        service.name.clone()
    };
    let (begin, end) = pattern.split_once('*').unwrap_or((pattern, ""));
    name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
}

/// A name as Kubernetes has it.
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
