//! Endpoints that fail all at once, or by turns (row 49). What becomes of calls then is defined: none to who is out,
//! calls to all of them where the rule says that too few are left, and calls again as soon as somebody recovers.

use crate::ground::{Ground, Side};
use crate::wire::{connect, read_all, status};
use crate::{Attack, Outcome, outcome};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 49,
        name: "all endpoints fail and are out",
        run: |g, s| all_fail(g, s, "none", 0),
    },
    Attack {
        row: 49,
        name: "all endpoints fail and the rule wants half of them",
        run: |g, s| all_fail(g, s, "half", 50),
    },
    Attack {
        row: 49,
        name: "an endpoint that fails by turns",
        run: flapping,
    },
];

/// An endpoint that fails when it is told to.
#[derive(Default)]
struct Fragile {
    fails: AtomicBool,
    calls: AtomicUsize,
}

impl Fragile {
    fn start() -> (Arc<Self>, SocketAddr) {
        let one = Arc::<Self>::default();
        let own = Arc::clone(&one);
        let address = crate::naive::listen(move |mut stream| {
            let mut room = [0; 4096];
            while stream.read(&mut room).is_ok_and(|count| count > 0) {
                own.calls.fetch_add(1, SeqCst);
                let answer = match own.fails.load(SeqCst) {
                    true => "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n",
                    false => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                };
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        });
        (one, address)
    }
}

/// Two endpoints under a name; with the rule that ejects, or without it. `least` is minHealthPercent.
fn service(ground: &Ground, name: &str, guarded: bool, least: u8) -> [Arc<Fragile>; 2] {
    let all = [Fragile::start(), Fragile::start()];
    let ports = all.each_ref().map(|(_, address)| address.port());
    let entry = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.fragile.example]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}, {{address: 127.0.0.1, ports: {{http: {}}}}}]\n",
        ports[0], ports[1]
    );
    let rule = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n  host: {name}.fragile.example\n  trafficPolicy:\n    loadBalancer: {{simple: ROUND_ROBIN}}\n    outlierDetection: {{consecutive5xxErrors: 3, interval: 20ms, baseEjectionTime: 700ms, maxEjectionPercent: 100, minHealthPercent: {least}}}\n"
    );
    let rule = if guarded { rule } else { String::new() };
    ground
        .mesh
        .apply(&format!("{name}.yaml"), &[entry, rule].concat());
    all.map(|(one, _)| one)
}

fn call(ground: &Ground, name: &str) -> String {
    let mut stream = connect(ground.outbound, Duration::from_secs(10));
    let host = format!("{name}.fragile.example");
    let text = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(text.as_bytes());
    String::from_utf8_lossy(&read_all(&mut stream).0).into_owned()
}

/// Calls until they are answered like this, and how many it took; `None` when they never are.
fn until_answered(ground: &Ground, name: &str, wanted: &str) -> Option<usize> {
    let end = Instant::now() + Duration::from_secs(15);
    let mut calls = 0;
    while Instant::now() < end {
        calls += 1;
        if status(&call(ground, name)) == wanted {
            return Some(calls);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    None
}

fn all_fail(ground: &Ground, side: Side, name: &str, least: u8) -> Outcome {
    let guarded = side == Side::Naka;
    let name = format!("{name}-{guarded}");
    let all = service(ground, &name, guarded, least);
    if until_answered(ground, &name, "200").is_none() {
        return outcome(guarded, "never served");
    }
    let calls = || all.iter().map(|one| one.calls.load(SeqCst)).sum::<usize>();
    for one in &all {
        one.fails.store(true, SeqCst);
    }
    let before = calls();
    let answers: Vec<String> = (0..100).map(|_| call(ground, &name)).collect();
    let reached = calls() - before;
    let count = |word: &str| answers.iter().filter(|a| status(a) == word).count();
    let (own, theirs) = (count("503"), count("500"));
    let told = answers.iter().filter(|answer| {
        let head = answer.to_ascii_lowercase();
        head.contains("x-naka-reason") || head.contains("x-naka-note")
    });
    let told = told.count();
    for one in &all {
        one.fails.store(false, SeqCst);
    }
    let back = until_answered(ground, &name, "200");
    let seen = format!(
        "of 100 calls {reached} reached them, {own} got 503 and {theirs} their 500, {told} with a word for it; served again after {} calls",
        back.map_or("no number of".to_owned(), |calls| calls.to_string())
    );
    if side == Side::Open {
        return outcome(reached == 100, seen);
    }
    let right = match least {
        // Out: some calls until they are, some when one is let in again.
        0 => own > 0 && reached < 60,
        // Too few are left: all of them are called, and that is said.
        _ => theirs == 100 && reached >= 100 && told > 0,
    };
    outcome(!right || back.is_none(), seen)
}

/// One of two endpoints fails all the time but for its first call after each return.
fn flapping(ground: &Ground, side: Side) -> Outcome {
    let guarded = side == Side::Naka;
    let name = format!("turns-{guarded}");
    let all = service(ground, &name, guarded, 0);
    if until_answered(ground, &name, "200").is_none() {
        return outcome(guarded, "never served");
    }
    let mut failed = 0;
    for n in 0..300 {
        all[0].fails.store(n % 40 > 2, SeqCst);
        failed += usize::from(status(&call(ground, &name)) != "200");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let seen = format!("{failed} of 300 calls failed");
    match side {
        Side::Naka => outcome(failed > 45, seen),
        Side::Open => outcome(failed > 100, seen),
    }
}
