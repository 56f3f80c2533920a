//! What nests a hundred thousand levels deep (row 40), sent by somebody who may send: protobuf to the services of the
//! control plane, JSON to its API. Landed when a process dies of it, or when something so deep is taken for sound.
//!
//! Ten levels are answered, so what is refused is the depth. Whoever else is served by the control plane goes on being
//! served: the bystander's proxies keep their lines, and a change reaches all of them after each message.

use crate::bodies::DEPTH;
use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::testprog;
use naka_testkit::nested::{Nest, Request, behind};
use naka_testkit::program::resident_bytes;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        row: 40,
        name: "protobuf a hundred thousand levels deep at the control plane",
        run: deep_protobuf,
    },
    Attack {
        row: 40,
        name: "JSON a hundred thousand levels deep at the port of the API",
        run: deep_api,
    },
];

/// What nests, and the service that is told it.
const WAYS: [(&str, &str); 6] = [
    ("struct", "xds"),
    ("list", "xds"),
    ("groups", "xds"),
    ("struct", "authority"),
    ("groups", "authority"),
    ("groups", "workloads"),
];

/// What a message of this depth comes to, sent by a client with a good token.
fn sent(ground: &Ground, (of, to): (&str, &str), depth: usize) -> String {
    let mesh = &ground.mesh;
    let token = mesh.ok(["token", "create", "-s", "swarm"]);
    let output = Command::new(testprog().with_file_name("naka-swarm"))
        .args(["nested", "--token", token.trim(), "--of", of, "--to", to])
        .args(["--depth", &depth.to_string()])
        .output()
        .expect("naka-swarm");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    match line["outcome"].as_str() {
        Some(outcome) => outcome.to_owned(),
        None => format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// A change that every proxy has to take.
fn changed(ground: &Ground, number: usize) -> bool {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: depth}}\nspec:\n  hosts: [depth-{number}.example]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1}}]\n"
    );
    let file = ground.mesh.file("depth.yaml", &text);
    let file = file.to_str().expect("printable");
    let output = ground.mesh.naka(["apply", "--wait", "-f", file]);
    output.status.success()
}

fn deep_protobuf(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        return dies("naive-protobuf");
    }
    let pid = ground.mesh.control_pid();
    let before = resident_bytes(pid);
    let (mut wrong, mut refusals) = (Vec::new(), 0);
    for (number, way) in WAYS.into_iter().enumerate() {
        let (ten, deep) = (sent(ground, way, 10), sent(ground, way, DEPTH));
        let served = changed(ground, number);
        if ten == "answered" && deep.starts_with("refused: ") && served {
            refusals += 1;
        } else {
            wrong.push(format!(
                "{way:?}: ten levels {ten}, deep {deep}, others served: {served}"
            ));
        }
    }
    // A chain of Any is bytes to whoever does not unpack it, and nobody unpacks what a client says went wrong.
    let chain = sent(ground, ("any", "xds"), DEPTH);
    if chain != "answered" || !changed(ground, WAYS.len()) {
        wrong.push(format!("a chain of Any: {chain}"));
    }
    let grown = resident_bytes(pid).saturating_sub(before) >> 20;
    let seen = match wrong.as_slice() {
        [] => format!(
            "{refusals} of {} refused where ten levels are answered, a chain of Any is only bytes, {grown} MiB more",
            WAYS.len()
        ),
        wrong => wrong.join("; "),
    };
    outcome(!wrong.is_empty() || grown > 48, seen)
}

/// Address and token of the API, from the kubeconfig that Naka wrote.
fn api(ground: &Ground) -> (String, String) {
    let text = std::fs::read_to_string(ground.mesh.home().join("config")).expect("a kubeconfig");
    let config: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    let word = |at: &str| {
        let value = config.pointer(at).and_then(serde_json::Value::as_str);
        value
            .unwrap_or_else(|| panic!("no {at} in {text}"))
            .to_owned()
    };
    (
        word("/clusters/0/cluster/server"),
        word("/users/0/user/token"),
    )
}

/// The status of a request with this body.
fn asked(ground: &Ground, method: &str, path: &str, kind: &str, body: &str) -> String {
    let (server, token) = api(ground);
    let file = ground.mesh.file("body.json", body);
    let output = Command::new("curl")
        .args(["-sk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"])
        .args([
            "-X",
            method,
            "-H",
            &format!("Authorization: Bearer {token}"),
        ])
        .args(["-H", &format!("Content-Type: {kind}"), "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("{server}{path}"))
        .stdin(Stdio::null())
        .output()
        .expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An object with so many levels where kubectl and others keep what nobody here reads.
fn object(depth: usize) -> String {
    let deep = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    format!(
        "{{\"apiVersion\":\"networking.istio.io/v1\",\"kind\":\"ServiceEntry\",\"metadata\":{{\"name\":\"levels\",\"namespace\":\"default\",\"managedFields\":[{{\"fieldsV1\":{deep}}}]}},\"spec\":{{\"hosts\":[\"levels.example\"],\"ports\":[{{\"number\":80,\"name\":\"http\",\"protocol\":\"HTTP\"}}],\"resolution\":\"STATIC\"}}}}"
    )
}

const OBJECTS: &str = "/apis/networking.istio.io/v1/namespaces/default/serviceentries";

fn deep_api(ground: &Ground, side: Side) -> Outcome {
    if side == Side::Open {
        return dies("naive-json");
    }
    let pid = ground.mesh.control_pid();
    let one = format!("{OBJECTS}/levels");
    let list = |text: &str| format!("{{\"objects\":[{text}]}}");
    let (json, merge) = ("application/json", "application/merge-patch+json");
    let plain = "application/json-patch+json";
    let patch = |depth| {
        format!(
            "[{{\"op\":\"add\",\"path\":\"/metadata/managedFields\",\"value\":{}{}}}]",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    let ways = |depth: usize| {
        let object = object(depth);
        [
            asked(ground, "POST", OBJECTS, json, &object),
            asked(ground, "PUT", &one, json, &object),
            asked(ground, "PATCH", &one, merge, &object),
            asked(ground, "PATCH", &one, plain, &patch(depth)),
            asked(ground, "POST", "/naka/v1/apply", json, &list(&object)),
            asked(ground, "POST", "/naka/v1/diff", json, &list(&object)),
        ]
    };
    let (ten, deep) = (ways(10), ways(DEPTH));
    asked(ground, "DELETE", &one, json, "");
    let sound = ten.iter().all(|status| status.starts_with('2'));
    let refused = deep.iter().all(|status| status.starts_with('4'));
    let alive = pid == ground.mesh.control_pid() && changed(ground, 100);
    outcome(
        !(sound && refused && alive),
        format!(
            "ten levels {}, deep {}, others served: {alive}",
            ten.join(" "),
            deep.join(" ")
        ),
    )
}

/// A parser without a limit, in a process of its own.
pub(crate) fn dies(parser: &str) -> Outcome {
    let itself = std::env::current_exe().expect("a test has a path");
    let status = Command::new(itself)
        .arg(parser)
        .output()
        .expect("itself")
        .status;
    let died = status.signal().is_some();
    outcome(died, format!("a parser without a limit ends with {status}"))
}

/// A decoder that calls itself for each message within a message; it will not survive.
pub(crate) fn naive_protobuf() {
    /// Fields one after the other; those that hold bytes are read as messages, too.
    fn message(bytes: &[u8]) -> usize {
        // Something on the stack, as a real decoder has.
        let frame = std::hint::black_box([0u8; 256]);
        let (mut at, mut found) = (0, usize::from(frame[0]));
        while let Some(key) = varint(bytes, &mut at) {
            let Some(length) = varint(bytes, &mut at) else {
                break;
            };
            if key & 7 == 2 {
                let end = (at + length).min(bytes.len());
                found += 1 + message(&bytes[at..end]);
                at = end;
            }
        }
        found
    }
    fn varint(bytes: &[u8], at: &mut usize) -> Option<usize> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = *bytes.get(*at)?;
            *at += 1;
            value |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 || shift > 56 {
                return Some(value);
            }
        }
    }
    assert!(message(&behind(Request::Discovery, Nest::Struct, DEPTH)) > 0);
}
