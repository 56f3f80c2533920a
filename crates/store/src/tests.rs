//! Tests of the whole store, on real files and real processes.

mod backup;
mod crash;
mod cut;
mod damage;
mod owned;
mod reseal;
mod state;
mod stream;
mod verify;

use crate::{Draft, Settings, Store};
use naka_types::name::ObjectRef;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Sizes: quick by default, the with `NAKA_EVIDENCE=full`.
fn full() -> bool {
    std::env::var("NAKA_EVIDENCE").is_ok_and(|size| size == "full")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn open(dir: &Path) -> Arc<Store> {
    Store::open(dir, Settings::default()).unwrap().0
}

fn named(kind: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port}]}})
}

fn put(name: &str, port: u16) -> Draft {
    Draft::put(
        "user:test",
        "because",
        named("Service", name),
        service(name, port),
    )
}

/// A directory with `count` commits in its log.
fn written(count: u16) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    runtime().block_on(async {
        for index in 0..count {
            store
                .commit(vec![put(&format!("s{}", index % 7), 1000 + index)])
                .await
                .unwrap();
        }
    });
    drop(store);
    dir
}
