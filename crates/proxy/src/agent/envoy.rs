//! The Envoy of an agent: its bootstrap, its process, its admin pages.
//!
//! Everything an Envoy needs to start stands in one file (0600) that names the agent's socket and nothing else: no
//! key, no address of a control plane. It ends with its agent, is started again when it dies, and its admin pages are
//! on a Unix socket in the run directory, not on a port of the machine.

use crate::settings::{Role, Settings};
use crate::{control_client, saved};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use naka_wire::google::protobuf::value::Kind;
use naka_wire::google::protobuf::{Struct, Value};
use naka_wire::v1::Seen;
use serde_json::{Value as Json, json};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Name of the Envoy's admin socket.
const ADMIN: &str = "envoy.sock";
const BOOTSTRAP: &str = "envoy.json";
const LOG: &str = "envoy.log";
/// Connections an Envoy takes at a time, of all listeners.
const CONNECTIONS: u32 = 50_000;
/// A page of counters of a large mesh.
const PAGE_LIMIT: usize = 16 << 20;
const ASK: Duration = Duration::from_secs(2);
/// How often an Envoy is looked at: while it starts, and while it runs.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_RUNNING: Duration = Duration::from_millis(500);
/// Pauses before one that died is started again.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that ran this long had a good start.
const GOOD_START: Duration = Duration::from_secs(10);
const END_WITHIN: Duration = Duration::from_secs(2);

/// How the Envoy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Health {
    /// It does not run, or does not say that it is ready.
    #[default]
    Away,
    /// It has its configuration.
    Ready,
}

fn field(value: &Value) -> Json {
    match &value.kind {
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::StructValue(fields)) => object(fields),
        Some(Kind::ListValue(list)) => list.values.iter().map(field).collect(),
        Some(Kind::NullValue(_)) | None => Json::Null,
    }
}

fn object(fields: &Struct) -> Json {
    let fields = fields.fields.iter();
    fields
        .map(|(key, value)| (key.clone(), field(value)))
        .collect()
}

/// The node as the client's bootstrap names it.
pub(super) fn node(settings: &Settings, workload_id: &str) -> Json {
    let node = control_client::node(settings, workload_id);
    json!({
        "id": node.id,
        "cluster": node.cluster,
        "metadata": node.metadata.as_ref().map(object),
    })
}

/// What an Envoy is started with.
fn bootstrap(settings: &Settings, workload_id: &str, socket: &Path) -> Json {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "node": node(settings, workload_id),
        "admin": {"address": {"pipe": {
            "path": settings.run_dir.join(ADMIN), "mode": 0o600}}},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": CONNECTIONS}}]},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "naka-agent"}}]},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [{
            "name": "naka-agent", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {OPTIONS: {
                "@type": format!("type.googleapis.com/{OPTIONS}"),
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "naka-agent", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": socket}}}}]}]},
        }]},
    })
}

/// Asks a page of the Envoy.
///
/// # Errors
/// When it does not answer in time.
pub(super) async fn ask(
    run_dir: &Path,
    method: Method,
    path: &str,
) -> Result<(StatusCode, String), String> {
    let asked = async {
        let stream = UnixStream::connect(run_dir.join(ADMIN))
            .await
            .map_err(|error| error.to_string())?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut send, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "envoy")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = send
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), PAGE_LIMIT).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(ASK, asked)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Sum of the gauges of a page of counters, without the question itself: the admin page is a request, too.
pub(super) fn sum(page: &str) -> u64 {
    let values = page
        .lines()
        .filter(|line| !line.starts_with("http.admin."))
        .filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok());
    values.sum()
}

/// The page of counters that [`seen`] reads.
pub(super) const SEEN: &str = "/stats?filter=^(http.*downstream_rq_total|tcp.*downstream_cx_total|cluster.(tunnel|external).upstream_rq_total)$";

/// What an Envoy saw of its workload's traffic, as our own proxies count it. A tunnel for HTTP comes back into the
/// forward proxy, so its CONNECT is taken off the requests.
pub(super) fn seen(page: &str) -> Seen {
    let mut seen = Seen::default();
    for (name, value) in page.lines().filter_map(|line| line.rsplit_once(": ")) {
        let Ok(value) = value.trim().parse::<u64>() else {
            continue;
        };
        match name {
            "cluster.tunnel.upstream_rq_total" => seen.tunnelled += value,
            "cluster.external.upstream_rq_total" => seen.bypassed += value,
            _ if name.starts_with("http.admin.") => {}
            _ if name.starts_with("http.") => seen.http += value,
            _ if name.starts_with("tcp.") => seen.opaque += value,
            _ => {}
        }
    }
    seen.http = seen.http.saturating_sub(seen.tunnelled);
    seen
}

/// Keeps an Envoy running until told to end.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) settings: Arc<Settings>,
    pub(super) program: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) health: watch::Sender<Health>,
}

impl Keeper {
    /// Starts it, and again whenever it dies; ends it when `stop` becomes true. To be called once there is an
    /// identity and a configuration.
    pub(super) async fn run(self, workload_id: String, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE;
        loop {
            let started = Instant::now();
            match self.spawn(&workload_id) {
                Ok(mut child) => {
                    let stopped = self.watch(&mut child, &mut stop).await;
                    self.health.send_replace(Health::Away);
                    if stopped {
                        end(&mut child).await;
                        return;
                    }
                    if started.elapsed() > GOOD_START {
                        pause = PAUSE;
                    }
                }
                Err(error) => {
                    tracing::error!(program = %self.program.display(), %error, "the Envoy cannot be started");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn spawn(&self, workload_id: &str) -> std::io::Result<Child> {
        let dir = &self.settings.run_dir;
        let file = dir.join(BOOTSTRAP);
        let content = bootstrap(&self.settings, workload_id, &self.socket).to_string();
        saved::replace(&file, content.as_bytes())
            .map_err(|error| std::io::Error::other(error.to_string()))?;
        // One that was left by an earlier Envoy would stand in the way of the next.
        let _ = std::fs::remove_file(dir.join(ADMIN));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join(LOG))?;
        let workers = self.settings.workers.unwrap_or(match self.settings.role {
            Role::Sidecar => 1,
            Role::Gateway => std::thread::available_parallelism().map_or(1, usize::from),
        });
        let mut command = Command::new(&self.program);
        command
            .arg("-c")
            .arg(file)
            .args(["--disable-hot-restart", "-l", "warning"])
            .args(["--drain-strategy", "immediate"])
            .args(["--concurrency", &workers.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        #[expect(
            unsafe_code,
            reason = "an Envoy does not end with its parent by itself"
        )]
        // SAFETY: one system call in the child between fork and exec, which allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                let kill = Some(rustix::process::Signal::KILL);
                rustix::process::set_parent_process_death_signal(kill)?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        tracing::info!(pid = child.id(), "an Envoy was started");
        Ok(child)
    }

    /// Until it dies (false) or is to end (true).
    async fn watch(&self, child: &mut Child, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                tracing::warn!(%status, "the Envoy ended; it is started again");
                return false;
            }
            let page = ask(&self.settings.run_dir, Method::GET, "/ready").await;
            let health = match page {
                Ok((StatusCode::OK, _)) => Health::Ready,
                _ => Health::Away,
            };
            self.health
                .send_if_modified(|now| std::mem::replace(now, health) != health);
            let look = match health {
                Health::Ready => LOOK_RUNNING,
                Health::Away => LOOK,
            };
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                _ = stop.wait_for(|stop| *stop) => return true,
            }
        }
    }
}

/// Asks it to end, and kills it after a while.
async fn end(child: &mut Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that is gone is no error.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let began = Instant::now();
    while began.elapsed() < END_WITHIN {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::{bootstrap, seen, sum};
    use crate::settings::{Beside, Outbound, Settings};
    use std::path::Path;

    #[test]
    fn a_bootstrap_names_the_agent_and_no_secret() {
        let mut settings = Settings::new("/r".into(), "pay", "pay-1");
        settings.beside = Beside::Envoy;
        settings.control.token = Some("naka1.join.secret".to_owned());
        settings.outbound = Some(Outbound {
            bind: ([127, 0, 0, 1], 3128).into(),
            credential: None,
        });
        let file = bootstrap(
            &settings,
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            Path::new("/r/xds.sock"),
        );
        let naka = &file["node"]["metadata"]["NAKA"];
        assert_eq!(naka["http_proxy"], "127.0.0.1:3128");
        assert_eq!(naka["workload_id"], "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(file["admin"]["address"]["pipe"]["mode"], 0o600);
        let text = file.to_string();
        assert!(
            text.contains("/r/xds.sock") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn counters_of_an_envoy_say_what_was_seen() {
        let page = "http.admin.downstream_rq_total: 9\nhttp.http_proxy.downstream_rq_total: 5\nhttp.inbound|80||.downstream_rq_total: 2\ncluster.tunnel.upstream_rq_total: 1\ncluster.external.upstream_rq_total: 3\ntcp.inbound|9||.downstream_cx_total: 4\nnonsense\n";
        let seen = seen(page);
        let all = (seen.http, seen.tunnelled, seen.opaque, seen.bypassed);
        assert_eq!(all, (6, 1, 4, 3));
    }

    #[test]
    fn gauges_are_summed_and_everything_else_is_left_out() {
        let page = "http.admin.downstream_rq_active: 1\nhttp.a.downstream_rq_active: 2\ntcp.b.downstream_cx_active: 1\nx: No recorded values\n";
        assert_eq!(sum(page), 3);
        assert_eq!(sum(""), 0);
    }
}
