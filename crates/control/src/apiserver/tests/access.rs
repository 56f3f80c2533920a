//! Who gets in, and what they may do.

use super::{ROUTES, Server, reason, route};
use http::Method;
use naka_store::Draft;
use serde_json::{Value, json};

const EVERYTHING: &[(Method, &str)] = &[
    (Method::GET, "/api"),
    (Method::GET, "/apis"),
    (Method::GET, "/api/v1"),
    (Method::GET, "/api/v1/services"),
    (Method::GET, ROUTES),
    (Method::POST, ROUTES),
    (Method::GET, "/naka/v1/mesh"),
    (Method::GET, "/naka/v1/history"),
    (Method::POST, "/naka/v1/apply"),
    (Method::POST, "/naka/v1/tokens"),
    (Method::GET, "/nowhere"),
];

#[tokio::test]
async fn without_a_credential_only_health_and_version_answer() {
    let server = Server::start().await;
    for path in ["/healthz", "/version"] {
        assert_eq!(
            server.over_tls(Method::GET, path, Value::Null, "").await.0,
            200,
            "{path}"
        );
    }
    for (method, path) in EVERYTHING {
        let (code, answer) = server.over_tls(method.clone(), path, Value::Null, "").await;
        assert_eq!(
            (code, reason(&answer), answer["kind"].as_str()),
            (401, "Unauthorized", Some("Status")),
            "{path}"
        );
    }
    // The same requests with the right token get past that point.
    let token = server.token(json!({"kind": "api", "role": "admin"})).await;
    for (method, path) in EVERYTHING {
        let (code, _) = server
            .over_tls(method.clone(), path, json!({}), &token)
            .await;
        assert_ne!(code, 401, "{path}");
    }
    assert_eq!(
        server
            .over_tls(Method::GET, "/nowhere", Value::Null, &token)
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn the_control_socket_knows_its_owner_by_uid() {
    let server = Server::start().await;
    let mesh = server.get("/naka/v1/mesh").await;
    assert!(mesh["subject"].as_str().unwrap().starts_with("user:"));
    assert_eq!(
        (&mesh["name"], &mesh["root_pem"]),
        (&json!("test"), &json!(server.root_pem))
    );
    let narrow = server.token(json!({"kind": "api", "role": "viewer"})).await;
    let headers = [("authorization", format!("Bearer {narrow}"))];
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let (code, answer) = server
        .with(Method::POST, ROUTES, route("a", 1), &headers)
        .await;
    assert_eq!(
        (code, reason(&answer)),
        (403, "Forbidden"),
        "a given credential counts, not the uid"
    );
    let dir = server.stop().await;
    let other = Server::in_dir(dir, |state| state.owner += 1).await;
    let (code, answer) = other.call(Method::GET, "/naka/v1/mesh", Value::Null).await;
    assert_eq!(code, 401, "{answer}");
}

#[tokio::test]
async fn tokens_that_are_wrong_expired_revoked_or_of_another_kind_are_refused_alike() {
    let server = Server::start().await;
    let good = server.token(json!({"kind": "api", "role": "viewer"})).await;
    let probe = |token: String| {
        let server = &server;
        async move {
            server
                .over_tls(Method::GET, "/api", Value::Null, &token)
                .await
                .0
        }
    };
    assert_eq!(probe(good.clone()).await, 200);
    let last = good.chars().last().unwrap();
    let wrong = format!(
        "{}{}",
        &good[..good.len() - 1],
        if last == '0' { '1' } else { '0' }
    );
    assert_eq!(probe(wrong).await, 401);
    assert_eq!(probe("gibberish".to_owned()).await, 401);
    let join = server
        .token(json!({"kind": "join", "services": ["payment"]}))
        .await;
    assert_eq!(probe(join.clone()).await, 401);
    assert_eq!(
        probe(join.replace("naka1.join", "naka1.api")).await,
        401,
        "the kind is the server's to say"
    );

    // Time passes: the same record with an expiry in the past.
    let id = good.split('.').nth(4).unwrap().to_owned();
    let mut grant = server
        .store
        .snapshot()
        .record("token", &id)
        .unwrap()
        .as_ref()
        .clone();
    assert!(
        !grant.to_string().contains(good.rsplit('.').next().unwrap()),
        "the log must not hold the secret"
    );
    let expires = grant["expires"].take();
    grant["expires"] = json!(1);
    let set = |grant: &Value| {
        vec![Draft::record(
            "t",
            "",
            "token.test",
            "token",
            &id,
            Some(grant.clone()),
        )]
    };
    server.store.commit(set(&grant)).await.unwrap();
    assert_eq!(probe(good.clone()).await, 401);
    grant["expires"] = expires;
    server.store.commit(set(&grant)).await.unwrap();
    assert_eq!(probe(good.clone()).await, 200);

    let (code, _) = server
        .call(
            Method::DELETE,
            &format!("/naka/v1/tokens/{id}"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(probe(good).await, 401);
    let left = server.get("/naka/v1/tokens").await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert!(!left.to_string().contains("secret") && left["items"][0]["uses_left"] == 1);
    let (code, _) = server
        .call(
            Method::DELETE,
            &format!("/naka/v1/tokens/{id}"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn roles_and_namespaces_bound_what_a_subject_does() {
    let server = Server::start().await;
    server.post(ROUTES, route("a", 1)).await;
    let viewer = server.token(json!({"kind": "api", "role": "viewer"})).await;
    let operator = server
        .token(json!({"kind": "api", "role": "operator", "namespaces": ["shop"]}))
        .await;
    let admin = server.token(json!({"kind": "api", "role": "admin"})).await;
    let mut shop = route("b", 1);
    shop["metadata"]["namespace"] = json!("shop");
    let in_shop = ROUTES.replace("default", "shop");
    let everywhere = "/apis/networking.istio.io/v1/virtualservices";
    let apply = |objects: Value| json!({ "objects": objects });
    let namespace = json!({"metadata": {"name": "new"}});
    for (token, method, path, body, want) in [
        (&viewer, Method::GET, everywhere, Value::Null, 200),
        (&viewer, Method::POST, ROUTES, route("c", 1), 403),
        (
            &viewer,
            Method::DELETE,
            &format!("{ROUTES}/a"),
            Value::Null,
            403,
        ),
        (
            &viewer,
            Method::POST,
            "/naka/v1/apply",
            apply(json!([route("c", 1)])),
            403,
        ),
        (&viewer, Method::POST, "/naka/v1/undo", json!({}), 403),
        (&viewer, Method::GET, "/naka/v1/tokens", Value::Null, 403),
        (&operator, Method::POST, &in_shop, shop.clone(), 201),
        (&operator, Method::POST, ROUTES, route("c", 1), 403),
        (&operator, Method::GET, ROUTES, Value::Null, 403),
        (&operator, Method::GET, everywhere, Value::Null, 403),
        (
            &operator,
            Method::POST,
            "/naka/v1/apply",
            apply(json!([shop, route("c", 1)])),
            403,
        ),
        (
            &operator,
            Method::POST,
            "/naka/v1/tokens",
            json!({"kind": "api", "role": "admin"}),
            403,
        ),
        (
            &operator,
            Method::POST,
            "/api/v1/namespaces",
            namespace.clone(),
            403,
        ),
        (&operator, Method::GET, "/naka/v1/world", Value::Null, 403),
        (
            &operator,
            Method::POST,
            "/naka/v1/undo",
            json!({"revision": 1}),
            403,
        ),
        (&admin, Method::POST, "/api/v1/namespaces", namespace, 201),
    ] {
        let (code, answer) = server.over_tls(method.clone(), path, body, token).await;
        assert_eq!(code, want, "{method} {path}: {answer}");
    }
    let (_, history) = server
        .over_tls(Method::GET, "/naka/v1/history", Value::Null, &operator)
        .await;
    let items = history["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "only its own namespace: {history}");
    let id = operator.split('.').nth(4).unwrap();
    assert_eq!(
        items[0]["actor"],
        format!("token:{id}"),
        "every change carries its subject"
    );
    let (_, proxies) = server
        .over_tls(Method::GET, "/naka/v1/proxies", Value::Null, &operator)
        .await;
    assert_eq!(proxies["items"], json!([]));
}

/// Who may not reveal secrets may not change their key; an admin may, and everybody with an eye on the whole mesh sees
/// how they are sealed.
#[tokio::test]
async fn only_an_admin_changes_the_key_of_secrets() {
    let server = Server::start().await;
    let role = |role: &'static str| server.token(json!({"kind": "api", "role": role}));
    let path = "/naka/v1/seal";
    let before = server.get(path).await;
    for (token, allowed) in [
        (role("viewer").await, false),
        (role("operator").await, false),
        (role("admin").await, true),
    ] {
        let wanted = json!({"lock": "same"});
        let (code, _) = server.over_tls(Method::POST, path, wanted, &token).await;
        assert_eq!(code, if allowed { 200 } else { 403 });
        let (code, seen) = server
            .over_tls(Method::GET, path, Value::Null, &token)
            .await;
        assert_eq!(code, 200);
        assert_eq!(seen["key"] != before["key"], allowed);
    }
    let admin = role("admin").await;
    for nonsense in [
        json!({"lock": "tin"}),
        json!({"lock": "passphrase"}),
        json!({}),
    ] {
        let (code, _) = server
            .over_tls(Method::POST, path, nonsense.clone(), &admin)
            .await;
        assert_eq!(code, 400, "{nonsense}");
    }
}
