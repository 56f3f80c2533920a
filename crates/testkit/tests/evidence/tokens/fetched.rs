//! Keys that are fetched: a server of this test gives them, changes them and goes away.

use super::token;
use crate::envoy;
use naka_testkit::http1::base64;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::free_port;
use naka_testkit::wait::until;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The key that signs the tokens of the attacks' list.
const OWN: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn set(key: &str) -> String {
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{key}"}}]}}"#)
}

/// Somebody else's key.
fn other() -> String {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let text = base64(pair.public_key_raw());
    let text = text.trim_end_matches('=');
    text.replace('+', "-").replace('/', "_")
}

/// A server of keys; it ends with this value.
struct Issuer {
    port: u16,
    keys: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    fn at(port: u16, key: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
        let keys = Arc::new(Mutex::new(set(key)));
        let (asked, over) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let (text, count, end) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let text = text.lock().expect("whole").clone();
                if answer(stream, &text).is_some() {
                    count.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        Self {
            port,
            keys,
            asked,
            over,
            thread: Some(thread),
        }
    }

    fn rotate(&self, key: &str) {
        *self.keys.lock().expect("whole") = set(key);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // One more connection wakes the thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, text: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let status = match first.starts_with("GET /keys HTTP/1.1") {
        true => "200 OK",
        false => "404 Not Found",
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )
    .ok()
}

/// Status of a call with Alice's token, and without one.
fn called(mesh: &Mesh, service: &str) -> (String, String) {
    let one = |more: &str| {
        format!("curl -s -m 20 -o /dev/null -w '%{{http_code}} ' {more} http://{service}/")
    };
    let bearer = format!("-H 'authorization: Bearer {}'", token("sound", 0));
    let script = format!("{}; {}", one(&bearer), one(""));
    let mut run = mesh.run(
        &format!("asks-{service}"),
        &["-s", "order"],
        &["sh", "-c", &script],
    );
    crate::traffic::finish(&mut run);
    // The log holds what earlier runs of that name said, too.
    let out = run.out();
    let mut words = out.split_whitespace().rev().map(str::to_owned);
    let mut last = || words.next().unwrap_or_default();
    let without = last();
    (last(), without)
}

fn becomes(mesh: &Mesh, services: &[&str], status: &str, why: &str) {
    for service in services {
        until(
            format_args!("{service} answers {status}: {why}"),
            SOON,
            || {
                let (with, without) = called(mesh, service);
                assert_eq!(
                    without, "200",
                    "{service}: without a token nothing is demanded"
                );
                (with == status).then_some(())
            },
        );
    }
}

/// What `naka check` says of the keys, by code.
fn said(mesh: &Mesh, code: &str, has: bool) {
    until(format_args!("naka check tells {code}: {has}"), SOON, || {
        let check = mesh.naka(["check"]);
        let text = String::from_utf8_lossy(&check.stdout).into_owned()
            + &String::from_utf8_lossy(&check.stderr);
        (text.contains(code) == has).then_some(())
    });
}

/// Tokens of an issuer whose keys were never fetched are refused; keys that come are in force at a Naka and at an Envoy;
/// others that come later replace them; while nobody answers the last ones stay, over a restart of the control plane
/// too. The twin: without the object nothing is looked at.
#[test]
fn fetched_keys_are_in_force_rotate_and_outlive_their_server() {
    let mut mesh = Mesh::up_with(&["--jwks-refresh", "1s"]);
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let both = ["payment", "ledger"];
    let port = free_port();
    let objects = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: default}}\nspec:\n  jwtRules:\n  - {{issuer: 'https://issuer.example', jwksUri: 'http://127.0.0.1:{port}/keys', timeout: 2s}}\n"
    );
    becomes(&mesh, &both, "200", "nothing is demanded yet");
    mesh.apply("fetched.yaml", &objects);
    becomes(&mesh, &both, "401", "nobody answers with keys");
    said(&mesh, "E952", true);
    let shown = mesh.ok(["describe", "requestauthentication", "users"]);
    assert!(shown.contains("no connection"), "{shown}");

    let (wrong, issuer) = (other(), Issuer::at(port, &other()));
    said(&mesh, "E952", false);
    assert!(issuer.asked() > 0);
    becomes(&mesh, &both, "401", "keys of somebody else");
    issuer.rotate(OWN);
    becomes(&mesh, &both, "200", "its own keys");

    drop(issuer);
    said(&mesh, "W952", true);
    becomes(&mesh, &both, "200", "the last keys stay");
    mesh.kill_control();
    mesh.start_control();
    said(&mesh, "W952", true);
    let _till = mesh.serve("till", "v1");
    let all = ["payment", "ledger", "till"];
    becomes(
        &mesh,
        &all,
        "200",
        "kept over a restart, for those that come later too",
    );

    let issuer = Issuer::at(port, &wrong);
    becomes(&mesh, &all, "401", "the old key is taken back");
    said(&mesh, "W952", false);
    mesh.ok(["delete", "requestauthentication", "users"]);
    becomes(&mesh, &all, "200", "nobody demands anything");
    println!("the issuer was asked {} times at last", issuer.asked());
}
