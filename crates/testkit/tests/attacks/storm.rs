//! A retry storm (row 48): the last program of a chain answers every call with 503, and each proxy of the chain repeats
//! calls as it does by default. Landed when the last program gets more than 1.2 times the calls that were made.
//!
//! Two storms against each chain: through programs that pass `traceparent` on, so that only the hop next to the failure
//! retries, and through programs that pass nothing on, so that each hop has its reserve. The other side has neither:
//! a `retryBudget` somebody wrote has no reserve, and nothing is passed on.

use crate::ground::{Ground, Side};
use crate::naive::listen_at;
use crate::{Attack, Outcome, outcome};
use naka_testkit::http1::{Client, read_head};
use naka_testkit::mesh::SOON;
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    row: 48,
    name: "retry storm through a chain of four",
    run: storm,
}];

/// Who calls whom; the first is only a caller.
const CHAIN: [&str; 5] = ["mouth", "first", "second", "third", "last"];
const CALLERS: usize = 16;
/// Calls of each caller; where nothing holds a storm back, each becomes up to 81.
const CALLS: usize = 125;
const CALLS_UNHELD: usize = 2;
/// Answers that fill the reserves of a chain again.
const FILLING: usize = 20;

/// What a program's sidecar takes calls by, and the program's own port.
struct Member {
    proxy: String,
    own: u16,
    _run: Program,
}

fn member(ground: &Ground, name: &str) -> Member {
    let own = free_port();
    let port = format!("{own}/http");
    let options = ["-s", name, "-p", &port, "--capture", "proxy"];
    let print = ["sh", "-c", "echo $http_proxy; exec sleep 100000"];
    let run = ground.mesh.run(name, &options, &print);
    let proxy = until(
        format_args!("the sidecar of {name}: {}", run.err()),
        SOON,
        || {
            let out = run.out();
            out.contains("http://").then(|| out.trim().to_owned())
        },
    );
    Member {
        proxy,
        own,
        _run: run,
    }
}

/// Answers each call with the status of its own call to the next, `/pass…` with its trace.
fn serve(stream: TcpStream, proxy: &str, next: &str) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut client = Client::through(proxy)?;
    while let Some(head) = read_head(&mut reader)? {
        let url = format!("http://{next}{}", head.target);
        let parent = head.header("traceparent").unwrap_or_default();
        let passed = [("traceparent", parent)];
        let headers = if head.target.starts_with("/pass") {
            &passed[..]
        } else {
            &[]
        };
        let status = client
            .request("GET", &url, headers, b"")
            .map_or(502, |a| a.status);
        let answer = format!("HTTP/1.1 {status} T\r\ncontent-length: 0\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// The last program: counts storms.
fn fail(stream: TcpStream, count: &AtomicUsize) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let fails = head.target.ends_with("/storm");
        count.fetch_add(usize::from(fails), SeqCst);
        let status = if fails { 503 } else { 200 };
        let answer = format!("HTTP/1.1 {status} T\r\ncontent-length: 0\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Many callers at once; how many calls got this status.
fn calls(proxy: &str, url: &str, each: usize, want: u16) -> usize {
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let Ok(mut client) = Client::through(proxy) else {
                    return;
                };
                for _ in 0..each {
                    let answer = client.request("GET", url, &[], b"");
                    let right = answer.is_ok_and(|answer| answer.status == want);
                    got.fetch_add(usize::from(right), SeqCst);
                }
            });
        }
    });
    got.into_inner()
}

fn budgets(names: &[String]) -> String {
    let rule = |name: &String| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {name}, trafficPolicy: {{retryBudget: {{percent: 100, minRetryConcurrency: 1000}}}}}}\n"
        )
    };
    names.iter().map(rule).collect::<Vec<_>>().join("---\n")
}

fn storm(ground: &Ground, side: Side) -> Outcome {
    let word = if side == Side::Naka { "held" } else { "open" };
    let names = CHAIN.map(|name| format!("{name}-{word}"));
    if side == Side::Open {
        ground.mesh.apply("budgets.yaml", &budgets(&names[1..]));
    }
    let members: Vec<Member> = names.iter().map(|name| member(ground, name)).collect();
    let count = Arc::new(AtomicUsize::new(0));
    for (at, member) in members.iter().enumerate().skip(1) {
        match names.get(at + 1).cloned() {
            Some(next) => {
                let proxy = member.proxy.clone();
                listen_at(member.own, move |stream| {
                    // A caller that goes away ends its connection.
                    let _ = serve(stream, &proxy, &next);
                });
            }
            None => {
                let count = Arc::clone(&count);
                listen_at(member.own, move |stream| {
                    let _ = fail(stream, &count);
                });
            }
        }
    }
    let mouth = &members[0].proxy;
    let url = |path: &str| format!("http://{}{path}", names[1]);
    until("an answer from the end of the chain", SOON, || {
        (calls(mouth, &url("/fill"), 1, 200) == CALLERS).then_some(())
    });
    let storms: &[(&str, usize)] = match side {
        Side::Naka => &[("/pass/storm", CALLS), ("/storm", CALLS)],
        Side::Open => &[("/storm", CALLS_UNHELD)],
    };
    let (mut landed, mut seen) = (false, Vec::new());
    for (path, each) in storms {
        calls(mouth, &url("/fill"), FILLING, 200);
        let before = count.load(SeqCst);
        let (made, failed) = (CALLERS * each, calls(mouth, &url(path), *each, 503));
        let got = count.load(SeqCst) - before;
        landed |= got * 10 > made * 12;
        seen.push(format!(
            "{made} calls of {path}, {failed} answered 503, {got} at the last program"
        ));
    }
    outcome(landed, seen.join(", "))
}
