//! Why a proxy is not ready, in words, and what to do about it.
//!
//! [`Shared::missing`] says what is missing, cheaply and often; here each of its words is explained for people. The
//! explanation is a pure function of facts, so that a table can test every cause.
//!
//! Does not decide readiness: a proxy that works from its saved copy while the control plane is away is ready, and
//! only told so under `warnings`.

use super::Shared;
use crate::control_client::Line;
use crate::settings::Role;
use naka_wire::v1::register_request::State;
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The word of `missing`.
    pub what: &'static str,
    /// Why it is missing.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// What an explanation rests on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The line to the control plane.
    pub(crate) line: Line,
    /// Whether there is a way to be let in: a token, or the control socket of the own user.
    pub(crate) may_join: bool,
    /// Service, if any.
    pub(crate) service: Option<String>,
    /// The program's ports that are announced.
    pub(crate) ports: BTreeSet<u16>,
    /// Those of them that nobody listens on.
    pub(crate) silent: BTreeSet<u16>,
    /// Proxies whose acknowledgement a drain waits for.
    pub(crate) waiting_for: Vec<String>,
    /// At the edge.
    pub(crate) gateway: bool,
}

/// Explains one word of [`Shared::missing`].
pub(crate) fn explain(what: &'static str, facts: &Facts) -> Lack {
    let (why, fix) = match what {
        "identity" => identity(facts),
        "configuration" | "inbound configuration" => configuration(what, facts),
        "listeners" => (
            "its sockets are not open yet".to_owned(),
            "wait a moment; a port that is taken ends the start and is named in the log".to_owned(),
        ),
        "program" => program(facts),
        "draining" => draining(facts),
        "registration" => registration(facts),
        _ => (format!("{what} is missing"), "see its log".to_owned()),
    };
    Lack { what, why, fix }
}

/// The control plane is away: what that means, and what to do.
pub(crate) fn away(line: &Line) -> Option<Lack> {
    (!line.connected).then(|| Lack {
        what: "control plane",
        why: no_line(line),
        fix: how_to_reach(line),
    })
}

fn no_line(line: &Line) -> String {
    let at = if line.address.is_empty() {
        String::new()
    } else {
        format!(" at {}", line.address)
    };
    if line.problem.is_empty() {
        format!("the control plane{at} has not answered yet")
    } else {
        format!("the control plane{at} does not serve us: {}", line.problem)
    }
}

fn how_to_reach(line: &Line) -> String {
    let address = if line.address.is_empty() {
        "its xDS port".to_owned()
    } else {
        line.address.clone()
    };
    format!(
        "start it (naka up, or systemctl start naka-control) or let this machine reach {address}"
    )
}

fn identity(facts: &Facts) -> (String, String) {
    if !facts.may_join && facts.line.problem.is_empty() {
        return (
            "there is no saved certificate and no token to get one with".to_owned(),
            token(facts),
        );
    }
    (
        format!("no certificate yet: {}", no_line(&facts.line)),
        way_in(facts),
    )
}

/// What opens the line: a token when that is what it fails for, else a control plane that answers.
fn way_in(facts: &Facts) -> String {
    let refused = ["token", "unauthenticated", "Unauthenticated", "denied"];
    let problem = &facts.line.problem;
    if refused.iter().any(|word| problem.contains(word)) || !facts.may_join && problem.is_empty() {
        token(facts)
    } else {
        how_to_reach(&facts.line)
    }
}

fn token(facts: &Facts) -> String {
    let service = match &facts.service {
        Some(service) => format!(" -s {service}"),
        None => String::new(),
    };
    format!("make a token on the mesh's machine (naka token create{service}) and join with it")
}

fn configuration(what: &str, facts: &Facts) -> (String, String) {
    if !facts.line.connected {
        return (
            format!("no {what} and no saved copy: {}", no_line(&facts.line)),
            way_in(facts),
        );
    }
    let fix = if facts.gateway {
        "apply a Gateway whose selector has this gateway's labels"
    } else {
        "wait a moment; if it stays, naka status shows whether this proxy refuses something"
    };
    (
        format!("the control plane is connected and has not sent the {what} yet"),
        fix.to_owned(),
    )
}

fn program(facts: &Facts) -> (String, String) {
    if facts.ports.is_empty() {
        return (
            "the program has not opened a port yet".to_owned(),
            "look at the program's own output; with naka run -p PORT its port is known before"
                .to_owned(),
        );
    }
    if facts.silent.is_empty() {
        return (
            "the program listens; its address is being announced".to_owned(),
            "wait a moment".to_owned(),
        );
    }
    let ports = numbers(&facts.silent);
    (
        format!("the program does not listen on {ports}"),
        format!(
            "look at the program's own output; it must listen on 127.0.0.1:{ports}, or say another port with -p"
        ),
    )
}

fn draining(facts: &Facts) -> (String, String) {
    let why = if facts.waiting_for.is_empty() {
        "it is stopping and takes no new calls".to_owned()
    } else {
        format!(
            "it is stopping and waits until {} no longer call it",
            facts.waiting_for.join(", ")
        )
    };
    (
        why,
        "nothing to do: it ends by itself; start it again to have it back".to_owned(),
    )
}

fn registration(facts: &Facts) -> (String, String) {
    match facts.line.problems.first() {
        Some(problem) => (
            format!("the control plane refuses the registration: {problem}"),
            token(facts),
        ),
        None if facts.line.connected => (
            "the control plane has not taken the registration yet".to_owned(),
            "wait a moment".to_owned(),
        ),
        None => (
            format!("not registered: {}", no_line(&facts.line)),
            way_in(facts),
        ),
    }
}

fn numbers(ports: &BTreeSet<u16>) -> String {
    let all: Vec<String> = ports.iter().map(u16::to_string).collect();
    all.join(" and ")
}

impl Shared {
    /// Everything that is missing, explained.
    #[must_use]
    pub fn lacks(&self, serving: bool) -> Vec<Lack> {
        let missing = self.missing(serving);
        if missing.is_empty() {
            return Vec::new();
        }
        let facts = self.facts();
        missing
            .into_iter()
            .map(|what| explain(what, &facts))
            .collect()
    }

    /// What does not keep it from working and should be known: the control plane that is away, a drain.
    #[must_use]
    pub fn warnings(&self) -> Vec<Lack> {
        let draining = matches!(self.lease.now().state(), State::Draining | State::Gone);
        let draining = draining.then(|| explain("draining", &self.facts()));
        away(&self.line.borrow())
            .into_iter()
            .chain(draining)
            .collect()
    }

    fn facts(&self) -> Facts {
        let settings = &self.settings;
        let ports: BTreeSet<u16> = self
            .lease
            .now()
            .ports
            .iter()
            .filter_map(|port| u16::try_from(port.port).ok())
            .collect();
        // Where there is no table nothing is said of them.
        let open = crate::lease::open_ports(self.inside()).unwrap_or_else(|| ports.clone());
        let waiting_for = self
            .drain_report()
            .get("waiting_for")
            .and_then(Json::as_array)
            .map(|all| {
                all.iter()
                    .filter_map(|name| name.as_str().map(str::to_owned))
                    .collect()
            });
        Facts {
            line: self.line.borrow().clone(),
            may_join: settings.control.token.is_some() || settings.control.socket.is_some(),
            service: settings.service.clone(),
            silent: ports.difference(&open).copied().collect(),
            ports,
            waiting_for: waiting_for.unwrap_or_default(),
            gateway: settings.role == Role::Gateway,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, away, explain};
    use crate::control_client::Line;

    fn line(connected: bool, problem: &str) -> Line {
        Line {
            connected,
            address: "10.0.0.5:15012".to_owned(),
            problem: problem.to_owned(),
            ..Line::default()
        }
    }

    /// What is missing, the facts, and words of the cause and of its remedy.
    fn rows() -> Vec<(&'static str, Facts, &'static str, &'static str)> {
        let facts = |line: Line, may_join| Facts {
            line,
            may_join,
            service: Some("payment".to_owned()),
            ..Facts::default()
        };
        let program = |ports: &[u16], silent: &[u16]| Facts {
            ports: ports.iter().copied().collect(),
            silent: silent.iter().copied().collect(),
            ..Facts::default()
        };
        let refused = Line {
            problems: vec!["payment belongs to another identity".to_owned()],
            ..line(true, "")
        };
        let waiting = Facts {
            waiting_for: vec!["order-v1-0.default".to_owned()],
            ..Facts::default()
        };
        vec![
            (
                "identity",
                facts(Line::default(), false),
                "no token",
                "naka token create -s payment",
            ),
            (
                "identity",
                facts(line(false, "the token is used up"), true),
                "used up",
                "naka token create -s payment",
            ),
            (
                "identity",
                facts(line(false, "Connection refused"), true),
                "10.0.0.5:15012 does not serve us: Connection refused",
                "naka up",
            ),
            (
                "configuration",
                facts(line(false, "timed out"), true),
                "no saved copy",
                "10.0.0.5:15012",
            ),
            (
                "configuration",
                facts(line(true, ""), true),
                "has not sent",
                "naka status",
            ),
            (
                "configuration",
                Facts {
                    gateway: true,
                    ..facts(line(true, ""), true)
                },
                "has not sent",
                "Gateway",
            ),
            (
                "program",
                program(&[], &[]),
                "has not opened a port",
                "-p PORT",
            ),
            (
                "program",
                program(&[9101, 9102], &[9102]),
                "does not listen on 9102",
                "-p",
            ),
            (
                "program",
                program(&[9101], &[]),
                "is being announced",
                "wait",
            ),
            (
                "registration",
                facts(refused, true),
                "another identity",
                "token",
            ),
            (
                "registration",
                facts(line(true, ""), true),
                "not taken",
                "wait",
            ),
            ("draining", Facts::default(), "stopping", "by itself"),
            ("draining", waiting, "order-v1-0.default", "by itself"),
            ("listeners", Facts::default(), "not open", "taken"),
        ]
    }

    /// Each cause has its own words and its own remedy; the twin is the neighbouring row, where the fact differs.
    #[test]
    fn every_cause_is_named_with_its_remedy() {
        for (what, facts, why, fix) in rows() {
            let lack = explain(what, &facts);
            assert!(lack.why.contains(why), "{what}: {}", lack.why);
            assert!(lack.fix.contains(fix), "{what}: {}", lack.fix);
        }
        assert!(away(&line(true, "")).is_none());
        assert!(
            away(&line(false, "timed out"))
                .unwrap()
                .why
                .contains("timed out")
        );
    }
}
