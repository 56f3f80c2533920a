//! Where endpoints stand for this proxy: ranked by ourselves where our control plane says what decides, else as they
//! were sent.

use crate::intake::cluster::Part;
use crate::intake::endpoint::Member;
use naka_engine::model::{Group, Health};
use naka_types::labels::Labels;
use naka_types::locality::{Caller, Locality, Nearness, Rank, Standing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who calls: this proxy's workload.
#[derive(Debug, Default)]
pub struct Near {
    locality: Locality,
    labels: Labels,
    service: String,
}

impl Near {
    /// A workload with these labels, serving this host (empty: none).
    #[must_use]
    pub fn new(labels: Labels, service: &str) -> Self {
        Self {
            locality: Locality::of_labels(&labels),
            labels,
            service: service.to_owned(),
        }
    }

    /// Whether a cluster is of the workload's own service, whose other workloads call too.
    pub(super) fn is_own(&self, part: &Part) -> bool {
        !self.service.is_empty() && *part.spec.service.host == *self.service
    }

    /// Endpoints in the order of their groups, and the groups. Who is not called from here is left out.
    pub(super) fn groups<'a>(
        &self,
        part: &Part,
        members: &'a [Member],
        siblings: impl FnOnce() -> BTreeMap<Locality, u64>,
    ) -> (Vec<&'a Member>, Vec<Group>) {
        let ranks = match &part.near {
            Some(near) => {
                let siblings = if near.zone_aware.is_some() {
                    siblings()
                } else {
                    BTreeMap::new()
                };
                self.ranked(near, members, &siblings)
            }
            None => members
                .iter()
                .map(|member| {
                    Some(Rank {
                        priority: member.stand.priority,
                        weight: member.stand.weight,
                    })
                })
                .collect(),
        };
        let mut ordered: Vec<(Rank, &Arc<Locality>, &Member)> = ranks
            .into_iter()
            .zip(members)
            .filter_map(|(rank, member)| Some((rank?, &member.stand.place, member)))
            .collect();
        ordered.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let mut groups: Vec<Group> = Vec::new();
        let mut last: Option<(Rank, &Arc<Locality>)> = None;
        for (rank, place, _) in &ordered {
            match groups.last_mut() {
                Some(group) if last == Some((*rank, *place)) => group.size += 1,
                _ => groups.push(Group {
                    priority: rank.priority,
                    place: place.to_string().into(),
                    weight: rank.weight,
                    size: 1,
                }),
            }
            last = Some((*rank, *place));
        }
        let members = ordered.into_iter().map(|(.., member)| member).collect();
        (members, groups)
    }

    fn ranked(
        &self,
        near: &Nearness,
        members: &[Member],
        siblings: &BTreeMap<Locality, u64>,
    ) -> Vec<Option<Rank>> {
        let standing: Vec<Standing<'_>> = members
            .iter()
            .map(|member| Standing {
                locality: &member.stand.place,
                labels: &member.workload.labels,
                healthy: member.health == Health::Healthy,
            })
            .collect();
        let caller = Caller {
            locality: &self.locality,
            labels: &self.labels,
            siblings,
        };
        near.rank(&caller, &standing)
    }
}
