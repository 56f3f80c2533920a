//! Connections that a configuration change must not end, through Envoys.

use crate::envoy::{ENVOY_SOON, counter, envoy_of, kill, run, run_dir, serve};
use crate::traffic::split;
use naka_testkit::mesh::{Mesh, SOON, testprog};
use naka_testkit::{size, wait};
use rustix::process::Signal;

/// The command of a program that holds an upgraded connection to payment.
pub(crate) fn holding(mesh: &Mesh) -> [String; 6] {
    let [prog, log] = [testprog(), mesh.log("hold")].map(|path| path.display().to_string());
    let url = "http://payment/ws";
    [&*prog, "hold", "--url", url, "--log", &*log].map(str::to_owned)
}

pub(crate) fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// An upgraded connection through two Envoys survives route changes, which change no listener. The twin: killing the
/// caller's Envoy breaks it.
#[test]
fn a_websocket_through_envoys_survives_route_changes() {
    let changes = size().pick(5, 50);
    let mesh = Mesh::up();
    let (_v1, _v2) = (serve(&mesh, "payment", "v1"), serve(&mesh, "payment", "v2"));
    mesh.apply("canary.yaml", &split(90, 10));
    let holding = holding(&mesh);
    let mut hold = run(
        &mesh,
        "hold",
        &["--proxy", "envoy", "-s", "order"],
        &words(&holding),
    );
    wait::until("the first echoes", ENVOY_SOON, || {
        (mesh.logged("hold").len() > 3).then_some(())
    });
    let dirs = ["order-v1", "payment-v1", "payment-v2"].map(|stem| run_dir(&mesh, stem));
    let listeners = || {
        dirs.each_ref()
            .map(|dir| counter(dir, "listener_(added|modified|removed)$"))
    };
    let routes = || counter(&dirs[0], "http_proxy.update_success$");
    let (before, routes_before) = (listeners(), routes());
    for change in 0..changes {
        mesh.apply("canary.yaml", &split(90 - change % 80, 10 + change % 80));
    }
    assert_eq!(listeners(), before, "a listener changed");
    assert!(routes() > routes_before, "no route changed");
    let seen = mesh.logged("hold").len();
    wait::until("echoes after the changes", SOON, || {
        (mesh.logged("hold").len() > seen + 5).then_some(())
    });
    assert!(hold.alive(), "{}", hold.err());
    kill(envoy_of(&hold).expect("an Envoy"));
    let ended = hold
        .wait(SOON)
        .expect("the program ends with its connection");
    assert!(!ended.success());
}

/// Whom the policy below asks: somebody who is never there.
fn asked(open: bool) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n    - name: nobody\n      envoyExtAuthzHttp: {{service: nobody.example, port: 80, timeout: 1s, failOpen: {open}}}\n---\n"
    )
}

const ASKS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: nobody, namespace: default}
spec:
  hosts: [nobody.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: 1}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: asks, namespace: default}
spec: {action: CUSTOM, provider: {name: nobody}, rules: [{}]}
";

/// Who may call and how often changes without a listener: an upgraded connection that an Envoy let in before is not
/// drained, new calls are under the new rules at once. The twin: what is spoken at the port is part of the listener.
#[test]
fn a_websocket_through_envoys_survives_policies_and_limits() {
    let mesh = Mesh::up();
    let _payment = serve(&mesh, "payment", "v1");
    let holding = holding(&mesh);
    let mut hold = run(&mesh, "hold", &["-s", "order"], &words(&holding));
    wait::until("the first echoes", ENVOY_SOON, || {
        (mesh.logged("hold").len() > 3).then_some(())
    });
    let dir = run_dir(&mesh, "payment-v1");
    let listeners = || counter(&dir, "listener_(added|modified|removed)$");
    let before = listeners();
    let code = || {
        let args = [
            "run",
            "-s",
            "stranger",
            "--",
            "curl",
            "-s",
            "-o",
            "/dev/null",
        ];
        let args = args
            .into_iter()
            .chain(["-w", "%{http_code}", "http://payment/"]);
        String::from_utf8_lossy(&mesh.naka(args).stdout).into_owned()
    };
    assert_eq!(code(), "200", "nothing is forbidden yet");
    let policy = |caller: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: who}}\nspec:\n  rules:\n  - from: [{{source: {{principals: ['cluster.local/ns/default/sa/{caller}']}}}}]\n"
        )
    };
    let limit = "apiVersion: naka.dev/v1alpha1\nkind: LocalRateLimit\nmetadata: {name: few}\nspec:\n  targetRefs: [{kind: Service, name: payment}]\n  rules: [{name: all, requests: 1, per: 1h}]\n";
    mesh.apply("who.yaml", &policy("order"));
    assert_eq!(code(), "403", "another caller than the one allowed");
    mesh.apply("who.yaml", &policy("stranger"));
    assert_eq!(code(), "200", "the caller allowed");
    mesh.apply("asked.yaml", &(asked(false) + ASKS));
    assert_eq!(code(), "403", "nobody answers whether it may");
    mesh.apply("asked.yaml", &asked(true));
    assert_eq!(code(), "200", "no answer is enough");
    mesh.apply("few.yaml", limit);
    assert_eq!([code(), code()], ["200", "429"], "one is served");
    let seen = mesh.logged("hold").len();
    wait::until("echoes after the changes", SOON, || {
        (mesh.logged("hold").len() > seen + 5).then_some(())
    });
    assert!(hold.alive(), "{}", hold.err());
    assert_eq!(listeners(), before, "a listener changed");
    assert_eq!(counter(&dir, "listener_manager.*in_place_updated$"), 0);
    // The twin.
    mesh.apply(
        "open.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open, namespace: default}\nspec: {mtls: {mode: PERMISSIVE}}\n",
    );
    wait::until("a listener that changes", SOON, || {
        (listeners() > before || counter(&dir, "listener_manager.*in_place_updated$") > 0)
            .then_some(())
    });
    hold.signal(Signal::TERM);
    let _ = hold.wait(SOON);
}
