//! Apply, diff, undo, confirm.

use super::{Server, reason, route, until};
use crate::apiserver::live::{Counts, Edge};
use http::Method;
use naka_types::name::ObjectRef;
use serde_json::{Value, json};

fn weight(server: &Server) -> Option<u64> {
    let object = ObjectRef {
        kind: "VirtualService".to_owned(),
        namespace: "default".to_owned(),
        name: "a".to_owned(),
    };
    let snapshot = server.store.snapshot();
    snapshot
        .value(&object)?
        .pointer("/spec/http/0/route/1/weight")?
        .as_u64()
}

fn traffic(server: &Server, to: &str, requests: u64, errors: u64) {
    let edge = Edge {
        from: "default/order".to_owned(),
        to: to.to_owned(),
        proxy: "1".to_owned(),
    };
    server
        .fake
        .edges
        .lock()
        .unwrap()
        .insert(edge, Counts { requests, errors });
}

#[tokio::test]
async fn the_good_part_of_an_apply_is_one_commit_and_the_bad_is_named() {
    let server = Server::start().await;
    let mut bad = route("bad", 10);
    bad["spec"]["hosts"] = json!(7);
    let body = json!({"objects": [route("a", 10), bad, route("b", 10)], "cause": "test"});
    let dry = server.post("/naka/v1/apply", {
        let mut dry = body.clone();
        dry["dry_run"] = json!(true);
        dry
    });
    let dry = dry.await;
    assert_eq!(server.store.snapshot().revision, 0);
    let applied = server.post("/naka/v1/apply", body).await;
    assert_eq!(
        dry["results"], applied["results"],
        "a dry run says what would happen"
    );
    let actions: Vec<&str> = applied["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        (actions, &applied["revision"]),
        (vec!["created", "invalid", "created"], &json!(2))
    );
    assert_eq!(applied["results"][0]["object"], "VirtualService default/a");
    assert!(
        applied["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|f| f["object"] == "VirtualService default/bad" && f["severity"] == "error")
    );
    let events = server.get("/naka/v1/history").await;
    assert_eq!(
        (
            &events["items"][0]["revision"],
            &events["items"][1]["revision"]
        ),
        (&json!(2), &json!(2))
    );
    let same = server
        .post("/naka/v1/apply", json!({"objects": [route("a", 10)]}))
        .await;
    assert_eq!(
        (&same["results"][0]["action"], &same["revision"]),
        (&json!("unchanged"), &json!(2))
    );
    let (code, _) = server
        .call(Method::POST, "/naka/v1/apply", json!({"objcts": []}))
        .await;
    assert_eq!(code, 400, "an unknown field of the request is not ignored");
}

#[tokio::test]
async fn diff_shows_fields_and_effect_and_undo_takes_back() {
    let server = Server::start().await;
    server
        .post("/naka/v1/apply", json!({"objects": [route("a", 10)]}))
        .await;
    let diff = server
        .post("/naka/v1/diff", json!({"objects": [route("a", 50)]}))
        .await;
    let change = &diff["changes"][0];
    assert_eq!(
        (&change["object"], &change["effect"]["proxies"]),
        (&json!("VirtualService default/a"), &json!(["order-1"]))
    );
    let fields = change["fields"].as_array().unwrap();
    assert!(
        fields
            .iter()
            .any(|f| f["path"] == "spec.http[0].route[1].weight"
                && f["before"] == 10
                && f["after"] == 50),
        "{diff}"
    );
    assert_eq!(weight(&server), Some(10), "a diff changes nothing");
    server
        .post("/naka/v1/apply", json!({"objects": [route("a", 50)]}))
        .await;
    server
        .post("/naka/v1/apply", json!({"objects": [route("a", 60)]}))
        .await;
    let (code, conflict) = server
        .call(Method::POST, "/naka/v1/undo", json!({"revision": 2}))
        .await;
    assert_eq!((code, reason(&conflict)), (409, "Conflict"));
    assert!(
        conflict["message"].as_str().unwrap().contains("revision 3"),
        "{conflict}"
    );
    let undone = server.post("/naka/v1/undo", json!({})).await;
    assert_eq!(
        (&undone["undone"], &undone["revision"], weight(&server)),
        (&json!(3), &json!(4), Some(50))
    );
    let one = server
        .get("/naka/v1/history?object=VirtualService%20default/a&limit=2")
        .await;
    assert_eq!(
        (
            &one["items"][0]["seq"],
            one["items"].as_array().unwrap().len()
        ),
        (&json!(4), 2)
    );
    let rollout = server.get("/naka/v1/rollout?revision=4").await;
    assert_eq!(
        (&rollout["done"], &rollout["acked"]),
        (&json!(true), &json!(["order-1"]))
    );
    assert_eq!(
        server
            .call(Method::GET, "/naka/v1/rollout?revision=5", Value::Null)
            .await
            .0,
        404
    );
}

async fn risky(server: &Server, seconds: u64) -> Value {
    server
        .post("/naka/v1/apply", json!({"objects": [route("a", 10)]}))
        .await;
    server
        .post(
            "/naka/v1/apply",
            json!({"objects": [route("a", 99)], "confirm_seconds": seconds}),
        )
        .await
}

#[tokio::test]
async fn an_unconfirmed_change_takes_itself_back_in_time() {
    let server = Server::start().await;
    let applied = risky(&server, 1).await;
    assert_eq!(weight(&server), Some(99));
    let id = applied["confirm"]["id"].as_str().unwrap();
    until("the undo", async || weight(&server) == Some(10)).await;
    let told = server.get("/naka/v1/history?limit=1").await;
    assert!(
        told["items"][0]["cause"]
            .as_str()
            .unwrap()
            .contains("not confirmed in time"),
        "{told}"
    );
    let (code, _) = server
        .call(Method::POST, &format!("/naka/v1/confirm/{id}"), json!({}))
        .await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn a_confirmed_change_stays() {
    let server = Server::start().await;
    let applied = risky(&server, 2).await;
    assert_eq!(applied["confirm"]["unwatched"], json!(["far-0.default"]));
    let id = applied["confirm"]["id"].as_str().unwrap().to_owned();
    let open = server.get("/naka/v1/confirm").await;
    assert_eq!(
        (
            &open["items"][0]["id"],
            open["items"].as_array().unwrap().len()
        ),
        (&json!(id), 1)
    );
    server
        .post(&format!("/naka/v1/confirm/{id}"), json!({}))
        .await;
    // The deadline passes; a change after it that is left alone shows that the watcher had its turn.
    let later = server
        .post(
            "/naka/v1/apply",
            json!({"objects": [route("b", 1)], "confirm_seconds": 3}),
        )
        .await;
    until("the undo of the other", async || {
        server.get("/naka/v1/confirm").await["items"] == json!([])
    })
    .await;
    assert_eq!(
        (weight(&server), later["revision"].as_u64().is_some()),
        (Some(99), true)
    );
}

#[tokio::test]
async fn errors_outside_the_band_undo_at_once_and_old_errors_do_not() {
    let server = Server::start().await;
    traffic(&server, "payment", 1000, 100);
    let applied = risky(&server, 3600).await;
    traffic(&server, "elsewhere", 1000, 1000);
    traffic(&server, "payment", 1000, 102);
    // Two ticks of the watcher go by while this other change runs into its deadline.
    server
        .post(
            "/naka/v1/apply",
            json!({"objects": [route("b", 1)], "confirm_seconds": 1}),
        )
        .await;
    until("the deadline of the other", async || {
        server.get("/naka/v1/confirm").await["items"]
            .as_array()
            .unwrap()
            .len()
            == 1
    })
    .await;
    assert_eq!(
        weight(&server),
        Some(99),
        "two errors, and errors elsewhere, are no reason"
    );
    traffic(&server, "payment", 1040, 140);
    until("the undo", async || weight(&server) == Some(10)).await;
    let told = server.get("/naka/v1/history?limit=1").await;
    let cause = told["items"][0]["cause"].as_str().unwrap();
    assert!(
        cause.contains(&format!("undo of revision {}", applied["revision"]))
            && cause.contains("errors on payment rose"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_restart_in_between_does_not_save_an_unconfirmed_change() {
    let server = Server::start().await;
    risky(&server, 1).await;
    let dir = server.stop().await;
    let server = Server::in_dir(dir, |_| {}).await;
    until("the undo", async || weight(&server) == Some(10)).await;
}

#[tokio::test]
async fn a_change_that_cannot_be_taken_back_without_harm_stays_and_is_told() {
    let server = Server::start().await;
    risky(&server, 1).await;
    server
        .post("/naka/v1/apply", json!({"objects": [route("a", 42)]}))
        .await;
    until("the note", async || {
        let told = server.get("/naka/v1/events?kind=confirm.failed").await;
        !told["items"].as_array().unwrap().is_empty()
    })
    .await;
    assert_eq!(
        weight(&server),
        Some(42),
        "the later change is somebody's work"
    );
}
