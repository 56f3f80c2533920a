//! A workload that gives itself the label a policy asks for: `-l security-clearance=level-4` under a token that says
//! nothing of it. Landed when its call reaches the program. Without the guard: whoever made the token did grant it.

use crate::ground::{Ground, Side};
use crate::{Attack, Outcome, outcome};
use naka_testkit::mesh::SOON;
use naka_testkit::program::Program;
use naka_testkit::wait::until;

pub(crate) const ATTACKS: &[Attack] = &[Attack {
    // Of no row of the list: the contract on labels is our own.
    row: 0,
    name: "a label that a workload gives itself",
    run: claim,
}];

const LABEL: &str = "security-clearance=level-4";

fn claim(ground: &Ground, side: Side) -> Outcome {
    let mesh = &ground.mesh;
    let vault = match side {
        Side::Naka => "vault",
        Side::Open => "open-vault",
    };
    let _server = mesh.serve(vault, "v1");
    mesh.apply(
        &format!("{vault}.yaml"),
        &format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {vault}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: {vault}}}}}\n  rules: [{{when: [{{key: 'source.labels[security-clearance]', values: [level-4]}}]}}]\n"
        ),
    );
    // The program's own log decides; the status tells when the policy is there.
    let url = format!("http://{vault}/");
    let call = [
        "curl",
        "-s",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];
    until(format_args!("a policy at {vault}"), SOON, || {
        let mut probe = mesh.run("label-probe", &["-s", "label-probe"], &call);
        finished(&mut probe).ends_with("403").then_some(())
    });
    let before = mesh.logged(&format!("{vault}-v1")).len();
    let mut create = vec!["token", "create", "--service-account", "clerk"];
    if side == Side::Open {
        create.extend(["-l", LABEL]);
    }
    let token = mesh.ok(create);
    let home = mesh.home().join(format!("clerk-of-{vault}"));
    std::fs::create_dir_all(&home).expect("a directory");
    let as_clerk = |args: &[&str]| {
        let mut command = mesh.command(args);
        command.env("NAKA_HOME", &home).env("HOME", &home);
        command
    };
    let joined = as_clerk(&["join", token.trim()]).output().expect("join");
    assert!(joined.status.success(), "{joined:?}");
    let mut args = vec!["run", "--service-account", "clerk", "-l", LABEL, "--"];
    args.extend(call);
    let mut clerk = Program::start(vault, mesh.home(), &mut as_clerk(&args)).expect("naka run");
    let status = finished(&mut clerk);
    let reached = mesh.logged(&format!("{vault}-v1")).len() - before;
    outcome(
        reached > 0,
        format!("{status}, {reached} calls at the program"),
    )
}

fn finished(program: &mut Program) -> String {
    program.wait(SOON).expect("the call ends");
    program.out().trim().to_owned()
}
