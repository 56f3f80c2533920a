//! What `naka run` says when a captured program calls its own loopback and nobody is there: most of the time it means
//! the machine's, or a service.
//!
//! A line per port, once, and a few in all: the program's output is the program's.

use crate::client::Client;
use crate::contexts::Context;
use crate::launch::listening;
use crate::out;
use naka_proxy::door::Refusals;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lines in all: with the one of a failure it makes the three that `naka run` may print.
const LINES: usize = 2;
/// A program may call in a tight loop; the same port is looked into this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Ports remembered; a program that scans more gets no hints.
const PORTS: usize = 256;
/// A program that ended in failure may have done so because of a call that the door has just seen.
const LAST_WITHIN: Duration = Duration::from_millis(50);
/// A control plane that does not answer by then has no name to add.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Refused calls, and what was said about them.
#[derive(Debug)]
pub(crate) struct Hints {
    refusals: Option<Refusals>,
    context: Context,
    namespace: String,
    looked: BTreeMap<u16, Option<Instant>>,
    lines: usize,
}

impl Hints {
    /// Hints about the calls of a program in this namespace of the mesh.
    pub(crate) fn new(refusals: Option<Refusals>, context: Context, namespace: String) -> Self {
        Self {
            refusals,
            context,
            namespace,
            looked: BTreeMap::new(),
            lines: 0,
        }
    }

    /// The port of the next refused call that may be worth a word. Cancel-safe.
    pub(crate) async fn next(&mut self) -> u16 {
        while let Some(refusals) = self.refusals.as_mut().filter(|_| self.lines < LINES) {
            match refusals.next().await {
                Ok(port) if self.due(port) => return port,
                Ok(_) => {}
                Err(_) => self.refusals = None,
            }
        }
        std::future::pending().await
    }

    /// The word about a program that has just ended in failure, if one is due.
    pub(crate) async fn last(&mut self) {
        if self.refusals.is_none() || self.lines >= LINES {
            return;
        }
        if let Ok(port) = tokio::time::timeout(LAST_WITHIN, self.next()).await {
            self.tell(port).await;
        }
    }

    /// Whether the port has not been spoken of and was not looked into just now.
    fn due(&mut self, port: u16) -> bool {
        match self.looked.get(&port) {
            Some(None) => return false,
            Some(Some(at)) if at.elapsed() < LOOK_EVERY => return false,
            None if self.looked.len() >= PORTS => return false,
            _ => {}
        }
        self.looked.insert(port, Some(Instant::now()));
        true
    }

    /// Says what is worth saying about a refused call to the port.
    pub(crate) async fn tell(&mut self, port: u16) {
        let asked = tokio::time::timeout(ASK_WITHIN, self.service(port));
        let service = asked.await.ok().flatten();
        if let Some(text) = text(port, listening::on_loopback(port), service.as_deref()) {
            out::note(text);
            self.looked.insert(port, None);
            self.lines += 1;
        }
    }

    /// A service whose program listens on the port, as this program would call it.
    async fn service(&self, port: u16) -> Option<String> {
        let mut client = Client::connect(self.context.clone()).await.ok()?;
        let workloads = client.get("/naka/v1/workloads").await.ok()?;
        let items = workloads.get("items")?.as_array()?;
        let serves = |workload: &&Value| {
            let ports = workload.get("ports").and_then(Value::as_array);
            ports
                .into_iter()
                .flatten()
                .any(|served| served.get("port").and_then(Value::as_u64) == Some(u64::from(port)))
        };
        let workload = items.iter().find(serves)?;
        let field = |name: &str| workload.get(name).and_then(Value::as_str);
        let service = field("service").filter(|name| !name.is_empty())?;
        match field("namespace") {
            Some(namespace) if namespace != self.namespace => {
                Some(format!("{service}.{namespace}"))
            }
            _ => Some(service.to_owned()),
        }
    }
}

/// The line about a refused call to the program's own loopback; nothing when there is nothing to advise.
fn text(port: u16, on_the_machine: bool, service: Option<&str>) -> Option<String> {
    let call = service.map(|name| format!("the service {name} has this port: call {name}:{port}"));
    let open = on_the_machine
        .then(|| format!("the machine's 127.0.0.1:{port} is reached with --host-port {port}"));
    let advice = match (call, open) {
        (Some(call), Some(open)) => format!("{call}; {open}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return None,
    };
    Some(format!(
        "naka: the program called 127.0.0.1:{port}, and its loopback is its own: {advice}"
    ))
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn a_hint_names_the_option_and_the_service_when_there_is_one() {
        assert_eq!(text(5432, false, None), None);
        let open = text(5432, true, None).unwrap();
        assert!(open.contains("--host-port 5432"));
        let both = text(80, true, Some("payment")).unwrap();
        assert!(both.contains("--host-port 80") && both.contains("payment:80"));
        let call = text(80, false, Some("payment.shop")).unwrap();
        assert!(call.contains("payment.shop:80") && !call.contains("--host-port"));
    }
}
