//! Watches: order, selections, bookmarks, 410.

use super::{ROUTES, Server, reason, route};
use http::Method;
use naka_store::Draft;
use serde_json::{Value, json};

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let server = Server::start().await;
    server.post(ROUTES, route("a", 10)).await;
    let mut fresh = server.watch(&format!("{ROUTES}?watch=true")).await;
    let mut from = server
        .watch(&format!("{ROUTES}?watch=1&resourceVersion=1"))
        .await;
    assert_eq!(fresh.next().await.0, "ADDED");
    for weight in 11..30 {
        let (code, _) = server
            .call(Method::PUT, &format!("{ROUTES}/a"), route("a", weight))
            .await;
        assert_eq!(code, 200);
    }
    server
        .call(Method::DELETE, &format!("{ROUTES}/a"), Value::Null)
        .await;
    for watch in [&mut fresh, &mut from] {
        for revision in 2..=20 {
            let (kind, object) = watch.next().await;
            assert_eq!(
                (kind.as_str(), &object["metadata"]["resourceVersion"]),
                ("MODIFIED", &json!(revision.to_string()))
            );
        }
        let (kind, object) = watch.next().await;
        assert_eq!(
            (kind.as_str(), &object["metadata"]["resourceVersion"]),
            ("DELETED", &json!("21"))
        );
    }
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let server = Server::start().await;
    let mut watch = server
        .watch(&format!("{ROUTES}?watch=true&labelSelector=app%3Da"))
        .await;
    server.post(ROUTES, route("b", 10)).await;
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    let merge = [("content-type", "application/merge-patch+json")];
    for value in ["a", "a2"] {
        server
            .with(Method::PATCH, &format!("{ROUTES}/b"), label(value), &merge)
            .await;
    }
    assert_eq!(watch.next().await.0, "ADDED");
    assert_eq!(watch.next().await.0, "DELETED");
}

#[tokio::test]
async fn bookmarks_move_a_quiet_watch_forward_and_what_is_too_old_is_410() {
    let server = Server::start().await;
    server.post(ROUTES, route("a", 10)).await;
    let path = format!("{ROUTES}?watch=true&allowWatchBookmarks=true&resourceVersion=1");
    let mut watch = server.watch(&path).await;
    let note = |n: u32| vec![Draft::record("t", "", "r", "r", "1", Some(json!(n)))];
    server.store.commit(note(0)).await.unwrap();
    let (kind, object) = watch.next().await;
    assert_eq!(
        (kind.as_str(), &object["metadata"]["resourceVersion"]),
        ("BOOKMARK", &json!("2"))
    );
    let streamed = format!(
        "{ROUTES}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let mut list = server.watch(&streamed).await;
    assert_eq!(list.next().await.0, "ADDED");
    assert_eq!(
        list.next().await.1["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );

    for number in 1..5000 {
        server.store.commit(note(number)).await.unwrap();
    }
    let (code, gone) = server.call(Method::GET, &path, Value::Null).await;
    assert_eq!(
        (code, reason(&gone), &gone["kind"]),
        (410, "Expired", &json!("Status"))
    );
    let (code, _) = server
        .call(
            Method::GET,
            &path.replace("resourceVersion=1", "resourceVersion=999999"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 410, "a revision of another log");
    let (code, _) = server
        .call(
            Method::GET,
            &path.replace("resourceVersion=1", "resourceVersion=x"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 400);
}
