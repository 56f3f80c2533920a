//! `$NAKA_HOME/config`: the meshes this user knows, in kubeconfig format, so that `kubectl --kubeconfig` works.
//!
//! A context joins a cluster (address and root of the API) and a user (a bearer token). What kubeconfig has no field
//! for sits in the cluster's extension `naka.dev`: name of the mesh, control socket, addresses of xDS, join token.
//! The file is edited as JSON values, so that fields other tools put there survive.
//!
//! Invariant: written whole by rename, 0600, because it holds tokens.

use crate::exit::{Exit, Outcome};
use crate::home::{Home, make_dir, write_secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What to say when there is no mesh at all.
pub(crate) const NO_MESH: &str =
    "no mesh here: start one with \"naka up\" or join one with \"naka join TOKEN\"";

const FIRST_LINE: &str = "# naka contexts, format 1; kubectl --kubeconfig reads this file too\n";
const EXTENSION: &str = "naka.dev";

/// One mesh as seen from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// Name of the context.
    pub(crate) name: String,
    /// Name of the mesh.
    pub(crate) mesh: String,
    /// `https://host:port` of the API.
    pub(crate) server: String,
    /// Root certificate, PEM.
    pub(crate) root_pem: String,
    /// SHA-256 of the root certificate, hex.
    pub(crate) root_sha256: String,
    /// Bearer token of the API; empty = none.
    pub(crate) token: String,
    /// Control socket, when the control plane runs on this machine.
    pub(crate) socket: Option<PathBuf>,
    /// Addresses of xDS and CA.
    pub(crate) xds: Vec<String>,
    /// Join token given to `naka join`, when the mesh runs elsewhere.
    pub(crate) join_token: Option<String>,
}

/// The file, open for change.
#[derive(Debug)]
pub(crate) struct Contexts {
    path: PathBuf,
    config: Value,
}

impl Contexts {
    /// Reads the file; a missing one is empty.
    pub(crate) fn open(home: &Home) -> Outcome<Self> {
        let path = home.config();
        let config = match std::fs::read_to_string(&path) {
            Ok(text) => serde_saphyr::from_str::<Value>(&text)
                .map_err(|error| Exit::failed(format!("{}: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(Exit::failed(format!("{}: {error}", path.display()))),
        };
        let config = if config.is_object() {
            config
        } else {
            json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "users": [], "contexts": [], "current-context": ""})
        };
        Ok(Self { path, config })
    }

    /// Names of all contexts.
    pub(crate) fn names(&self) -> Vec<String> {
        self.list("contexts")
            .iter()
            .filter_map(|entry| Some(entry.get("name")?.as_str()?.to_owned()))
            .collect()
    }

    /// Name of the current context, empty when none is.
    pub(crate) fn current(&self) -> &str {
        self.config
            .get("current-context")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The context of this name, or the current one.
    pub(crate) fn choose(&self, name: Option<&str>) -> Outcome<Context> {
        let wanted = name.unwrap_or_else(|| self.current());
        if wanted.is_empty() {
            return Err(Exit::failed(NO_MESH));
        }
        self.get(wanted).ok_or_else(|| {
            let known = self.names().join(", ");
            Exit::failed(if known.is_empty() {
                NO_MESH.to_owned()
            } else {
                format!("no context {wanted:?}; known: {known}")
            })
        })
    }

    fn get(&self, name: &str) -> Option<Context> {
        let context = find(self.list("contexts"), name)?.get("context")?;
        let word =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let cluster =
            find(self.list("clusters"), context.get("cluster")?.as_str()?)?.get("cluster")?;
        let user = context
            .get("user")
            .and_then(Value::as_str)
            .and_then(|user| find(self.list("users"), user))
            .and_then(|entry| entry.get("user"));
        let extension = cluster
            .get("extensions")
            .and_then(Value::as_array)
            .and_then(|all| find(all, EXTENSION))
            .and_then(|entry| entry.get("extension"));
        let extra = |field: &str| extension.and_then(|e| e.get(field));
        let root = word(cluster.get("certificate-authority-data"));
        Some(Context {
            name: name.to_owned(),
            mesh: word(extra("mesh")),
            server: word(cluster.get("server")),
            root_pem: STANDARD
                .decode(&root)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .unwrap_or_default(),
            root_sha256: word(extra("rootSha256")),
            token: word(user.and_then(|u| u.get("token"))),
            socket: extra("controlSocket")
                .and_then(Value::as_str)
                .map(PathBuf::from),
            xds: extra("xds")
                .and_then(Value::as_array)
                .map(|all| {
                    all.iter()
                        .filter_map(|a| a.as_str().map(str::to_owned))
                        .collect()
                })
                .unwrap_or_default(),
            join_token: extra("joinToken")
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }

    /// Adds or replaces a context.
    pub(crate) fn put(&mut self, context: &Context) {
        let name = &context.name;
        let mut extension =
            json!({"mesh": context.mesh, "rootSha256": context.root_sha256, "xds": context.xds});
        if let Some(socket) = &context.socket {
            extension["controlSocket"] = json!(socket);
        }
        if let Some(token) = &context.join_token {
            extension["joinToken"] = json!(token);
        }
        let cluster = json!({
            "server": context.server,
            "certificate-authority-data": STANDARD.encode(&context.root_pem),
            "extensions": [{"name": EXTENSION, "extension": extension}],
        });
        self.set("clusters", name, "cluster", cluster);
        let user = if context.token.is_empty() {
            json!({})
        } else {
            json!({"token": context.token})
        };
        self.set("users", name, "user", user);
        let joined = json!({"cluster": name, "user": name, "namespace": "default"});
        self.set("contexts", name, "context", joined);
    }

    /// Removes a context, and with it its cluster and user.
    pub(crate) fn remove(&mut self, name: &str) {
        for list in ["clusters", "users", "contexts"] {
            if let Some(entries) = self.config.get_mut(list).and_then(Value::as_array_mut) {
                entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(name));
            }
        }
        if self.current() == name {
            self.make_current("");
        }
    }

    /// Makes a context the current one.
    pub(crate) fn make_current(&mut self, name: &str) {
        self.config["current-context"] = json!(name);
    }

    /// Writes the file.
    pub(crate) fn save(&self) -> Outcome {
        if let Some(dir) = self.path.parent() {
            make_dir(dir)?;
        }
        let text = format!("{FIRST_LINE}{}", crate::out::yaml(&self.config));
        write_secret(&self.path, text.as_bytes())
    }

    fn list(&self, name: &str) -> &[Value] {
        self.config
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn set(&mut self, list: &str, name: &str, field: &str, value: Value) {
        if !self.config.get(list).is_some_and(Value::is_array) {
            self.config[list] = json!([]);
        }
        let Some(entries) = self.config[list].as_array_mut() else {
            return;
        };
        let entry = json!({"name": name, field: value});
        let place = entries
            .iter()
            .position(|e| e.get("name").and_then(Value::as_str) == Some(name));
        match place {
            Some(index) => entries[index] = entry,
            None => entries.push(entry),
        }
    }
}

fn find<'a>(entries: &'a [Value], name: &str) -> Option<&'a Value> {
    entries
        .iter()
        .find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_kept_chosen_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let open = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let config = if text.is_empty() {
                json!({})
            } else {
                serde_saphyr::from_str(&text).unwrap()
            };
            Contexts {
                path: path.clone(),
                config,
            }
        };
        let mut contexts = open();
        assert_eq!(contexts.choose(None).unwrap_err().message, NO_MESH);
        let one = Context {
            name: "local".to_owned(),
            mesh: "local".to_owned(),
            server: "https://127.0.0.1:4443".to_owned(),
            root_pem: "-----BEGIN CERTIFICATE-----\nAA==\n".to_owned(),
            root_sha256: "ab".to_owned(),
            token: "naka1.api.x".to_owned(),
            socket: Some("/tmp/control.sock".into()),
            xds: vec!["127.0.0.1:15012".to_owned()],
            join_token: None,
        };
        contexts.put(&one);
        contexts.put(&Context {
            name: "demo".to_owned(),
            ..one.clone()
        });
        contexts.make_current("local");
        contexts.save().unwrap();
        let mut contexts = open();
        assert_eq!(contexts.choose(None).unwrap(), one);
        assert_eq!(contexts.names(), ["local", "demo"]);
        assert!(
            contexts
                .choose(Some("other"))
                .unwrap_err()
                .message
                .contains("known: local, demo")
        );
        contexts.remove("local");
        assert_eq!(contexts.choose(None).unwrap_err().message, NO_MESH);
        assert!(contexts.choose(Some("demo")).is_ok());
    }
}
