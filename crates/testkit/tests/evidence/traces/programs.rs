//! Six services as the test's own threads behind real sidecars: `order` calls `user`, `inventory` and `payment`, `payment`
//! calls `bank`, `bank` calls `ledger`. `mouth` only calls.
//!
//! `x-fail` names who answers 500 instead of calling anybody, `x-swallow` who takes that for no failure, `x-slow` who
//! waits until it is let go on. Below `/pass` the trace is passed on, below `/drop` it is not.

use naka_testkit::http1::{Client, Head, read_head};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::{Program, free_port};
use naka_testkit::wait::until;
use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

/// All that are called.
pub(super) const SERVICES: [&str; 6] = ["order", "user", "inventory", "payment", "bank", "ledger"];
const CALLERS: usize = 6;

fn called_by(service: &str) -> &'static [&'static str] {
    match service {
        "order" => &["user", "inventory", "payment"],
        "payment" => &["bank"],
        "bank" => &["ledger"],
        _ => &[],
    }
}

/// A request that failed somewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Failing {
    /// As the first program saw it.
    pub(super) trace: String,
    /// Requests that programs served for it.
    pub(super) served: u64,
    /// Whether whoever called made nothing of it.
    pub(super) swallowed: bool,
}

/// What the programs saw, and what holds them up.
#[derive(Debug, Default)]
struct Seen {
    failing: Mutex<HashMap<String, Failing>>,
    /// Trace and state at the last program.
    last: Mutex<(String, bool)>,
    gate: Mutex<bool>,
    opened: Condvar,
}

/// The mesh and its programs.
pub(super) struct Ground {
    pub(super) mesh: Mesh,
    mouth: String,
    seen: Arc<Seen>,
    _runs: Vec<Program>,
}

impl Ground {
    pub(super) fn new(options: &[&str]) -> Self {
        let mesh = Mesh::up_with(options);
        let seen = Arc::new(Seen::default());
        let print = ["sh", "-c", "echo $http_proxy; exec sleep 100000"];
        let proxy = |run: &Program| {
            until(format_args!("a sidecar: {}", run.said()), SOON, || {
                let out = run.out();
                out.contains("http://").then(|| out.trim().to_owned())
            })
        };
        let mut runs = Vec::new();
        // One after the other: a port is free for a moment only while others start programs, too.
        for service in SERVICES {
            let port = free_port();
            let with = format!("{port}/http");
            let run = mesh.run(
                service,
                &["-s", service, "-p", &with, "--capture", "proxy"],
                &print,
            );
            let (proxy, seen) = (proxy(&run), Arc::clone(&seen));
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (proxy, seen) = (proxy.clone(), Arc::clone(&seen));
                    std::thread::spawn(move || {
                        let _ = serve(stream, service, &proxy, &seen);
                    });
                }
            });
            runs.push((service, port, run));
        }
        let mouth = mesh.run(
            "mouth",
            &["--service-account", "mouth", "--capture", "proxy"],
            &print,
        );
        for (service, port, run) in &runs {
            mesh.wait_ready(service, Some(&port.to_string()), run);
        }
        let ground = Self {
            mouth: proxy(&mouth),
            mesh,
            seen,
            _runs: runs
                .into_iter()
                .map(|(_, _, run)| run)
                .chain([mouth])
                .collect(),
        };
        until("all are called", SOON, || {
            (ground.call("/pass/first", &[]) == 200).then_some(())
        });
        ground
    }

    /// One call; its status.
    pub(super) fn call(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut client = Client::through(&self.mouth).expect("a sidecar");
        let url = format!("http://order{path}");
        client
            .request("POST", &url, headers, b"")
            .map_or(0, |answer| answer.status)
    }

    /// Trace at the last program, and whether a state came along.
    pub(super) fn last(&self) -> (String, bool) {
        self.seen
            .last
            .lock()
            .expect("nobody panicked with it")
            .clone()
    }

    /// Lets whoever was to be slow go on.
    pub(super) fn go_on(&self) {
        *self.seen.gate.lock().expect("nobody panicked with it") = true;
        self.seen.opened.notify_all();
    }

    /// Many calls as fast as they go, one in so many of which fails; those.
    pub(super) fn load(&self, path: &str, requests: usize, one_in: usize) -> Vec<Failing> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    let mut client = Client::through(&self.mouth).expect("a sidecar");
                    loop {
                        let number = next.fetch_add(1, SeqCst);
                        if number >= requests {
                            return;
                        }
                        let fails = fastrand::usize(..one_in) == 0 || number.is_multiple_of(one_in);
                        let status = self.one(&mut client, path, number, fails);
                        assert!(fails || status == 200, "{path} {number}: {status}");
                    }
                });
            }
        });
        let failing =
            std::mem::take(&mut *self.seen.failing.lock().expect("nobody panicked with it"));
        failing.into_values().collect()
    }

    fn one(&self, client: &mut Client, path: &str, number: usize, fails: bool) -> u16 {
        let id = format!("{path}-{number}");
        let url = format!("http://order{path}/{number}");
        let who = SERVICES[fastrand::usize(..SERVICES.len())];
        let above = SERVICES
            .iter()
            .find(|service| called_by(service).contains(&who));
        let mut headers = Vec::new();
        if fails {
            headers.extend([("x-fail", who), ("x-id", id.as_str())]);
            if let Some(above) = above.filter(|_| fastrand::bool()) {
                headers.push(("x-swallow", above));
            }
        }
        client
            .request("POST", &url, &headers, b"")
            .map_or(0, |answer| answer.status)
    }
}

fn serve(stream: TcpStream, service: &'static str, proxy: &str, seen: &Seen) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut client = Client::through(proxy)?;
    while let Some(head) = read_head(&mut reader)? {
        note(service, &head, seen);
        let is = |name: &str| head.header(name) == Some(service);
        if is("x-slow") {
            let shut = seen.gate.lock().expect("nobody panicked with it");
            drop(
                seen.opened
                    .wait_while(shut, |open| !*open)
                    .expect("nobody panicked with it"),
            );
        }
        let fails = is("x-fail");
        let mut status = if fails { 500 } else { 200 };
        let mut passed = vec!["x-fail", "x-id", "x-swallow", "x-slow"];
        if head.target.starts_with("/pass") {
            passed.extend(["traceparent", "tracestate"]);
        }
        let headers: Vec<(&str, &str)> = passed
            .into_iter()
            .filter_map(|name| Some((name, head.header(name)?)))
            .collect();
        for below in called_by(service).iter().filter(|_| !fails) {
            let url = format!("http://{below}{}", head.target);
            let got = client
                .request("POST", &url, &headers, b"")
                .map_or(502, |answer| answer.status);
            if got != 200 && !is("x-swallow") {
                status = got;
            }
        }
        let answer = format!("HTTP/1.1 {status} T\r\ncontent-length: 0\r\n\r\n");
        reader.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Remembers what a request that fails somewhere has come to.
fn note(service: &str, head: &Head, seen: &Seen) {
    let parent = head.header("traceparent").unwrap_or_default();
    let trace = parent.split('-').nth(1).unwrap_or_default();
    if service == "ledger" {
        *seen.last.lock().expect("nobody panicked with it") =
            (trace.to_owned(), head.header("tracestate").is_some());
    }
    if let Some(id) = head.header("x-id") {
        let mut failing = seen.failing.lock().expect("nobody panicked with it");
        let one = failing.entry(id.to_owned()).or_default();
        one.served += 1;
        one.swallowed = head.header("x-swallow").is_some();
        if service == "order" {
            one.trace = trace.to_owned();
        }
    }
}
