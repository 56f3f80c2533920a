//! Calls that may last longer than the call they are made for: the caller has given up before they can end.
//!
//! Who calls whom is not written in manifests as such; it is known where a route names its callers (`sourceLabels` with
//! `app`) and where a Sidecar of named workloads lists the hosts that they call. Both sides are told, each at its own
//! place, because either may be the one to change and they may be of different owners.

use super::say;
use crate::codes;
use crate::networking::virtual_service::{HttpRoute, VirtualService};
use crate::object::Object;
use naka_types::duration::Show;
use naka_types::finding::Finding;
use naka_types::host::Host;
use std::collections::BTreeSet;
use std::time::Duration;

/// The label that names the service of a workload.
const APP: &str = "app";

/// A route with the longest time of a call to its host.
struct Timed<'a> {
    object: &'a Object,
    route: &'a HttpRoute,
    timeout: Duration,
}

impl Timed<'_> {
    fn field(&self) -> String {
        format!("spec.http[{}].timeout", self.route.index)
    }

    fn place(&self) -> String {
        format!("{} {}", self.object.reference(), self.field())
    }
}

fn timeout(route: &HttpRoute) -> Option<Duration> {
    route.timeout.filter(|timeout| !timeout.is_zero())
}

fn routes_to<'a>(
    host: &'a Host,
    objects: &'a [&'a Object],
) -> impl Iterator<Item = (&'a Object, &'a VirtualService)> {
    let all = objects.iter().copied();
    all.filter_map(|object| Some((object, object.virtual_service()?)))
        .filter(|(_, service)| service.hosts.contains(host))
}

/// The longest that a call to a service may last, if none of its routes lets it last for ever.
fn longest<'a>(host: &'a Host, objects: &'a [&'a Object]) -> Option<Timed<'a>> {
    let (object, service) = routes_to(host, objects).next()?;
    let mut longest: Option<Timed<'_>> = None;
    for route in service.http.iter().filter(|r| !r.destinations().is_empty()) {
        let timeout = timeout(route)?;
        if longest.as_ref().is_none_or(|most| most.timeout < timeout) {
            longest = Some(Timed {
                object,
                route,
                timeout,
            });
        }
    }
    longest
}

/// Services that a route says it takes calls from.
fn callers(object: &Object, route: &HttpRoute) -> BTreeSet<Host> {
    let named = route.matches.iter().filter_map(|condition| {
        let app = condition.source_labels.get(APP)?;
        let namespace = condition.source_namespace.as_deref();
        Host::of_service(app, namespace.unwrap_or(&object.meta.namespace)).into()
    });
    named.collect()
}

/// The calls that this object says are made.
pub(super) fn check(out: &mut Vec<Finding>, object: &Object, objects: &[&Object]) {
    if let Some(service) = object.virtual_service() {
        for route in &service.http {
            for caller in callers(object, route) {
                compare(out, &caller, object, route, objects);
            }
        }
    }
    let Some(sidecar) = object.sidecar() else {
        return;
    };
    let selector = sidecar.selector.as_ref();
    let Some(app) = selector.and_then(|labels| labels.get(APP)) else {
        return;
    };
    let caller = Host::of_service(app, &object.meta.namespace);
    let entries = sidecar.egress.iter().flatten();
    for called in entries.flat_map(|entry| &entry.hosts) {
        for (other, service) in routes_to(&called.host, objects) {
            // Routes that name their callers were looked at by themselves.
            let open = |route: &&HttpRoute| callers(other, route).is_empty();
            for route in service.http.iter().filter(open) {
                compare(out, &caller, other, route, objects);
            }
        }
    }
}

fn compare(
    out: &mut Vec<Finding>,
    caller: &Host,
    object: &Object,
    route: &HttpRoute,
    objects: &[&Object],
) {
    let Some(own) = timeout(route).filter(|_| !route.destinations().is_empty()) else {
        return;
    };
    let called = Timed {
        object,
        route,
        timeout: own,
    };
    let Some(parent) = longest(caller, objects).filter(|parent| parent.timeout < own) else {
        return;
    };
    let short = caller.as_str();
    say(
        out,
        codes::L351,
        object,
        &called.field(),
        format!(
            "a call of {short} may last {}, but {short} itself is given at most {} ({})",
            Show(own),
            Show(parent.timeout),
            parent.place()
        ),
        format!(
            "set it below {}, give {short} more, or have it answer before this call ends",
            Show(parent.timeout)
        ),
    );
    say(
        out,
        codes::L351,
        parent.object,
        &parent.field(),
        format!(
            "calls to {short} end after {}, but it makes calls of up to {} ({})",
            Show(parent.timeout),
            Show(own),
            called.place()
        ),
        format!("set it above {}, or let those calls end sooner", Show(own)),
    );
}

#[cfg(test)]
mod tests {
    use crate::{Mode, decode_yaml};

    fn service(name: &str, timeout: &str, matching: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}]\n  http:\n  - {timeout}{matching}route: [{{destination: {{host: {name}}}}}]\n"
        )
    }

    const SIDECAR: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: payment}\nspec:\n  workloadSelector: {labels: {app: payment}}\n  egress: [{hosts: [./bank.default.svc.cluster.local]}]\n";
    const OF_PAYMENT: &str = "match: [{sourceLabels: {app: payment}}]\n    ";

    /// Lines of the findings, of a file that holds payment, bank and `more`.
    #[track_caller]
    fn check(payment: &str, bank: &str, matching: &str, more: &str, want: &[u32]) {
        let text = [
            service("payment", payment, ""),
            service("bank", bank, matching),
            more.to_owned(),
        ]
        .join("---\n");
        let found = decode_yaml("f.yaml", text.as_bytes(), Mode::Compat).lint();
        let found: Vec<u32> = found
            .iter()
            .filter(|finding| finding.code == "L351")
            .map(|finding| finding.line)
            .collect();
        assert_eq!(found, want, "{text}");
    }

    #[test]
    fn a_call_must_fit_into_the_call_that_it_is_made_for() {
        let (short, long) = ("timeout: 80ms\n    ", "timeout: 1800ms\n    ");
        // Told at the inner call, and at the outer one.
        check(short, long, OF_PAYMENT, "", &[16, 7]);
        check(short, long, "", SIDECAR, &[16, 7]);
        // It fits, nobody says that payment calls it, or there is no limit to compare.
        check(long, short, OF_PAYMENT, "", &[]);
        check(short, short, OF_PAYMENT, "", &[]);
        check(short, long, "", "", &[]);
        check("", long, OF_PAYMENT, "", &[]);
        check("timeout: 0s\n    ", long, OF_PAYMENT, "", &[]);
        check(short, "", OF_PAYMENT, "", &[]);
        let other = OF_PAYMENT.replace("payment", "order");
        check(short, long, &other, SIDECAR, &[]);
    }
}
