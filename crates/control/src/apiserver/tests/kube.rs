//! Kubernetes semantics of verbs, versions, errors and secrets.

use super::{ROUTES, Server, reason, route};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn objects_live_as_in_kubernetes() {
    let server = Server::start().await;
    let (code, made) = server.call(Method::POST, ROUTES, route("a", 10)).await;
    assert_eq!(
        (
            code,
            &made["metadata"]["resourceVersion"],
            &made["metadata"]["generation"]
        ),
        (201, &json!("1"), &json!(1))
    );
    let (code, again) = server.call(Method::POST, ROUTES, route("a", 10)).await;
    assert_eq!((code, reason(&again)), (409, "AlreadyExists"));
    assert_eq!(
        (&again["details"]["name"], &again["status"]),
        (&json!("a"), &json!("Failure"))
    );

    let path = format!("{ROUTES}/a");
    let patched = json!({"metadata": {"annotations": {"x": "y"}}});
    let merge = [("content-type", "application/merge-patch+json")];
    let (code, value) = server
        .with(Method::PATCH, &path, patched.clone(), &merge)
        .await;
    assert_eq!(
        (
            code,
            &value["metadata"]["resourceVersion"],
            &value["metadata"]["generation"]
        ),
        (200, &json!("2"), &json!(1))
    );
    let (_, value) = server.with(Method::PATCH, &path, patched, &merge).await;
    assert_eq!(
        value["metadata"]["resourceVersion"], "2",
        "an equal patch changes nothing"
    );
    let (code, refused) = server
        .with(
            Method::PATCH,
            &path,
            json!({}),
            &[("content-type", "application/apply-patch+yaml")],
        )
        .await;
    assert_eq!((code, reason(&refused)), (415, "UnsupportedMediaType"));

    let mut stale = made.clone();
    stale["spec"] = route("a", 20)["spec"].clone();
    let (code, conflict) = server.call(Method::PUT, &path, stale.clone()).await;
    assert_eq!((code, reason(&conflict)), (409, "Conflict"));
    stale["metadata"]["resourceVersion"] = json!("2");
    let (code, value) = server.call(Method::PUT, &path, stale).await;
    assert_eq!(
        (
            code,
            &value["metadata"]["generation"],
            &value["metadata"]["uid"]
        ),
        (200, &json!(2), &made["metadata"]["uid"])
    );

    let old = server.get(&path.replace("/v1/", "/v1beta1/")).await;
    assert_eq!(
        old["apiVersion"], "networking.istio.io/v1beta1",
        "an object leaves in the version asked for"
    );
    assert_eq!(old["status"]["conditions"][0]["type"], "Accepted");
    let (code, _) = server
        .call(Method::PUT, &format!("{path}/status"), json!({}))
        .await;
    assert_eq!(code, 405, "status is not for writing");
    let then = server.get(&format!("{path}?at=1")).await;
    assert_eq!(then["spec"], route("a", 10)["spec"]);

    let wrong = json!({"preconditions": {"uid": "another"}});
    assert_eq!(server.call(Method::DELETE, &path, wrong).await.0, 409);
    let (code, gone) = server.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!(
        (code, &gone["status"], &gone["details"]["uid"]),
        (200, &json!("Success"), &made["metadata"]["uid"])
    );
    let (code, missing) = server.call(Method::GET, &path, Value::Null).await;
    assert_eq!((code, reason(&missing)), (404, "NotFound"));
    assert!(
        missing["message"]
            .as_str()
            .unwrap()
            .contains("virtualservices.networking.istio.io \"a\" not found")
    );
}

#[tokio::test]
async fn bad_bodies_get_status_objects_with_causes() {
    let server = Server::start().await;
    let mut bad = route("a", 10);
    bad["spec"]["hosts"] = json!(7);
    let (code, answer) = server.call(Method::POST, ROUTES, bad).await;
    assert_eq!((code, reason(&answer)), (422, "Invalid"), "{answer}");
    let cause = &answer["details"]["causes"][0];
    assert!(
        cause["field"].as_str().unwrap().starts_with("spec.hosts"),
        "{answer}"
    );
    for (body, want) in [
        (json!([1]), 400),
        (json!({"kind": "Gateway"}), 400),
        (
            json!({"metadata": {"name": "a", "namespace": "other"}, "spec": {"hosts": ["x"], "http": []}}),
            400,
        ),
    ] {
        let (code, answer) = server.call(Method::POST, ROUTES, body).await;
        assert_eq!(code, want, "{answer}");
    }
    let (code, _) = server
        .with(Method::POST, ROUTES, json!("x".repeat(9 << 20)), &[])
        .await;
    assert_eq!(code, 413);
    let (code, _) = server
        .with(
            Method::POST,
            ROUTES,
            route("a", 1),
            &[("content-type", "application/vnd.kubernetes.protobuf")],
        )
        .await;
    assert_eq!(code, 415);
    let (code, _) = server.call(Method::PUT, ROUTES, route("a", 1)).await;
    assert_eq!(code, 405);
    let mut half = route("half", 1);
    half["spec"]["http"]
        .as_array_mut()
        .unwrap()
        .push(json!({"route": 7}));
    let (code, refused) = server
        .call(
            Method::POST,
            &format!("{ROUTES}?fieldValidation=Strict"),
            half,
        )
        .await;
    assert_eq!((code, reason(&refused)), (422, "Invalid"), "{refused}");
    assert_eq!(
        server.store.snapshot().revision,
        0,
        "nothing of all this changed anything"
    );
}

#[tokio::test]
async fn lists_select_and_print_as_tables() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.post(ROUTES, route(name, 10)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = server.get(&format!("{ROUTES}?limit=1")).await;
    assert_eq!(
        (names(&list).len(), &list["metadata"]["resourceVersion"]),
        (3, &json!("3"))
    );
    assert_eq!(
        names(
            &server
                .get(&format!("{ROUTES}?labelSelector=app%20in%20(a,c)"))
                .await
        ),
        ["a", "c"]
    );
    assert_eq!(
        names(
            &server
                .get(&format!("{ROUTES}?fieldSelector=metadata.name%3Db"))
                .await
        ),
        ["b"]
    );
    assert_eq!(
        names(&server.get(&format!("{ROUTES}?at=2")).await),
        ["a", "b"]
    );
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let (_, table) = server.with(Method::GET, ROUTES, Value::Null, &accept).await;
    assert_eq!(
        (&table["kind"], &table["rows"][1]["cells"][2]),
        (&json!("Table"), &json!("payment"))
    );
    let (code, _) = server
        .call(
            Method::DELETE,
            &format!("{ROUTES}?labelSelector=app%3Da"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (code, names(&server.get(ROUTES).await)),
        (200, vec!["b".to_owned(), "c".to_owned()])
    );
}

#[tokio::test]
async fn a_namespace_takes_its_objects_along() {
    let server = Server::start().await;
    let spaces = "/api/v1/namespaces";
    for name in ["default", "shop"] {
        server
            .post(spaces, json!({"metadata": {"name": name}}))
            .await;
    }
    let mut inside = route("a", 10);
    inside["metadata"]["namespace"] = "shop".into();
    server
        .post(&ROUTES.replace("default", "shop"), inside)
        .await;
    let before = server.store.snapshot().revision;
    let delete = async |name: &str| {
        server
            .call(Method::DELETE, &format!("{spaces}/{name}"), Value::Null)
            .await
            .0
    };
    assert_eq!(delete("default").await, 403, "it may not be deleted");
    assert_eq!(server.store.snapshot().revision, before);
    assert_eq!(delete("shop").await, 200);
    assert_eq!(server.store.snapshot().objects.len(), 1);
    let undone = server.post("/naka/v1/undo", json!({})).await;
    assert_eq!(
        undone["results"].as_array().unwrap().len(),
        2,
        "and one undo brings all of it back"
    );
    assert_eq!(server.store.snapshot().revision, before + 4);
}

#[tokio::test]
async fn values_of_secrets_leave_only_by_reveal() {
    let server = Server::start().await;
    let planted = "4929-0000-1111-2222";
    let coded = "NDkyOS0wMDAwLTExMTEtMjIyMg==";
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "card", "namespace": "default"},
        "stringData": {"pan": planted}});
    let mut watch = server.watch(&format!("{secrets}?watch=true")).await;
    let made = server.post(secrets, secret.clone()).await;
    let path = format!("{secrets}/card");
    let merge = [("content-type", "application/merge-patch+json")];
    let (_, patched) = server
        .with(
            Method::PATCH,
            &path,
            json!({"metadata": {"labels": {"a": "b"}}}),
            &merge,
        )
        .await;
    let mut other = secret.clone();
    other["stringData"]["pan"] = json!("5000");
    let seen = [
        made,
        patched.clone(),
        server.get(&path).await,
        server.get(secrets).await,
        server.get("/naka/v1/history").await,
        server.get("/naka/v1/events").await,
        server
            .post("/naka/v1/diff", json!({"objects": [other]}))
            .await,
        server
            .post("/naka/v1/apply", json!({"objects": [secret]}))
            .await,
        watch.next().await.1,
        watch.next().await.1,
    ];
    for answer in &seen {
        let text = answer.to_string();
        assert!(!text.contains(planted) && !text.contains(coded), "{text}");
    }
    assert_eq!(patched["data"]["pan"], naka_store::REDACTED);
    // A client that writes back what it read keeps the value.
    let mut back = server.get(&path).await;
    back["metadata"]["labels"] = json!({"c": "d"});
    let (code, _) = server.call(Method::PUT, &path, back).await;
    assert_eq!(code, 200);
    let open = server.post("/naka/v1/reveal/default/card", json!({})).await;
    assert_eq!(
        open["data"]["pan"], coded,
        "a label changed, the value did not"
    );
    let told = server.get("/naka/v1/events?kind=secret.").await;
    assert_eq!(told["items"][0]["kind"], "secret.reveal");
    let operator = server
        .token(json!({"kind": "api", "role": "operator"}))
        .await;
    let (code, _) = server
        .over_tls(
            Method::POST,
            "/naka/v1/reveal/default/card",
            json!({}),
            &operator,
        )
        .await;
    assert_eq!(code, 403);
}
