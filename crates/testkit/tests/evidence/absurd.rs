//! Objects beyond all measure and objects that make no sense: they are told with the field, what is sound of them is in
//! force, and nobody else notices. What is counted is counted by the called programs, by a load, and by `/proc`.

use crate::count::Joined;
use crate::crowd::resident;
use crate::traffic::{finish, joined, load, split};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::{size, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A load from `order` to `payment` that goes on until it is ended.
fn others(mesh: &Mesh) -> Program {
    let arguments = [
        "--url",
        "http://payment/",
        "--rate",
        "100",
        "--connections",
        "4",
        "--for",
        "600",
    ];
    let load = mesh.load("others", &["-s", "order"], &arguments);
    answered(mesh, 20);
    load
}

/// Waits for so many more answers of the others' load.
fn answered(mesh: &Mesh, more: usize) {
    let before = mesh.logged("others").len();
    wait::until("answers to others", SOON, || {
        (mesh.logged("others").len() > before + more).then_some(())
    });
}

fn ended(mesh: &Mesh, mut load: Program) -> Joined {
    load.signal(Signal::TERM);
    let _ = load.wait(SOON);
    joined(mesh, "others", &["payment-v1", "payment-v2"])
}

/// As many routes as nobody writes by hand, each of which leaves its mark on what the program sees.
fn routes(count: usize) -> String {
    let route = |number: usize| {
        format!(
            "  - match: [{{uri: {{exact: /r{number}}}}}]\n    headers: {{request: {{set: {{x-route: r{number}}}}}}}\n    route: [{{destination: {{host: cart}}}}]\n"
        )
    };
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cart}\nspec:\n  hosts: [cart]\n  http:\n";
    let all: String = (0..count).map(route).collect();
    format!("{head}{all}")
}

/// The marks that one call of each of these paths leaves: `plain` where the program sees none, `unseen` where it sees
/// no call.
fn marks(mesh: &Mesh, name: &str, numbers: &[usize]) -> Vec<String> {
    let before = mesh.logged("cart-v1").len();
    for number in numbers {
        let url = format!("http://cart/r{number}");
        let mut run = mesh.load(name, &["-s", "order"], &["--url", &url, "--count", "1"]);
        finish(&mut run);
    }
    let seen = mesh.logged("cart-v1").split_off(before);
    let of = |number: &usize| {
        let path = format!("/r{number}");
        let line = seen.iter().find(|line| line["path"] == path.as_str());
        line.map_or("unseen".to_owned(), |line| {
            header(&line["headers"], "x-route").unwrap_or_else(|| "plain".to_owned())
        })
    };
    numbers.iter().map(of).collect()
}

/// A header in what a program logged: a list of pairs, or a map.
fn header(headers: &Value, name: &str) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match headers {
        Value::Object(all) => all.get(name).and_then(text),
        Value::Array(all) => all
            .iter()
            .find(|pair| pair[0] == name)
            .and_then(|pair| text(&pair[1])),
        _ => None,
    }
}

/// How long it takes, and how many milliseconds each change of others took to be in force that was made meanwhile.
fn beside(mesh: &Mesh, it: impl FnOnce() + Send) -> (Duration, Vec<u128>) {
    std::thread::scope(|scope| {
        let began = Instant::now();
        let done = scope.spawn(move || {
            it();
            began.elapsed()
        });
        let mut took = Vec::new();
        while !done.is_finished() || took.is_empty() {
            let began = Instant::now();
            // Never the same one twice, so that there is something to push each time.
            let v1 = u32::try_from(took.len() % 99).unwrap_or(0);
            mesh.apply("canary.yaml", &split(v1, 100 - v1));
            took.push(began.elapsed().as_millis());
        }
        (done.join().expect("it is done"), took)
    })
}

/// An object with ten thousand routes is in force from its first to its last one, and calls of others are answered all
/// the while. The twin is the same mesh without the object: the same paths are answered, and no route was chosen.
#[test]
fn ten_thousand_routes_are_in_force_and_disturb_nobody() {
    const ROUTES: usize = 10_000;
    let mesh = Mesh::up();
    let _payment = ["v1", "v2"].map(|version| mesh.serve("payment", version));
    let _cart = mesh.serve("cart", "v1");
    let chosen = [0, ROUTES / 2, ROUTES - 1];
    assert_eq!(marks(&mesh, "before", &chosen), ["plain"; 3]);
    let others = others(&mesh);
    let sidecar = mesh.sidecar_of(&others).expect("a sidecar");
    // Whoever calls it holds it, so that all of it is pushed; the others' sidecar does not.
    let caller = mesh.load(
        "holder",
        &["-s", "holder"],
        &["--url", "http://cart/r1", "--rate", "20", "--for", "600"],
    );
    wait::until("calls of the holder", SOON, || {
        (mesh.logged("holder").len() > 5).then_some(())
    });
    let holder = mesh.sidecar_of(&caller).expect("a sidecar");
    let all = [mesh.control_pid(), sidecar, holder];
    let before = all.map(resident);
    let (first, meanwhile) = beside(&mesh, || mesh.apply("cart.yaml", &routes(ROUTES)));
    let want: Vec<String> = chosen.iter().map(|number| format!("r{number}")).collect();
    wait::until("first, middle and last route are in force", SOON, || {
        (marks(&mesh, "with", &chosen) == want).then_some(())
    });
    // The next change of it, and one of somebody else.
    let began = Instant::now();
    let fewer = routes(ROUTES - 1);
    mesh.apply("cart.yaml", &fewer);
    let again = began.elapsed();
    let last = [ROUTES - 2, ROUTES - 1];
    // No route has the last path any more. A sidecar that starts anew goes by its saved copy until it hears of that.
    let fewer = [format!("r{}", ROUTES - 2), "unseen".to_owned()];
    wait::until("the last route is gone", SOON, || {
        (marks(&mesh, "fewer", &last) == fewer).then_some(())
    });
    let began = Instant::now();
    mesh.apply("canary.yaml", &split(100, 0));
    let small = began.elapsed();
    answered(&mesh, 100);
    let after = all.map(resident);
    println!(
        "{ROUTES} routes in force after {} ms, {} changes of others meanwhile, the slowest within {} ms; changed after {} ms, an object of others after {} ms; KiB of control plane, others' sidecar, holder {before:?} -> {after:?}",
        first.as_millis(),
        meanwhile.len(),
        meanwhile.iter().max().unwrap_or(&0),
        again.as_millis(),
        small.as_millis()
    );
    // Objects are kept as they were written, several times while they are read, so an object of a megabyte takes
    // hundreds of them for a moment. A sidecar holds the names of its namespace, this one too.
    assert!(after[0] < before[0] + 768 * 1024, "the control plane");
    assert!(after[1] < before[1] + 128 * 1024, "the others' sidecar");
    assert!(after[2] < before[2] + 128 * 1024, "the holder's sidecar");
    let got = ended(&mesh, others);
    got.assert_clean();
    drop(caller);
    // Taken away, the last path is answered as before.
    mesh.ok(["delete", "virtualservice", "cart"]);
    wait::until("no route is chosen any more", SOON, || {
        (marks(&mesh, "after", &[ROUTES / 2]) == ["plain"]).then_some(())
    });
}

/// A mistake, the code it gets, and where.
struct Mistake {
    name: &'static str,
    text: String,
    code: &'static str,
    field: &'static str,
}

fn route(name: &str, host: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{host}]\n  http:\n{http}---\n"
    )
}

fn mistakes() -> Vec<Mistake> {
    let to = "route: [{destination: {host: payment}}]";
    let mistake = |name, http: &str, code, field| Mistake {
        name,
        text: route(name, name, http),
        code,
        field,
    };
    let huge = format!(
        "  - {{match: [{{uri: {{regex: '{}'}}}}], {to}}}\n",
        "(a|b)?".repeat(100_000)
    );
    vec![
        mistake(
            "regex",
            &format!("  - {{match: [{{uri: {{regex: '(a'}}}}], {to}}}\n"),
            "E007",
            "spec.http[0].match[0].uri.regex",
        ),
        mistake(
            "huge-regex",
            &huge,
            "E007",
            "spec.http[0].match[0].uri.regex",
        ),
        mistake(
            "no-weight",
            "  - route: [{destination: {host: payment}, weight: 0}, {destination: {host: order}, weight: 0}]\n",
            "E007",
            "spec.http[0].route",
        ),
        mistake(
            "negative-weight",
            "  - route: [{destination: {host: payment}, weight: -1}, {destination: {host: order}, weight: 3}]\n",
            "E007",
            "spec.http[0].route[0].weight",
        ),
        mistake(
            "heavy",
            "  - route: [{destination: {host: payment}, weight: 99999999999}]\n",
            "E007",
            "spec.http[0].route[0].weight",
        ),
        mistake(
            "endless",
            &format!("  - {{timeout: 99999999999999999999h, {to}}}\n"),
            "E007",
            "spec.http[0].timeout",
        ),
        mistake(
            "backwards",
            &format!("  - {{timeout: -1s, {to}}}\n"),
            "E007",
            "spec.http[0].timeout",
        ),
        Mistake {
            name: "two-claim",
            text: route("two-claim", "claimed", &format!("  - {to}\n"))
                + &route("two-claim-too", "claimed", &format!("  - {to}\n")),
            code: "L316",
            field: "spec.hosts[0]",
        },
        Mistake {
            name: "circle",
            text: route(
                "circle",
                "circle",
                "  - {match: [{uri: {prefix: /a}}], delegate: {name: round}}\n",
            ) + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: round}\nspec:\n  http:\n  - {match: [{uri: {prefix: /a}}], delegate: {name: circle}}\n---\n",
            code: "L317",
            field: "spec.http[0].delegate",
        },
    ]
}

/// Each mistake is told at its field, nothing dies of it, the sound object beside them is in force, and others are
/// answered as before. The twin: the sound object alone has no finding.
#[test]
fn what_makes_no_sense_is_told_and_harms_nobody() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let others = others(&mesh);
    let checked = |name: &str, text: &str| -> Vec<(String, String, String)> {
        let file = mesh.file(name, text);
        let file = file.to_str().expect("printable");
        let output = mesh.naka(["check", "-f", file, "-o", "json"]);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{name}: {error}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let word =
            |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let list = value["findings"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|f| (word(f, "code"), word(f, "field"), word(f, "message")))
            .collect()
    };
    let control = mesh.control_pid();
    let mut everything = String::new();
    for mistake in mistakes() {
        let Mistake {
            name,
            text,
            code,
            field,
        } = mistake;
        let found = checked(&format!("{name}.yaml"), &text);
        assert!(
            found
                .iter()
                .any(|(c, f, message)| c == code && f == field && !message.is_empty()),
            "{name} wants {code} at {field}: {found:?}"
        );
        everything += &text;
    }
    // A fault of the sound object's own would hide behind the others'.
    let sound = route(
        "sound",
        "payment",
        "  - match: [{uri: {prefix: /sound}}]\n    directResponse: {status: 418}\n  - route: [{destination: {host: payment}}]\n",
    );
    assert_eq!(checked("sound.yaml", &sound), Vec::new());
    everything += &sound;
    let file = mesh.file("everything.yaml", &everything);
    let file = file.to_str().expect("printable");
    let output = mesh.naka(["apply", "--wait", "-f", file]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let calls = size().pick("20", "200");
    load(
        &mesh,
        "sound",
        &["--url", "http://payment/sound", "--count", calls],
        &["payment-v1"],
    );
    let answers = mesh.logged("sound");
    assert!(
        answers.iter().all(|line| line["status"] == 418),
        "{:?}",
        answers.first()
    );
    answered(&mesh, 100);
    assert_eq!(mesh.control_pid(), control);
    let told = std::fs::read_to_string(mesh.home().join("control.err")).unwrap_or_default();
    assert!(!told.contains("panicked"), "{told}");
    ended(&mesh, others).assert_clean();
}
