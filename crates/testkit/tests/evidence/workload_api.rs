//! SPIFFE's Workload API, asked by SPIFFE's own Python library: a program that does mutual TLS itself has the identity
//! of its proxy, and a new certificate when its proxy has one. The called program says who called it.

use crate::newcomer::{program, venv};
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::program::Program;
use naka_testkit::wait::until;
use std::time::Duration;

fn asking(mesh: &Mesh, who: &str, address: &str, more: &[&str]) -> Program {
    let (python, source) = (venv("python3"), program("svid.py"));
    let mut command = vec![python.as_str(), &source, address];
    command.extend_from_slice(more);
    mesh.run(who, &["-s", who, "--capture", "proxy"], &command)
}

/// It calls a strict service with what it was given, twice, the second time with a renewed certificate. The twin: without
/// the certificate it is refused. A client that does not say that it means the Workload API gets nothing.
#[test]
fn a_program_is_told_who_it_is() {
    let mesh = Mesh::up_with(&["--leaf-ttl", "8s"]);
    let _payment = mesh.serve("payment", "v1");
    let address = until("an inbound address", SOON, || {
        let all = mesh.workloads();
        let found = all.iter().find(|one| one["service"] == "payment")?;
        Some(found["ports"][0]["inbound_address"].as_str()?.to_owned())
    });
    let mut order = asking(&mesh, "order", &address, &[]);
    let mut bare = asking(&mesh, "bare", &address, &["bare"]);
    let long = Duration::from_secs(60);
    assert!(
        order.wait(long).expect("it ends").success(),
        "{}",
        order.said()
    );
    let out = order.out();
    let lines: Vec<&str> = out.lines().collect();
    let wanted = [
        "spiffe://cluster.local/ns/default/sa/order",
        "1 200",
        "2 200",
    ];
    assert_eq!(lines, wanted, "{}", order.said());
    assert!(
        bare.wait(long).expect("it ends").success(),
        "{}",
        bare.said()
    );
    assert!(bare.out().contains("1 refused"), "{}", bare.said());
    let logged = mesh.logged("payment-v1");
    let peers: Vec<&str> = logged
        .iter()
        .filter_map(|one| one["peer"].as_str())
        .collect();
    assert_eq!(peers, [wanted[0]; 2], "who called, by what they showed");
}

/// Only the workload's user may open the socket, and calls must say that they are meant.
#[test]
fn nobody_asks_by_accident() {
    let mesh = Mesh::up();
    let ask = r#"
import grpc, os
path = os.environ["SPIFFE_ENDPOINT_SOCKET"]
mode = os.stat(path.removeprefix("unix://")).st_mode & 0o777
print(oct(mode), oct(os.stat(os.path.dirname(path.removeprefix("unix://"))).st_mode & 0o777))
call = grpc.insecure_channel(path).unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")
for metadata in [(), (("workload.spiffe.io", "true"),)]:
    try:
        print("told", len(next(call(b"", metadata=metadata, timeout=20))) > 100)
    except grpc.RpcError as error:
        print(error.code().name)
"#;
    let python = venv("python3");
    let mut run = mesh.run("asker", &["-s", "asker"], &[&python, "-c", ask]);
    assert!(run.wait(SOON).expect("it ends").success(), "{}", run.said());
    let out = run.out();
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        ["0o600 0o700", "INVALID_ARGUMENT", "told True"]
    );
}
