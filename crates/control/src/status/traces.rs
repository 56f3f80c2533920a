//! Traces as the API shows them.

use super::Status;
use crate::traces::view;
use naka_api::codes::W953;
use naka_types::finding::Finding;
use serde_json::Value;
use std::collections::HashSet;

impl Status {
    /// Those that are kept, the newest first.
    pub(super) fn kept_traces(&self, limit: usize) -> Vec<Value> {
        let silent = self.silent();
        let all = self.plane.traces.newest(limit);
        all.iter()
            .map(|(id, trace)| view::summary(*id, trace, &silent))
            .collect()
    }

    /// The newest whose id begins like this; dashes, as in the id of a request, do not count.
    pub(super) fn kept_trace(&self, begins: &str) -> Option<Value> {
        let begins = begins.replace('-', "").to_ascii_lowercase();
        let traces = &self.plane.traces;
        let id = traces.find(&begins)?;
        Some(view::full(id, &traces.get(id)?, &self.silent()))
    }

    /// Programs that do not pass traces on.
    pub(super) fn untraced(&self) -> Vec<Finding> {
        let registry = self.plane.registry();
        let members = registry.members();
        let silent = members.iter().filter_map(|member| {
            let registration = &member.registration;
            let seen = registry.seen(&registration.workload_id);
            let message = format!(
                "the program of {}.{} does not pass traceparent on: {} of {} calls that it made while it was at work on requests begin a trace of their own, so traces end there",
                registration.workload_name,
                registration.namespace,
                seen.untraced,
                seen.untraced.saturating_add(seen.traced),
            );
            seen.is_silent().then(|| Finding::new(W953.id, message).fix(W953.fix))
        });
        silent.collect()
    }

    /// Workloads whose programs do not pass traces on.
    fn silent(&self) -> HashSet<String> {
        let registry = self.plane.registry();
        let members = registry.members();
        let ids = members
            .iter()
            .map(|member| &member.registration.workload_id);
        ids.filter(|id| registry.seen(id).is_silent())
            .cloned()
            .collect()
    }
}
