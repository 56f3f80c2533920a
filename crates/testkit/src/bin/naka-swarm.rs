//! Many clients of one control plane, in one process, for the tests of its bad days.
//!
//! `crowd` are proxies without a data path: the same line to the control plane as a sidecar's (identity by token, ADS
//! over mutual TLS, registration, reconnecting), resources decoded and acknowledged. The other commands are one
//! client each that does what no honest one does. Lines of JSON on stdout say what they saw.
//!
//! ```text
//! naka-swarm crowd --token T --count N [--want HOST:PORT]   until stdin ends; prints when all are connected, and news
//! naka-swarm CRIME --token T [--for SECONDS] [--node-version V]                CRIME: mute | silent | nonces | nacks | names | foreign
//! naka-swarm nested --token T --of struct|list|groups|any --depth N --to xds|authority|workloads     what one message comes to
//! ```
#![expect(clippy::print_stdout, reason = "a command-line program")]

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use naka_identity::tls;
use naka_proxy::certify::Asker;
use naka_proxy::control_client::{self, Link, News, Params};
use naka_proxy::lease::Lease;
use naka_proxy::rotation::Feed;
use naka_proxy::settings::Settings;
use naka_testkit::nested::{Nest, Request, behind};
use naka_types::name::VirtualHostName;
use naka_types::node::NODE_METADATA;
use naka_types::token::Token;
use naka_wire::envoy::envoy::config::core::v3::Node;
use naka_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use naka_wire::google::protobuf::value::Kind;
use naka_wire::istio_ca::IstioCertificateRequest;
use naka_wire::prost::Message;
use naka_wire::v1::RegisterRequest;
use naka_wire::{type_url, values};
use naka_xds::delta::client::{Client, Subscription, Update};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, Streaming};

type Options = HashMap<String, String>;

/// Service account of every client here; its tokens must allow it.
const ACCOUNT: &str = "swarm";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let mut options = Options::new();
    while let Some(name) = args.next() {
        options.insert(
            name.trim_start_matches('-').to_owned(),
            args.next().unwrap_or_default(),
        );
    }
    let _ = naka_proxy::limits::raise_open_files();
    // One thread: what is measured is the control plane, on the same two cores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command.as_str() {
            "crowd" => crowd(&options).await,
            "nested" => nested(&options).await,
            crime => offend(crime, &options).await,
        }
    })
}

fn option<'a>(options: &'a Options, name: &str) -> Result<&'a str> {
    options
        .get(name)
        .map(String::as_str)
        .with_context(|| format!("--{name} is missing"))
}

fn settings(token: &str, number: usize) -> Settings {
    let mut settings = Settings::new(
        std::path::PathBuf::new(),
        ACCOUNT,
        &format!("swarm-{number}"),
    );
    settings.control.token = Some(token.to_owned());
    settings.save_identity = false;
    settings
}

/// What a sidecar asks for at its start; `want` is a virtual host besides.
fn subscriptions(want: Option<&str>) -> Vec<(&'static str, Subscription)> {
    vec![
        (type_url::SECRET, Subscription::names(["ROOTCA"])),
        (type_url::CLUSTER, Subscription::everything()),
        (
            type_url::ENDPOINT,
            Subscription::names(Vec::<String>::new()),
        ),
        (type_url::LISTENER, Subscription::everything()),
        (type_url::VIRTUAL_HOST, Subscription::everything().and(want)),
        (type_url::NAME_FILTER, Subscription::names(["names"])),
    ]
}

/// `host:port` as the name of a virtual host.
fn virtual_host(want: &str) -> Result<String> {
    let (_, port) = want.rsplit_once(':').context("--want HOST:PORT")?;
    let name = format!("{port}/{want}");
    VirtualHostName::parse(&name).with_context(|| format!("--want {want}"))?;
    Ok(name)
}

/// What the crowd has seen, all clients together.
#[derive(Default)]
struct Seen {
    connected: AtomicU64,
    updates: AtomicU64,
    resources: AtomicU64,
    /// Clients that got the wanted virtual host since the last change of it was noticed.
    wanted: AtomicU64,
}

async fn crowd(options: &Options) -> Result<()> {
    let token = option(options, "token")?;
    let count: usize = option(options, "count")?.parse()?;
    let want = options.get("want").map(|w| virtual_host(w)).transpose()?;
    let seen = Arc::new(Seen::default());
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        clients.push(member(
            settings(token, number),
            want.clone(),
            Arc::clone(&seen),
        ));
    }
    let report = tokio::spawn(report(Arc::clone(&seen), count as u64));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    report.abort();
    Ok(())
}

/// One client; it lives as long as the runtime. Dropping the command sender would end it, so its task holds it.
fn member(
    settings: Settings,
    want: Option<String>,
    seen: Arc<Seen>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let lease = Lease::new(&settings);
        let client = Client::new(
            control_client::node(&settings, ""),
            subscriptions(want.as_deref()),
        );
        let (_commands, taken) = mpsc::channel(1);
        let (news, mut received) = mpsc::unbounded_channel();
        let line = Arc::new(watch::Sender::default());
        let mut watched = line.subscribe();
        let run = control_client::run(Params {
            settings: Arc::new(settings),
            feed: Arc::new(Feed::new(None)),
            client,
            commands: taken,
            registration: lease.watch(),
            news,
            line,
            denials: Arc::default(),
            traces: None,
        });
        let count = Arc::clone(&seen);
        let connected = async move {
            let mut is = false;
            while watched.changed().await.is_ok() {
                let now = watched.borrow().connected;
                match (is, now) {
                    (false, true) => count.connected.fetch_add(1, Ordering::Relaxed),
                    (true, false) => count.connected.fetch_sub(1, Ordering::Relaxed),
                    _ => 0,
                };
                is = now;
            }
        };
        let read = async move {
            while let Some(news) = received.recv().await {
                if let News::Update(update, verdict) = news {
                    take(&update, want.as_deref(), &seen);
                    verdict.answer(Vec::new());
                }
            }
        };
        tokio::join!(run, connected, read);
    })
}

/// Decodes as a proxy does, and counts.
fn take(update: &Update, want: Option<&str>, seen: &Seen) {
    seen.updates.fetch_add(1, Ordering::Relaxed);
    for resource in &update.resources {
        seen.resources.fetch_add(1, Ordering::Relaxed);
        if update.type_url == type_url::VIRTUAL_HOST && Some(resource.name.as_str()) == want {
            seen.wanted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A line whenever something has changed, ten times a second at most.
async fn report(seen: Arc<Seen>, count: u64) {
    let start = Instant::now();
    let mut last = serde_json::Value::Null;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let numbers = json!({
            "connected": seen.connected.load(Ordering::Relaxed),
            "count": count,
            "updates": seen.updates.load(Ordering::Relaxed),
            "resources": seen.resources.load(Ordering::Relaxed),
            "wanted": seen.wanted.load(Ordering::Relaxed),
        });
        if numbers != last {
            last.clone_from(&numbers);
            println!(
                "{}",
                json!({"ms": start.elapsed().as_millis() as u64, "seen": numbers})
            );
        }
    }
}

/// What the criminals ask for besides, so that there is something to read and to refuse.
const WANTED: &str = "80/payment.default.svc.cluster.local:80";

/// The first certificate of a client.
async fn certified(link: &Link, settings: &Settings, token: &Token) -> Result<naka_identity::Svid> {
    let mut asker = Asker::new(Arc::new(settings.clone()));
    Ok(asker.ask(link, Some(token)).await?.svid)
}

/// One open stream of a client with a good identity.
struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

async fn stream(token: &str, version: Option<&String>) -> Result<Stream> {
    let parsed = Token::parse(token).ok().context("--token is none")?;
    let address = parsed
        .addresses
        .first()
        .context("the token has no address")?;
    let config = tls::token_client_config(&parsed.ca_sha256, &[b"h2"])?;
    let settings = settings(token, 0);
    let link: Link = control_client::dial(address, config).await?;
    let svid = certified(&link, &settings, &parsed).await?;
    let (requests, queue) = mpsc::channel(16);
    let mut node = control_client::node(&settings, &svid.workload_id.to_string());
    if let Some(version) = version {
        pretend(&mut node, version);
    }
    requests
        .send(DeltaDiscoveryRequest {
            node: Some(node),
            type_url: type_url::CLUSTER.to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
        .await?;
    // What every sidecar opens, before which nothing is sent, and one name: there is something to read and to refuse.
    for (type_url, names) in [
        (type_url::ENDPOINT, vec![]),
        (type_url::LISTENER, vec!["*".to_owned()]),
        (type_url::VIRTUAL_HOST, vec![WANTED.to_owned()]),
    ] {
        requests.send(ask(type_url, names)).await?;
    }
    let mut client = AggregatedDiscoveryServiceClient::new(link);
    let responses = client
        .delta_aggregated_resources(ReceiverStream::new(queue))
        .await?
        .into_inner();
    Ok(Stream {
        requests,
        responses,
    })
}

/// Makes a node say that it is another version of Naka.
fn pretend(node: &mut Node, version: &str) {
    let metadata = node.metadata.as_mut();
    let own = metadata.and_then(|metadata| metadata.fields.get_mut(NODE_METADATA));
    if let Some(Kind::StructValue(own)) = own.and_then(|own| own.kind.as_mut()) {
        own.fields
            .insert("version".to_owned(), values::string(version));
    }
}

fn ask(type_url: &str, names: impl IntoIterator<Item = String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.into_iter().collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Commits one crime until the time is over or the server ends the stream; prints what came of it.
async fn offend(crime: &str, options: &Options) -> Result<()> {
    let token = option(options, "token")?;
    let seconds: u64 = options.get("for").map_or(Ok(3), |text| text.parse())?;
    let mut stream = stream(token, options.get("node-version")).await?;
    println!("{}", json!({"crime": crime, "state": "open"}));
    let mut got: BTreeMap<String, u64> = BTreeMap::new();
    let mut sent = 0u64;
    let commit = async {
        match crime {
            // Never reads: the responses stay where they are.
            "mute" => loop {
                let names =
                    (0..100).map(|n| format!("80/none-{}-{n}.default.svc.cluster.local:80", sent));
                stream
                    .requests
                    .send(ask(type_url::VIRTUAL_HOST, names))
                    .await?;
                sent += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            },
            // Reads and never answers.
            "silent" => loop {
                count(stream.responses.message().await?, &mut got)?;
            },
            "nonces" => loop {
                let request = DeltaDiscoveryRequest {
                    type_url: type_url::CLUSTER.to_owned(),
                    response_nonce: format!("made-up-{sent}"),
                    ..DeltaDiscoveryRequest::default()
                };
                stream.requests.send(request).await?;
                sent += 1;
            },
            "nacks" => loop {
                let response = stream.responses.message().await?;
                let (type_url, nonce) = count(response, &mut got)?;
                let refusal = DeltaDiscoveryRequest {
                    type_url: type_url.clone(),
                    response_nonce: nonce,
                    error_detail: Some(naka_wire::google::rpc::Status {
                        code: 3,
                        message: "x".repeat(10_000),
                        details: Vec::new(),
                    }),
                    ..DeltaDiscoveryRequest::default()
                };
                stream.requests.send(refusal).await?;
                // Given up and asked for again, so that the next one comes at once.
                let again = DeltaDiscoveryRequest {
                    resource_names_unsubscribe: vec![WANTED.to_owned()],
                    ..ask(type_url::VIRTUAL_HOST, [])
                };
                stream.requests.send(again).await?;
                let wanted = ask(type_url::VIRTUAL_HOST, [WANTED.to_owned()]);
                stream.requests.send(wanted).await?;
                sent += 1;
            },
            "names" => ask_for_many(&mut stream, &mut sent, &mut got).await?,
            "foreign" => {
                let names = option(options, "names")?.split(',').map(str::to_owned);
                stream
                    .requests
                    .send(ask(option(options, "type")?, names))
                    .await?;
                loop {
                    count(stream.responses.message().await?, &mut got)?;
                }
            }
            other => bail!("unknown crime {other:?}"),
        }
        Ok::<(), anyhow::Error>(())
    };
    let ended = match tokio::time::timeout(Duration::from_secs(seconds), commit).await {
        Err(_) => "time is over".to_owned(),
        Ok(Ok(())) => "done".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
    };
    println!(
        "{}",
        json!({"crime": crime, "state": "over", "sent": sent, "got": got, "ended": ended})
    );
    Ok(())
}

/// Asks for a hundred thousand names that nobody has, and reads what comes until the server ends it.
async fn ask_for_many(
    stream: &mut Stream,
    sent: &mut u64,
    got: &mut BTreeMap<String, u64>,
) -> Result<()> {
    for part in 0..100u32 {
        let names = (0..1_000u32).map(|n| format!("80/n{part}-{n}.default.svc.cluster.local:80"));
        stream
            .requests
            .send(ask(type_url::VIRTUAL_HOST, names))
            .await?;
        *sent += 1_000;
        while let Ok(Ok(response)) =
            tokio::time::timeout(Duration::from_millis(1), stream.responses.message()).await
        {
            count(response, got)?;
        }
    }
    loop {
        count(stream.responses.message().await?, got)?;
    }
}

/// Counts resources and absences by type; gives back type and nonce.
fn count(
    response: Option<DeltaDiscoveryResponse>,
    got: &mut BTreeMap<String, u64>,
) -> Result<(String, String)> {
    let response = response.context("the control plane closed the stream")?;
    let short = response.type_url.rsplit('.').next().unwrap_or_default();
    *got.entry(short.to_owned()).or_default() += response.resources.len() as u64;
    *got.entry(format!("no {short}")).or_default() += response.removed_resources.len() as u64;
    Ok((response.type_url, response.nonce))
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends a sound message with so many levels behind it, and says whether it was answered.
async fn nested(options: &Options) -> Result<()> {
    let token = option(options, "token")?;
    let depth: usize = option(options, "depth")?.parse()?;
    let nest = Nest::named(option(options, "of")?).context("--of struct|list|groups|any")?;
    let parsed = Token::parse(token).ok().context("--token is none")?;
    let address = parsed
        .addresses
        .first()
        .context("the token has no address")?;
    let config = tls::token_client_config(&parsed.ca_sha256, &[b"h2"])?;
    let settings = settings(token, 0);
    let link: Link = control_client::dial(address, config).await?;
    let (path, messages, bearer) = match option(options, "to")? {
        "authority" => {
            let key = naka_identity::KeyAndCsr::generate()?;
            let sound = IstioCertificateRequest {
                csr: key.csr_pem().to_owned(),
                metadata: Some(values::fields([
                    ("namespace", values::string(&settings.namespace)),
                    ("service_account", values::string(&settings.service_account)),
                ])),
                ..IstioCertificateRequest::default()
            };
            let deep = behind(Request::Certificate, nest, depth);
            let message = [sound.encode_to_vec(), deep].concat();
            let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
            (path, vec![message], Some(parsed.reveal()))
        }
        "workloads" => {
            let svid = certified(&link, &settings, &parsed).await?;
            let sound = RegisterRequest {
                workload_id: svid.workload_id.to_string(),
                namespace: settings.namespace.clone(),
                service_account: settings.service_account.clone(),
                workload_name: settings.workload_name.clone(),
                ip: settings.inbound_ip.to_string(),
                ..RegisterRequest::default()
            };
            let deep = behind(Request::Discovery, nest, depth);
            let message = [sound.encode_to_vec(), deep].concat();
            ("/naka.wire.v1.Workloads/Register", vec![message], None)
        }
        _ => {
            let svid = certified(&link, &settings, &parsed).await?;
            let node = control_client::node(&settings, &svid.workload_id.to_string());
            let first = DeltaDiscoveryRequest {
                node: Some(node),
                ..ask(type_url::CLUSTER, ["*".to_owned()])
            };
            let deep = behind(Request::Discovery, nest, depth);
            let first = [first.encode_to_vec(), deep].concat();
            let others = [
                ask(type_url::ENDPOINT, []),
                ask(type_url::LISTENER, ["*".to_owned()]),
                ask(type_url::VIRTUAL_HOST, [WANTED.to_owned()]),
            ];
            let others = others.iter().map(Message::encode_to_vec);
            let path =
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
            (path, std::iter::once(first).chain(others).collect(), None)
        }
    };
    let answer = answered(link, path, messages, bearer);
    let outcome = match tokio::time::timeout(Duration::from_secs(20), answer).await {
        Ok(Ok(())) => "answered".to_owned(),
        Ok(Err(status)) => format!("refused: {:?}: {}", status.code(), status.message()),
        Err(_) => "nothing came".to_owned(),
    };
    println!("{}", json!({"crime": "nested", "outcome": outcome}));
    Ok(())
}

/// Sends all of it on one stream, which stays open until the first answer.
async fn answered(
    link: Link,
    path: &'static str,
    messages: Vec<Vec<u8>>,
    bearer: Option<String>,
) -> Result<(), Status> {
    let unary = bearer.is_some();
    let (queue, queued) = mpsc::channel(messages.len());
    for message in messages {
        let _ = queue.send(Bytes::from(message)).await;
    }
    // Where one message is all there is, the end of the stream says so.
    let _open = (!unary).then_some(queue);
    let mut request = tonic::Request::new(ReceiverStream::new(queued));
    if let Some(bearer) = bearer {
        let value = format!("Bearer {bearer}");
        let value = value
            .parse()
            .map_err(|_| Status::internal("the token is no header"))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = tonic::client::Grpc::new(link);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = client
        .streaming(request, PathAndQuery::from_static(path), Raw)
        .await?;
    match answer.into_inner().message().await? {
        Some(_) => Ok(()),
        None => Err(Status::unavailable("the stream ended")),
    }
}
