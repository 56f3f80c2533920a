//! The real kubectl against the real TLS port. `scripts/setup.sh` installs it; `NAKA_KUBECTL` names another one.

use super::{Server, route};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn kubectl() -> Option<PathBuf> {
    let named = std::env::var_os("NAKA_KUBECTL").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = named.unwrap_or_else(|| root.join(".venv/bin/kubectl"));
    if found.exists() {
        return Some(found);
    }
    // Where the peers were set up, a missing one is a failure, not a reason to skip.
    assert!(
        !root.join(".venv").exists(),
        "{} is missing: run scripts/setup.sh",
        found.display()
    );
    eprintln!(
        "not run: no kubectl at {} (scripts/setup.sh installs it)",
        found.display()
    );
    None
}

struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn new(program: PathBuf, server: &Server, token: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("ca.pem"), &server.root_pem).unwrap();
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "naka",
            "clusters": [{"name": "naka", "cluster": {"server": format!("https://{}", server.address), "certificate-authority": "ca.pem"}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "naka", "context": {"cluster": "naka", "user": "me"}}]});
        std::fs::write(home.path().join("config"), config.to_string()).unwrap();
        Self { program, home }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command
            .args(["--kubeconfig", "config"])
            .args(arguments)
            .current_dir(&self.home)
            .env("HOME", self.home.path());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// Must succeed; gives stdout.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "kubectl {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Must fail; gives stderr.
    async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "kubectl {arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn file(&self, name: &str, value: &Value) {
        std::fs::write(self.home.path().join(name), value.to_string()).unwrap();
    }
}

#[tokio::test]
async fn kubectl_gets_describes_changes_and_deletes() {
    let Some(program) = kubectl() else {
        return;
    };
    let server = Server::start().await;
    let token = server.token(json!({"kind": "api", "role": "admin"})).await;
    let kubectl = Kubectl::new(program, &server, &token);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "payment", "namespace": "default"},
        "spec": {"selector": {"app": "payment"}, "ports": [{"name": "http", "port": 80}]}});
    kubectl.file("route.json", &route("split", 10));
    kubectl.file("service.json", &service);
    let made = kubectl
        .ok(&["create", "-f", "route.json", "-f", "service.json"])
        .await;
    assert!(
        made.contains("virtualservice.networking.istio.io/split created")
            && made.contains("service/payment created"),
        "{made}"
    );

    let table = kubectl.ok(&["get", "vs"]).await;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        (lines[0].join(" "), lines[1][0], lines[1][1]),
        ("NAME GATEWAYS HOSTS AGE".to_owned(), "split", "payment")
    );
    assert!(
        kubectl
            .ok(&["get", "virtualservices,services", "-A", "-o", "name"])
            .await
            .contains("service/payment")
    );
    assert!(
        kubectl
            .ok(&[
                "get",
                "vs",
                "split",
                "-o",
                "jsonpath={.spec.http[0].route[1].weight}"
            ])
            .await
            == "10"
    );
    let told = kubectl.ok(&["describe", "vs", "split"]).await;
    assert!(
        told.contains("Kind:         VirtualService")
            && told.contains("Weight:")
            && told.contains("Accepted"),
        "{told}"
    );
    assert!(
        kubectl
            .ok(&["describe", "service", "payment"])
            .await
            .contains("Selector:")
    );
    assert!(
        kubectl
            .ok(&["api-resources"])
            .await
            .contains("peerauthentications")
    );

    changes(&kubectl).await;
    refusals(&kubectl).await;

    let viewer = server.token(json!({"kind": "api", "role": "viewer"})).await;
    let viewer = Kubectl::new(kubectl.program.clone(), &server, &viewer);
    let forbidden = viewer.fails(&["delete", "svc", "payment"]).await;
    assert!(
        forbidden.contains("Error from server (Forbidden)"),
        "{forbidden}"
    );
}

async fn changes(kubectl: &Kubectl) {
    kubectl.ok(&["label", "vs", "split", "team=pay"]).await;
    assert!(
        kubectl
            .ok(&["get", "vs", "-l", "team=pay", "-o", "name"])
            .await
            .contains("split")
    );
    kubectl
        .ok(&[
            "patch",
            "vs",
            "split",
            "--type=merge",
            "-p",
            r#"{"metadata":{"annotations":{"a":"b"}}}"#,
        ])
        .await;
    kubectl
        .ok(&[
            "patch",
            "svc",
            "payment",
            "-p",
            r#"{"spec":{"ports":[{"port":81,"name":"http-b"}]}}"#,
        ])
        .await;
    let ports = kubectl
        .ok(&[
            "get",
            "svc",
            "payment",
            "-o",
            "jsonpath={.spec.ports[*].port}",
        ])
        .await;
    assert_eq!(ports, "80 81");
    kubectl.file("route.json", &route("split", 30));
    let applied = kubectl.ok(&["apply", "-f", "route.json"]).await;
    assert!(applied.contains("configured"), "{applied}");
    let again = kubectl.ok(&["apply", "-f", "route.json"]).await;
    assert!(again.contains("unchanged"), "{again}");
    let mut half = route("half", 30);
    half["spec"]["http"][0]["weigth"] = json!(1);
    kubectl.file("half.json", &half);
    let refused = kubectl.fails(&["apply", "-f", "half.json"]).await;
    assert!(refused.contains("weigth"), "{refused}");
    let events = kubectl.ok(&["get", "events"]).await;
    assert!(events.is_empty() || events.contains("No resources"));
    kubectl.file(
        "space.json",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
    );
    kubectl.ok(&["create", "-f", "space.json"]).await;
    assert!(kubectl.ok(&["get", "ns"]).await.contains("shop"));
    // kubectl's own `create namespace` speaks protobuf only; the answer says what to do.
    assert!(
        kubectl
            .fails(&["create", "namespace", "other"])
            .await
            .contains("use -f")
    );
}

/// Every kind of the table can be made, listed by its names and taken away; two kinds called Service do not meet.
#[tokio::test]
async fn kubectl_handles_every_kind() {
    let Some(program) = kubectl() else {
        return;
    };
    let server = Server::start().await;
    let token = server.token(json!({"kind": "api", "role": "admin"})).await;
    let kubectl = Kubectl::new(program, &server, &token);
    let entry = json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "ServiceEntry",
        "metadata": {"name": "out", "namespace": "default"},
        "spec": {"hosts": ["a.example"], "location": "MESH_EXTERNAL", "resolution": "DNS"}});
    let filter = json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "patch", "namespace": "default"}, "spec": {"priority": 1}});
    let knative = json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service",
        "metadata": {"name": "fun", "namespace": "default"}});
    for (name, object) in [
        ("entry.json", &entry),
        ("filter.json", &filter),
        ("knative.json", &knative),
    ] {
        kubectl.file(name, object);
        kubectl.ok(&["create", "-f", name]).await;
    }
    let table = kubectl.ok(&["get", "serviceentries"]).await;
    assert!(
        table.starts_with("NAME") && table.contains("a.example"),
        "{table}"
    );
    let kind = ["get", "se", "out", "-o", "jsonpath={.apiVersion} {.kind}"];
    assert_eq!(
        kubectl.ok(&kind).await,
        "networking.istio.io/v1 ServiceEntry"
    );
    assert!(kubectl.ok(&["get", "envoyfilters"]).await.contains("patch"));
    let kind = ["get", "ksvc", "fun", "-o", "jsonpath={.apiVersion} {.kind}"];
    assert_eq!(kubectl.ok(&kind).await, "serving.knative.dev/v1 Service");
    assert!(!kubectl.ok(&["get", "services", "-A"]).await.contains("fun"));
    for names in naka_api::kind::TABLE {
        let full = match names.group {
            "" => names.plural.to_owned(),
            group => format!("{}.{group}", names.plural),
        };
        kubectl.ok(&["get", &full, "-A"]).await;
    }
    kubectl
        .ok(&["delete", "-f", "knative.json", "--timeout=20s"])
        .await;
    assert!(!kubectl.ok(&["get", "ksvc", "-A"]).await.contains("fun"));
}

async fn refusals(kubectl: &Kubectl) {
    let missing = kubectl.fails(&["get", "vs", "nobody"]).await;
    assert!(
        missing.contains("Error from server (NotFound)"),
        "{missing}"
    );
    let refused = kubectl
        .fails(&["apply", "--server-side", "-f", "route.json"])
        .await;
    assert!(
        refused.contains("server-side apply is not supported yet"),
        "{refused}"
    );
    let deleted = kubectl
        .ok(&["delete", "vs", "split", "--timeout=20s"])
        .await;
    assert!(deleted.contains("deleted"), "{deleted}");
    assert!(kubectl.ok(&["get", "vs", "-o", "name"]).await.is_empty());
}
