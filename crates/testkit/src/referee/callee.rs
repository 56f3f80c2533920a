//! Workloads that a case calls: servers of its head behind sidecars of their own.
//!
//! The program is a sleeping one; who answers at its port is the server in this process. They run while their case does,
//! beside the proxy that is asked: a case that is asked of both has one after the other, so that no caller meets the
//! other's.

use super::case::File;
use super::client::Door;
use super::seen::Who;
use super::topology::Set;
use crate::mesh::{Mesh, SOON};
use crate::program::{Program, free_port};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A workload that is to run.
#[derive(Debug, Clone)]
struct Behind {
    server: String,
    service: String,
    namespace: String,
    port: u16,
}

/// One that runs: name of its server, the door of its sidecar, the program.
type Callee = (String, Door, Program);

/// The workloads of a case.
#[derive(Debug, Default)]
pub(super) struct Callees {
    wanted: Vec<Behind>,
    running: Option<(Who, Vec<Callee>)>,
}

impl Callees {
    /// Those of a case; those of the case before end.
    pub(super) fn of(&mut self, file: &File, set: &Set) {
        self.stop();
        let servers = file.case.servers.iter();
        self.wanted = servers
            .filter_map(|(name, server)| {
                let at = set.endpoints.iter().find(|one| one.name == *name)?;
                Some(Behind {
                    server: name.clone(),
                    service: server.behind.clone()?,
                    namespace: file.case.namespace.clone(),
                    port: at.address.port(),
                })
            })
            .collect();
    }

    /// Ends them.
    pub(super) fn stop(&mut self) {
        let running = self.running.take();
        let mut programs: Vec<Program> = running
            .into_iter()
            .flat_map(|(_, all)| all)
            .map(|(.., program)| program)
            .collect();
        for program in &mut programs {
            program.signal(rustix::process::Signal::TERM);
        }
        for mut program in programs {
            let _ = program.wait(SOON);
        }
    }

    /// Sees to it that they run beside a proxy.
    pub(super) fn beside(&mut self, mesh: &Mesh, who: Who, start: Duration) -> Result<()> {
        if self.wanted.is_empty() || self.running.as_ref().is_some_and(|(now, _)| *now == who) {
            return Ok(());
        }
        self.stop();
        let mut all = Vec::new();
        for behind in &self.wanted {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("callee-{}-{number}", behind.service);
            let (port, inbound) = (behind.port.to_string(), free_port());
            // An instance of its own: nothing that one case left behind meets the next.
            let (inbound_port, instance) = (inbound.to_string(), number.to_string());
            let mut options = vec!["-n", &behind.namespace, "-s", &behind.service, "-p", &port];
            options.extend(["--inbound-port", &inbound_port, "--instance", &instance]);
            options.extend(match who {
                Who::Envoy => ["--proxy", "envoy"],
                _ => ["--capture", "proxy"],
            });
            let program = mesh.run(&name, &options, &["sleep", "infinity"]);
            let door = Door {
                address: SocketAddr::from(([127, 0, 0, 1], inbound)),
                credential: None,
                forward: false,
            };
            all.push((behind.server.clone(), door, program));
        }
        let end = Instant::now() + start;
        while !self.ready(mesh) {
            if Instant::now() > end || all.iter_mut().any(|(.., program)| !program.alive()) {
                let said: Vec<String> = all.iter().map(|(.., program)| program.err()).collect();
                let listed = mesh.naka(["get", "proxies", "-A"]).stdout;
                let listed = String::from_utf8_lossy(&listed).into_owned();
                bail!("no callee beside {who}: {}\n{listed}", said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.running = Some((who, all));
        Ok(())
    }

    /// Whether each has its configuration and is ready to be called.
    fn ready(&self, mesh: &Mesh) -> bool {
        let listed = |kind: &str| {
            let listed = mesh.naka(["get", kind, "-A", "-o", "json"]).stdout;
            let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap_or_default();
            listed["items"].as_array().cloned().unwrap_or_default()
        };
        let (proxies, workloads) = (listed("proxies"), listed("workloads"));
        self.wanted.iter().all(|behind| {
            let is = |one: &serde_json::Value, state: &str| {
                one["service"] == behind.service
                    && one["namespace"] == behind.namespace
                    && one["state"] == state
            };
            proxies.iter().any(|one| is(one, "programmed"))
                && workloads.iter().any(|one| is(one, "healthy"))
        })
    }

    /// The door of the sidecar before a server.
    pub(super) fn door(&self, server: &str) -> Option<&Door> {
        let (_, all) = self.running.as_ref()?;
        let found = all.iter().find(|(name, ..)| name == server);
        found.map(|(_, door, _)| door)
    }
}

impl Drop for Callees {
    fn drop(&mut self) {
        self.stop();
    }
}
