//! All cases, in lanes beside each other, and the line that sums them up.

use super::case::{self, File, Twin, Verdict};
use super::explained;
use super::fields::{self, Field};
use super::generate;
use super::lane::{Callers, Lane};
use super::seen::{Seen, Who};
use super::topology::Set;
use super::upstream::Upstreams;
use anyhow::{Context, Result, bail};
use naka_api::Kind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where cases made by chance seem to lie.
const GENERATE: &str = "generated";
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

/// Cases made by chance in each run.
const GENERATED: u64 = 30;

/// What is to be done.
#[derive(Debug)]
pub struct Options {
    /// Of what is made by chance.
    pub seed: u64,
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
    /// Cases made by chance, and those on which all agree.
    pub generated: [usize; 2],
    /// What has been seen of fields.
    pub seen: BTreeMap<Field, fields::Seen>,
    /// Fields proven, of all; none when only some cases ran.
    pub fields: Option<(BTreeSet<Field>, BTreeSet<Field>)>,
    /// Requests that were right at a later look only: whose, and what the first look saw.
    pub later: Vec<String>,
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
        let fields = self.fields.as_ref().map_or(String::new(), |(full, all)| {
            format!(", fields {} of {}", full.len(), all.len())
        });
        format!(
            "cases {}, explain {explain} ok, naka {naka} ok, envoy {envoy} ok, {} not expressible{fields}",
            self.cases, self.not_expressible
        )
    }
}

/// A case to run.
#[derive(Debug)]
struct Job {
    file: File,
    /// Its text, where chance made it.
    made: Option<String>,
}

/// What one case came to.
#[derive(Debug, Default)]
struct Judged {
    seen: BTreeMap<Field, fields::Seen>,
    wrong: Vec<(Who, String)>,
    /// Whether explain had something to say of it.
    explained: bool,
    not_expressible: bool,
    later: Vec<String>,
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
            Err(error) => {
                let line = format!("{error:#}");
                say(&line);
                report.wrong.push(line);
            }
        }
    }
    report.cases = files.len();
    // Cases of the same callers follow each other.
    files.sort_by_key(|file| (Callers::of(file, &file.case.requests[0]), file.name.clone()));
    let mut jobs: VecDeque<Job> = files
        .into_iter()
        .map(|file| Job { file, made: None })
        .collect();
    let all = options.filter.is_empty();
    if all || GENERATE.contains(&options.filter) {
        for number in 0..GENERATED {
            let name = format!("{GENERATE}/{}-{number}", options.seed);
            let text = generate::text(options.seed, number);
            let file = generate::predicted(&name, &text)?;
            let made = Some(text);
            jobs.push_back(Job { file, made });
        }
    }
    let queue = Mutex::new(jobs);
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
            let Some(job) = next else { return Ok(()) };
            let started = Instant::now();
            let judged = judge(&mut lane, &job, &features);
            let mut report = shared.lock().unwrap_or_else(PoisonError::into_inner);
            report
                .slowest
                .push((started.elapsed(), job.file.name.clone()));
            note(&mut report, &job, judged, say);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let lanes: Vec<_> = (0..options.lanes.max(1))
            .map(|_| scope.spawn(lane))
            .collect();
        if all {
            let seen = proofs()?;
            let mut report = shared.lock().unwrap_or_else(PoisonError::into_inner);
            for (field, seen) in seen {
                report.seen.entry(field).or_default().join(seen);
            }
        }
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
    if all {
        let wanted = fields::wanted()?;
        let full = fields::full(&wanted, &report.seen)?;
        report.fields = Some((full, wanted));
    }
    if all && report.not_expressible * 100 > report.cases * MOST_PERCENT {
        let share = format!("more than {MOST_PERCENT} % of the cases are not for an Envoy");
        report.wrong.push(share);
    }
    Ok(report)
}

/// What explain sees of the fields that cases are named for.
fn proofs() -> Result<BTreeMap<Field, fields::Seen>> {
    let mut all: BTreeMap<Field, fields::Seen> = BTreeMap::new();
    for (name, wanted) in fields::listed()? {
        let file = File::read(&case::root().join(name))?;
        for (field, seen) in fields::proven(&file, &file.objects()?, &wanted) {
            all.entry(field).or_default().join(seen);
        }
    }
    Ok(all)
}

/// Keeps the text of a case that chance made, to be run again.
fn keep(name: &str, text: &str) -> Result<PathBuf> {
    let path = case::root().join("../target/referee").join(name);
    let path = path.with_extension("yaml");
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(&path, text)?;
    Ok(path)
}

fn note(report: &mut Report, job: &Job, judged: Result<Judged>, say: &(dyn Fn(&str) + Sync)) {
    let file = &job.file;
    if let Some(text) = &job.made {
        report.generated[0] += 1;
        let right = judged.as_ref().is_ok_and(|judged| judged.wrong.is_empty());
        report.generated[1] += usize::from(right);
        if !right && let Ok(path) = keep(&file.name, text) {
            say(&format!("{} is kept in {}", file.name, path.display()));
        }
    }
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
                report.right[at] += usize::from(right && !skipped && job.made.is_none());
            }
            report.not_expressible += usize::from(judged.not_expressible);
            let later = judged.later.into_iter();
            report
                .later
                .extend(later.map(|told| format!("{}: {told}", file.name)));
            for (field, seen) in judged.seen {
                report.seen.entry(field).or_default().join(seen);
            }
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

fn judge(lane: &mut Lane, job: &Job, features: &BTreeSet<&str>) -> Result<Judged> {
    let file = &job.file;
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
    if job.made.is_none() {
        let explained = explained::judge(file, &set.objects);
        let explained = explained.into_iter().map(|why| (Who::Explain, why));
        judged.wrong.extend(explained);
        if let Some(naka) = outcome.seen.get(&Who::Naka) {
            let fits = told_apart(file, naka).into_iter();
            judged.wrong.extend(fits.map(|why| (Who::Naka, why)));
        }
    }
    judged.wrong.extend(apart(file, &outcome.seen));
    for (who, all) in &outcome.seen {
        for (wanted, first) in file.case.requests.iter().zip(all) {
            let Some(first) = first else { continue };
            let mut why = wanted.verdict.differs(*who, first);
            let first_why = why.clone();
            for pause in SETTLE {
                if why.is_none() {
                    break;
                }
                std::thread::sleep(pause);
                let again = lane
                    .ask(file, wanted, *who, &set.certs)?
                    .unwrap_or_default();
                why = wanted.verdict.differs(*who, &again);
            }
            if let (Some(told), None) = (first_why, &why) {
                judged
                    .later
                    .push(format!("{who}: {}: {told}", wanted.request));
            }
            if let Some(why) = why {
                let trail = first.first().map_or("", |one| &one.trail);
                let line = format!("{}: {why} {trail}", wanted.request);
                judged.wrong.push((*who, line));
            }
        }
    }
    for twin in &file.case.twins {
        judge_twin(lane, file, &set, twin, &mut judged)?;
    }
    Ok(judged)
}

/// A case that only proxies are asked shows nothing when every verdict of it fits every request of it and it has no
/// twins.
fn told_apart(file: &File, asked: &[Option<Vec<Seen>>]) -> Vec<String> {
    let via = file.case.caller.via;
    let requests = &file.case.requests;
    if !file.case.twins.is_empty() || requests.iter().any(|wanted| wanted.explained(via)) {
        return Vec::new();
    }
    let apart = requests.iter().any(|wanted| {
        let mut others = asked.iter().flatten();
        others.any(|other| wanted.verdict.differs(Who::Naka, other).is_some())
    });
    if apart {
        return Vec::new();
    }
    vec!["every verdict fits every request of the case, so it shows nothing".to_owned()]
}

/// Each change of a twin must change a verdict.
fn judge_twin(
    lane: &mut Lane,
    file: &File,
    set: &Set,
    twin: &Twin,
    judged: &mut Judged,
) -> Result<()> {
    let field = twin.path.as_ref().and_then(|path| {
        let kind = Kind::parse(twin.of.split('/').next()?)?;
        Some((kind, path.clone()))
    });
    for (value, objects) in fields::twins(twin, &set.objects)? {
        // The change may not be in force yet at the first look, as above.
        let mut noticed = lane.notices(file, set, &objects)?;
        for pause in SETTLE {
            if noticed {
                break;
            }
            std::thread::sleep(pause);
            noticed = lane.notices(file, set, &objects)?;
        }
        if noticed {
            let seen = fields::Seen {
                absent: value.is_none(),
                boundary: value.is_some(),
            };
            if let Some(field) = &field {
                judged.seen.entry(field.clone()).or_default().join(seen);
            }
            continue;
        }
        let what = match (&twin.path, value) {
            (None, _) => "gone".to_owned(),
            (Some(path), None) => format!("without {path}"),
            (Some(path), Some(value)) => format!("with {path} {value}"),
        };
        let line = format!("twin: {} {what} changes no verdict", twin.of);
        judged.wrong.push((Who::Naka, line));
    }
    Ok(())
}
