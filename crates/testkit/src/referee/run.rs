//! All cases, in lanes beside each other, and the line that sums them up.

use super::case::{self, File, Verdict};
use super::explained;
use super::lane::{Kind, Lane};
use super::seen::{Seen, Who};
use super::upstream::Upstreams;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Features that an Envoy cannot express.
const LIST: &str = "not-expressible.txt";
/// More of the cases may not be out of an Envoy's reach.
const MOST_PERCENT: usize = 15;
/// A verdict that is not met is looked at again after this: a proxy may take a change a moment after it said so.
const SETTLE: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
    Duration::from_millis(1500),
];

/// What is to be done.
#[derive(Debug)]
pub struct Options {
    /// Part of the names of the cases.
    pub filter: String,
    /// Meshes beside each other.
    pub lanes: usize,
    /// The Envoy.
    pub envoy: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases.
    pub cases: usize,
    /// Right in explain, Naka, Envoy.
    pub right: [usize; 3],
    /// Beyond what an Envoy can express.
    pub not_expressible: usize,
    /// Requests that were right at a second look only.
    pub later: usize,
    /// Differences, in words.
    pub wrong: Vec<String>,
    /// How long each took, the slowest first.
    pub slowest: Vec<(Duration, String)>,
}

impl Report {
    /// The last line.
    #[must_use]
    pub fn line(&self) -> String {
        let [explain, naka, envoy] = self.right;
        format!(
            "cases {}, explain {explain} ok, naka {naka} ok, envoy {envoy} ok, {} not expressible",
            self.cases, self.not_expressible
        )
    }
}

/// What one case came to.
#[derive(Debug, Default)]
struct Judged {
    wrong: Vec<(Who, String)>,
    /// Whether explain had something to say of it.
    explained: bool,
    not_expressible: bool,
    later: usize,
}

/// Runs the cases.
///
/// # Errors
/// When they cannot be read or a mesh cannot be started.
pub fn run(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let listed = std::fs::read_to_string(case::root().join(LIST)).context(LIST)?;
    let features: BTreeSet<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(':').next())
        .collect();
    let mut report = Report::default();
    let mut files = Vec::new();
    for path in case::paths()? {
        match File::read(&path) {
            Ok(file) if file.name.contains(&options.filter) => files.push(file),
            Ok(_) => {}
            Err(error) => report.wrong.push(format!("{error:#}")),
        }
    }
    report.cases = files.len();
    // Cases of the same callers follow each other.
    files.sort_by_key(|file| (Kind::of(file, &file.case.requests[0]), file.name.clone()));
    let queue = Mutex::new(VecDeque::from(files));
    let shared = Mutex::new(report);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let upstreams = Upstreams::new(runtime.handle().clone());
    let lane = || -> Result<()> {
        let mut lane = Lane::new(&options.envoy, &upstreams)?;
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(file) = next else { return Ok(()) };
            let started = Instant::now();
            let judged = judge(&mut lane, &file, &features);
            let mut report = shared.lock().unwrap_or_else(PoisonError::into_inner);
            report.slowest.push((started.elapsed(), file.name.clone()));
            note(&mut report, &file, judged, say);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let lanes: Vec<_> = (0..options.lanes.max(1))
            .map(|_| scope.spawn(lane))
            .collect();
        for lane in lanes {
            if let Ok(ended) = lane.join() {
                ended?;
            } else {
                bail!("a lane panicked");
            }
        }
        Ok(())
    })?;
    let mut report = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.slowest.sort_by(|a, b| b.cmp(a));
    if options.filter.is_empty() && report.not_expressible * 100 > report.cases * MOST_PERCENT {
        let share = format!("more than {MOST_PERCENT} % of the cases are not for an Envoy");
        report.wrong.push(share);
    }
    Ok(report)
}

fn note(report: &mut Report, file: &File, judged: Result<Judged>, say: &(dyn Fn(&str) + Sync)) {
    match judged {
        Err(error) => {
            let line = format!("{}: {error:#}", file.name);
            say(&line);
            report.wrong.push(line);
        }
        Ok(judged) => {
            for (at, who) in [Who::Explain, Who::Naka, Who::Envoy]
                .into_iter()
                .enumerate()
            {
                let skipped = match who {
                    Who::Explain => !judged.explained,
                    Who::Naka => false,
                    Who::Envoy => judged.not_expressible,
                };
                let right = !judged.wrong.iter().any(|(wrong, _)| *wrong == who);
                report.right[at] += usize::from(right && !skipped);
            }
            report.not_expressible += usize::from(judged.not_expressible);
            report.later += judged.later;
            for (who, why) in judged.wrong {
                let line = format!("{}: {who}: {why}", file.name);
                say(&line);
                report.wrong.push(line);
            }
        }
    }
}

/// Requests that must go to one endpoint and go to another one from an Envoy than from Naka's proxies.
fn apart(file: &File, seen: &BTreeMap<Who, Vec<Option<Vec<Seen>>>>) -> Vec<(Who, String)> {
    let (Some(naka), Some(envoy)) = (seen.get(&Who::Naka), seen.get(&Who::Envoy)) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for ((wanted, naka), envoy) in file.case.requests.iter().zip(naka).zip(envoy) {
        let (Some(naka), Some(envoy)) = (naka, envoy) else {
            continue;
        };
        let (naka, envoy) = (Verdict::places(naka), Verdict::places(envoy));
        if wanted.verdict.sticky && naka != envoy {
            let why = format!("{}: goes to {envoy:?}, Naka to {naka:?}", wanted.request);
            wrong.push((Who::Envoy, why));
        }
    }
    wrong
}

fn judge(lane: &mut Lane, file: &File, features: &BTreeSet<&str>) -> Result<Judged> {
    let mut judged = Judged::default();
    let mut who = vec![Who::Naka];
    match file.case.envoy.as_deref() {
        None => who.push(Who::Envoy),
        Some(why) => {
            let feature = why.strip_prefix("not expressible: ").unwrap_or_default();
            if !features.contains(feature) {
                bail!("envoy: {why:?} names no feature of cases/{LIST}");
            }
            judged.not_expressible = true;
        }
    }
    let via = file.case.caller.via;
    judged.explained = file
        .case
        .requests
        .iter()
        .any(|wanted| wanted.explained(via));
    let (set, outcome) = lane.run(file, &who)?;
    let explained = explained::judge(file, &set.objects);
    judged
        .wrong
        .extend(explained.into_iter().map(|why| (Who::Explain, why)));
    judged.wrong.extend(apart(file, &outcome.seen));
    for (who, all) in &outcome.seen {
        for (wanted, first) in file.case.requests.iter().zip(all) {
            let Some(first) = first else { continue };
            let mut why = wanted.verdict.differs(*who, first);
            for pause in SETTLE {
                if why.is_none() {
                    break;
                }
                std::thread::sleep(pause);
                let again = lane
                    .ask(file, wanted, *who, &set.certs)?
                    .unwrap_or_default();
                why = wanted.verdict.differs(*who, &again);
                judged.later += usize::from(why.is_none());
            }
            if let Some(why) = why {
                let trail = first.first().map_or("", |one| &one.trail);
                let line = format!("{}: {why} {trail}", wanted.request);
                judged.wrong.push((*who, line));
            }
        }
    }
    Ok(judged)
}
