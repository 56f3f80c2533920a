//! Policies with CUSTOM, where who is asked is slow, broken or lying, where a caller hides something from it (row 22), and
//! where somebody wants the proxy to ask an address that is nobody's business (row 27).
//!
//! Landed when a call reaches the program that should have been asked about, or when the address was called. Each attack
//! begins with an answer that lets a call through, so that a door that is shut for everybody withstands nothing. Without
//! the guard: the same provider set to fail open, the program without a proxy, the address declared as a service.

use crate::ground::{Ground, Side};
use crate::wire::{connect, send, status};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::wait::until;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 42,
        name: "an authorizer that is silent, breaks off or talks nonsense",
        run: broken,
    },
    Attack {
        row: 42,
        name: "callers that leave while the authorizer is asked",
        run: leave,
    },
    Attack {
        row: 22,
        name: "a header that hides from the authorizer behind another",
        run: hidden,
    },
    Attack {
        row: 27,
        name: "an authorizer at an address of nobody",
        run: nobody,
    },
];

/// What the authorizer does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Allow,
    Nothing,
    HangUp,
    BreakOff,
    Nonsense,
    NoStatus,
    TooLong,
    Interim,
    RefuseEvil,
}

/// An authorizer by HTTP that does what it is told to.
struct Authorizer {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Authorizer {
    fn start() -> Self {
        let (does, heard) = (
            Arc::new(Mutex::new(Does::Allow)),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (what, list) = (Arc::clone(&does), Arc::clone(&heard));
        let address = crate::naive::listen(
            move |stream| {
                while answer(&stream, &what, &list).is_some() {}
            },
        );
        Self {
            address,
            does,
            heard,
        }
    }

    fn set(&self, does: Does) {
        *self.does.lock().expect("whole") = does;
    }

    fn heard(&self) -> usize {
        self.heard.lock().expect("whole").len()
    }
}

/// One question; `None` when the connection is over.
fn answer(stream: &TcpStream, does: &Mutex<Does>, heard: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    loop {
        let before = head.len();
        if lines.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let evil = head.contains("evil");
    heard.lock().expect("whole").push(head);
    let mut stream = stream;
    let mut say = |text: &str| stream.write_all(text.as_bytes()).ok();
    let does = *does.lock().expect("whole");
    match does {
        Does::RefuseEvil if evil => say("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"),
        Does::Allow | Does::RefuseEvil => say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        // Until the other side has had enough.
        Does::Nothing => {
            let _ = lines.read_line(&mut String::new());
            None
        }
        Does::HangUp => None,
        Does::BreakOff => {
            say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
            None
        }
        Does::Nonsense => {
            say("\0\0\u{1}allowed\r\n\r\n")?;
            None
        }
        Does::NoStatus => {
            say("HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n")?;
            None
        }
        Does::TooLong => {
            say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
            while say(&chunk).is_some() {}
            None
        }
        Does::Interim => {
            while say("HTTP/1.1 102 Processing\r\n\r\n").is_some() {}
            None
        }
    }
}

/// The provider, as a service of the mesh, and the policy that asks it.
fn objects(address: SocketAddr, host: &str, open: bool) -> String {
    let port = address.port();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: asked, namespace: default}}\nspec:\n  hosts: [asked.example]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]\n---\n{}---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: asked, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: CUSTOM\n  provider: {{name: attacked}}\n  rules: [{{to: [{{operation: {{paths: ['/asked*']}}}}]}}]\n",
        provider(host, 80, open)
    )
}

fn provider(host: &str, port: u16, open: bool) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n    - name: attacked\n      envoyExtAuthzHttp: {{service: '{host}', port: {port}, timeout: 0.3s, failOpen: {open}, includeRequestHeadersInCheck: [x-told]}}\n"
    )
}

/// Status of a call.
fn ask(ground: &Ground, target: &str, headers: &[&str]) -> String {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{more}\r\n");
    let mut stream = connect(ground.published, Duration::from_secs(10));
    let _ = stream.write_all(request.as_bytes());
    let (answer, _) = crate::wire::read_all(&mut stream);
    status(&String::from_utf8_lossy(&answer)).to_owned()
}

/// The policy in force, and a call let through by who is asked.
fn door(ground: &Ground, open: bool) -> Authorizer {
    let authorizer = Authorizer::start();
    let all = objects(authorizer.address, "asked.example", open);
    ground.mesh.apply("asked.yaml", &all);
    until("somebody to be asked", SOON, || {
        let got = ask(ground, "/asked/probe", &[]);
        (got == "200" && authorizer.heard() > 0).then_some(())
    });
    ground.program.forget();
    authorizer
}

fn broken(ground: &Ground, side: Side) -> Outcome {
    let authorizer = door(ground, side == Side::Open);
    let mut answers = Vec::new();
    for does in [
        Does::Nothing,
        Does::HangUp,
        Does::BreakOff,
        Does::Nonsense,
        Does::NoStatus,
        Does::TooLong,
        Does::Interim,
    ] {
        authorizer.set(does);
        for _ in 0..3 {
            answers.push(ask(ground, "/asked/1", &[]));
        }
    }
    let reached = ground.program.count("/asked/1");
    authorizer.set(Does::Allow);
    let after = ask(ground, "/asked/2", &[]);
    answers.sort_unstable();
    answers.dedup();
    outcome(
        reached > 0 || after != "200",
        format!("{reached} of 21 reached the program, answers {answers:?}, afterwards {after}"),
    )
}

/// A hundred callers that leave; what is held for them is counted afterwards.
fn leave(ground: &Ground, side: Side) -> Outcome {
    let authorizer = door(ground, false);
    let before = ground.descriptors();
    authorizer.set(Does::Nothing);
    let request = b"GET /asked/1 HTTP/1.1\r\nhost: web\r\n\r\n";
    let mut callers = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(ground.published, Duration::from_secs(1));
        let _ = stream.write_all(request);
        callers.push(stream);
    }
    until("all of them to be asked about", SOON, || {
        (authorizer.heard() > 90).then_some(())
    });
    // Without the guard they stay.
    if side == Side::Naka {
        callers.clear();
    }
    let end = Instant::now() + Duration::from_secs(5);
    while ground.descriptors() > before + 10 && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let held = ground.descriptors().saturating_sub(before);
    let reached = ground.program.count("/asked/1");
    authorizer.set(Does::Allow);
    outcome(
        held > 10 || reached > 0,
        format!("{held} files more are open, {reached} reached the program"),
    )
}

/// Values that stand behind a harmless one.
fn hidden(ground: &Ground, side: Side) -> Outcome {
    let authorizer = door(ground, false);
    authorizer.set(Does::RefuseEvil);
    let mut answers = Vec::new();
    for headers in [
        vec!["x-told: good", "x-told: evil"],
        vec!["x-told: evil", "x-told: good"],
        vec!["x-told: good", "X-Told: evil", "x-told: good"],
        vec!["x-told: good, evil"],
        vec!["x-told: good", "x-told:", "x-told: evil"],
    ] {
        answers.push(match side {
            Side::Naka => ask(ground, "/asked/1", &headers),
            Side::Open => {
                let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
                let text = format!(
                    "GET /asked/1 HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{more}\r\n"
                );
                let (answer, _) = send(ground.naive.http1, text.as_bytes());
                status(&answer).to_owned()
            }
        });
    }
    let reached = ground.program.count("/asked/1");
    authorizer.set(Does::Allow);
    outcome(
        reached > 0,
        format!("{reached} of 5 reached the program, answers {answers:?}"),
    )
}

/// Providers that are no service of the mesh.
fn nobody(ground: &Ground, side: Side) -> Outcome {
    let authorizer = door(ground, false);
    let own = authorizer.address.port();
    let wanted: Vec<(String, u16)> = match side {
        Side::Naka => [
            "127.0.0.1",
            "localhost",
            "169.254.169.254",
            "[::1]",
            "undeclared.example",
            "metadata.google.internal",
            "control.istio-system.svc.cluster.local",
        ]
        .map(|host| (host.to_owned(), own))
        .into(),
        Side::Open => vec![("asked.example".to_owned(), 80)],
    };
    let (mut asked, mut reached, mut answers) = (0, 0, Vec::new());
    for (host, port) in &wanted {
        let file = ground
            .mesh
            .file("provider.yaml", &provider(host, *port, true));
        ground
            .mesh
            .naka(["apply", "--wait", "-f", file.to_str().expect("printable")]);
        if side == Side::Naka {
            until(format_args!("{host} not to be asked"), SOON, || {
                (ask(ground, "/asked/0", &[]) == "403").then_some(())
            });
        }
        let before = authorizer.heard();
        answers.push(ask(ground, "/asked/1", &[]));
        asked += authorizer.heard() - before;
        reached += ground.program.count("/asked/1");
        ground.program.forget();
    }
    let settled = objects(authorizer.address, "asked.example", false);
    ground.mesh.apply("asked.yaml", &settled);
    outcome(
        asked > 0 || side == Side::Naka && reached > 0,
        format!("{asked} questions came, {reached} calls reached the program, answers {answers:?}"),
    )
}
