//! Subsets: used but not defined, defined but not used, and meant for another namespace's service of the same name.

use super::say;
use crate::codes;
use crate::networking::destination_rule::DestinationRule;
use crate::networking::virtual_service::VirtualService;
use crate::object::Object;
use naka_types::finding::Finding;
use naka_types::host::Host;
use std::collections::{BTreeMap, BTreeSet};

/// Who defines and who uses subsets, by host. Indexed, because the live state has thousands of both.
#[derive(Default)]
pub(super) struct Uses<'o> {
    /// Subsets defined, by host of the rule.
    defined: BTreeMap<&'o Host, BTreeSet<&'o str>>,
    /// Hosts of `defined` that are patterns.
    patterns: Vec<&'o Host>,
    /// Hosts of `defined` by name of the service.
    by_service: BTreeMap<&'o str, Vec<&'o Host>>,
    /// Subsets that routes lead to, by host.
    used: BTreeMap<&'o Host, BTreeSet<&'o str>>,
    /// Uses that were meant for the rule of this host but resolve to another one: that one, and the subsets.
    strays: BTreeMap<&'o Host, (&'o Host, BTreeSet<&'o str>)>,
}

impl<'o> Uses<'o> {
    pub(super) fn of(objects: &[&'o Object]) -> Self {
        let mut uses = Self::default();
        for object in objects {
            if let Some(rule) = object.destination_rule() {
                uses.define(rule);
            }
            if let Some(service) = object.virtual_service() {
                for target in service.http.iter().flat_map(|route| route.destinations()) {
                    if let Some(subset) = &target.destination.subset {
                        uses.used
                            .entry(&target.destination.host)
                            .or_default()
                            .insert(subset);
                    }
                }
            }
        }
        let mut strays: BTreeMap<&Host, (&Host, BTreeSet<&str>)> = BTreeMap::new();
        for (host, subsets) in &uses.used {
            for subset in subsets {
                if let Some(rule) = uses.defined_elsewhere(host, subset) {
                    strays
                        .entry(rule)
                        .or_insert_with(|| (*host, BTreeSet::new()))
                        .1
                        .insert(*subset);
                }
            }
        }
        uses.strays = strays;
        uses
    }

    fn define(&mut self, rule: &'o DestinationRule) {
        let names = rule.subsets.iter().map(|subset| subset.name.as_str());
        self.defined.entry(&rule.host).or_default().extend(names);
        if rule.host.is_wildcard() && !self.patterns.contains(&&rule.host) {
            self.patterns.push(&rule.host);
        } else if let Some((service, _)) = rule.host.service() {
            let hosts = self.by_service.entry(service).or_default();
            if !hosts.contains(&&rule.host) {
                hosts.push(&rule.host);
            }
        }
    }

    /// Hosts of the rules that hold for a host.
    fn rules(&self, host: &Host) -> impl Iterator<Item = &'o Host> {
        let exact = self.defined.get_key_value(host).map(|(rule, _)| *rule);
        let wide: Vec<&'o Host> = self
            .patterns
            .iter()
            .copied()
            .filter(|rule| *rule != host && covers(rule, host))
            .collect();
        exact.into_iter().chain(wide)
    }

    fn has(&self, rule: &Host, subset: &str) -> bool {
        self.defined
            .get(rule)
            .is_some_and(|subsets| subsets.contains(subset))
    }

    fn defines(&self, host: &Host, subset: &str) -> bool {
        self.rules(host).any(|rule| self.has(rule, subset))
    }

    /// A rule for a service of the same name in another namespace that defines the subset, where the host itself has
    /// no rule at all: the sign of a short name read in the wrong namespace.
    fn defined_elsewhere(&self, host: &Host, subset: &str) -> Option<&'o Host> {
        let (service, _) = host.service()?;
        if self.rules(host).next().is_some() {
            return None;
        }
        self.by_service
            .get(service)?
            .iter()
            .copied()
            .find(|rule| self.has(rule, subset))
    }

    pub(super) fn check_routes(
        &self,
        out: &mut Vec<Finding>,
        object: &Object,
        service: &VirtualService,
    ) {
        let mut seen = BTreeSet::new();
        for route in &service.http {
            for (place, target) in route.destinations().iter().enumerate() {
                let (host, Some(subset)) = (&target.destination.host, &target.destination.subset)
                else {
                    continue;
                };
                if self.defines(host, subset) {
                    continue;
                }
                let at = format!("spec.http[{}].route[{place}].destination", route.index);
                if let Some(other) = self.defined_elsewhere(host, subset) {
                    if seen.insert((host, "")) {
                        say(
                            out,
                            codes::L312,
                            object,
                            &format!("{at}.host"),
                            format!(
                                "this name means {host}, but the DestinationRule with the subsets is for {other}"
                            ),
                            format!("put both objects into one namespace, or write {other}"),
                        );
                    }
                } else if seen.insert((host, subset.as_str())) {
                    say(
                        out,
                        codes::L310,
                        object,
                        &format!("{at}.subset"),
                        format!(
                            "no DestinationRule defines subset {subset} of {host}: its traffic gets 503"
                        ),
                        format!(
                            "apply a DestinationRule for {host} with this subset, or remove subset"
                        ),
                    );
                }
            }
        }
    }

    pub(super) fn check_rule(
        &self,
        out: &mut Vec<Finding>,
        object: &Object,
        rule: &DestinationRule,
    ) {
        let own: Vec<&BTreeSet<&str>> = if rule.host.is_wildcard() {
            self.used
                .iter()
                .filter(|(host, _)| covers(&rule.host, host))
                .map(|(_, subsets)| subsets)
                .collect()
        } else {
            self.used.get(&rule.host).into_iter().collect()
        };
        // Uses meant for this rule although they resolve to another namespace count as uses: L312 says what is wrong.
        let stray = self.strays.get(&rule.host);
        let unused: Vec<&str> = rule
            .subsets
            .iter()
            .map(|subset| subset.name.as_str())
            .filter(|name| {
                !own.iter()
                    .copied()
                    .chain(stray.map(|(_, subsets)| subsets))
                    .any(|subsets| subsets.contains(name))
            })
            .collect();
        if !unused.is_empty() {
            say(
                out,
                codes::L311,
                object,
                "spec.subsets",
                format!("no route leads to: {}", unused.join(", ")),
                "remove them, or name them in a VirtualService".to_owned(),
            );
        }
        if let Some((host, _)) = stray {
            say(
                out,
                codes::L312,
                object,
                "spec.host",
                format!(
                    "this name means {}, but the routes that use its subsets lead to {host}",
                    rule.host
                ),
                format!("put both objects into one namespace, or write {host}"),
            );
        }
    }
}

fn covers(rule: &Host, host: &Host) -> bool {
    rule == host
        || rule
            .as_str()
            .strip_prefix('*')
            .is_some_and(|suffix| host.as_str().ends_with(suffix))
}
