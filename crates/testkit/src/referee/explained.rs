//! A case through `naka explain`: decode, compile, intake, engine; no network.
//!
//! A request with several possible clusters is asked often enough that every one with a weight of 5 % or more is seen,
//! so `to:` is the exact set of them.

use super::case::{File, Via, Wanted};
use super::seen::{self, Arrival, Seen, Who};
use naka_api::Object;
use naka_cli::explain::Question;
use serde_json::Value;

/// Often enough for a share of 5 %: it is missed with a probability of 10⁻⁹.
pub const DRAWS: usize = 400;
/// Label of the gateways of cases.
pub const GATEWAY: &str = "istio=ingressgateway";
/// Their name as one of the Gateway API, by which policies are attached to them.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name=edge";
/// Draws of a request that may go to one place only.
const FEW: usize = 4;

impl Wanted {
    /// How often it is asked, so that all that must be seen is seen.
    #[must_use]
    pub fn draws(&self) -> usize {
        let many = self.verdict.to.len() > 1 || self.verdict.at.len() > 1;
        let shares = !self.verdict.shares.is_empty();
        let usual = if many || shares { DRAWS } else { FEW };
        self.times
            .unwrap_or(if self.verdict.sticky { 2 * FEW } else { usual })
    }

    /// The request as it would be typed.
    #[must_use]
    pub fn question(&self, file: &File) -> Question {
        let mut options: Vec<String> = match file.case.caller.via {
            Via::Sidecar => Vec::new(),
            Via::Gateway => ["--gateway", GATEWAY, "--gateway", GATEWAY_NAME]
                .map(str::to_owned)
                .into(),
        };
        let body = (!self.body.is_empty()).then_some(&self.body);
        for (option, value) in [
            ("--body", body),
            ("--at", self.moment.as_ref()),
            ("--from", self.from.as_ref()),
        ] {
            options.extend(value.map(|value| format!("{option}={value}")));
        }
        let labels = file.case.caller.labels.iter();
        options.extend(labels.map(|(key, value)| format!("--label={key}={value}")));
        Question {
            request: self.request.clone(),
            headers: self.headers.clone(),
            answers: self.answers.clone(),
            namespace: file.namespace(self).to_owned(),
            options,
        }
    }
}

/// What `naka explain` says came of a request, each time it was asked.
///
/// # Errors
/// When the request cannot be asked.
pub fn ask(file: &File, wanted: &Wanted, objects: &[Object]) -> Result<Vec<Seen>, String> {
    let all = wanted.question(file).ask(objects, wanted.draws())?;
    Ok(all.iter().map(one).collect())
}

fn one(explained: &Value) -> Seen {
    let got = &explained["got"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let arrivals = explained["sent"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|sent| {
            let mut headers = seen::headers(&sent["headers"]);
            for (name, field) in [
                (seen::TIMEOUT, "timeout"),
                (seen::PER_TRY_TIMEOUT, "per_try_timeout"),
            ] {
                headers.extend(text(&sent[field]).map(|time| (name.to_owned(), time)));
            }
            Arrival {
                clusters: text(&sent["cluster"]).into_iter().collect(),
                method: text(&sent["method"]).unwrap_or_default(),
                target: text(&sent["target"]).unwrap_or_default(),
                authority: text(&sent["authority"]).unwrap_or_default(),
                headers,
                ..Arrival::default()
            }
        });
    let trail = explained["trail"].as_array().into_iter().flatten();
    let trail = trail.map(|why| {
        let word = |name: &str| why[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{}: {} ({})",
            word("stage"),
            word("decision"),
            word("because")
        )
    });
    Seen {
        outside: got.is_null() && explained["closed"] != true,
        status: u16::try_from(got["status"].as_u64().unwrap_or(0)).unwrap_or(0),
        reason: text(&got["reason"]),
        headers: seen::headers(&got["headers"]),
        arrivals: arrivals.collect(),
        mirrored: copies(explained),
        took: text(&explained["delay"]).and_then(|text| naka_types::duration::parse(&text).ok()),
        trail: trail.collect::<Vec<_>>().join("\n    "),
        ..Seen::default()
    }
}

fn copies(explained: &Value) -> Vec<Arrival> {
    let all = explained["copies"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let arrival = |copy: &Value| Arrival {
        clusters: [text(&copy["cluster"])].into(),
        authority: text(&copy["authority"]),
        ..Arrival::default()
    };
    all.map(arrival).collect()
}

/// What is wrong with a case as explain sees it: verdicts that are not met, and verdicts that would fit every request
/// of the case and so show nothing.
#[must_use]
pub fn judge(file: &File, objects: &[Object]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut asked: Vec<Option<Vec<Seen>>> = Vec::new();
    for wanted in &file.case.requests {
        if !wanted.explained(file.case.caller.via) {
            asked.push(None);
            continue;
        }
        match ask(file, wanted, objects) {
            Ok(all) => asked.push(Some(all)),
            Err(why) => {
                wrong.push(format!("{}: {why}", wanted.request));
                asked.push(None);
            }
        }
    }
    for (wanted, own) in file.case.requests.iter().zip(&asked) {
        let Some(own) = own else { continue };
        if let Some(why) = wanted.verdict.differs(Who::Explain, own) {
            let trail = own.first().map_or("", |one| &one.trail);
            wrong.push(format!("{}: {why}\n    {trail}", wanted.request));
        }
        let apart = |other: &Vec<Seen>| wanted.verdict.differs(Who::Explain, other).is_some();
        if !asked.iter().flatten().any(apart) && asked.iter().all(Option::is_some) {
            wrong.push(format!(
                "{}: its verdict fits every request of the case, so it shows nothing",
                wanted.request
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use crate::referee::case::{File, paths};

    /// The issue asks for this many.
    const LEAST: usize = 25;

    #[test]
    fn every_request_of_every_case_gets_its_verdict_and_no_other() {
        let paths = paths().expect("cases");
        assert!(paths.len() >= LEAST, "{} cases", paths.len());
        let mut wrong = Vec::new();
        for path in paths {
            let file = match File::read(&path) {
                Ok(file) => file,
                Err(error) => {
                    wrong.push(format!("{error:#}"));
                    continue;
                }
            };
            let objects = file.objects().expect("objects").objects;
            let found = super::judge(&file, &objects);
            wrong.extend(found.into_iter().map(|why| format!("{}: {why}", file.name)));
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}
