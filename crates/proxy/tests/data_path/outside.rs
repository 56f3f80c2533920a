//! Servers outside the mesh: TLS with real ones (openssl's), tunnels through a proxy, names that only the caller says.

use crate::mesh::{HOST, Inside, Mesh};
use crate::program::{get, http, mirror, raw, within};
use naka_engine::model::{
    Action, Cluster, ClusterSpec, Endpoint, Forward, Health, Match, OutsideTls, Route, Snapshot,
    SnapshotBuilder, Source, Tunnel, VirtualHost, WeightedCluster, WorkloadMeta,
};
use naka_proxy::worker::Entrance;
use naka_types::protocol::Protocol;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, RCODE, ResourceRecord};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a caller is told: a host at port 80 leads to a cluster as `edit` makes it.
fn leading(
    mesh: &Mesh,
    host: &str,
    protocol: Protocol,
    endpoints: &[SocketAddr],
    edit: impl FnOnce(&mut ClusterSpec),
) -> Snapshot {
    let name: Arc<str> = format!("outbound|80||{host}").into();
    let mut spec = ClusterSpec::new(&name, protocol);
    spec.connect_timeout = Duration::from_secs(2);
    edit(&mut spec);
    let endpoint = |address: &SocketAddr| {
        Arc::new(Endpoint {
            address: *address,
            weight: 1,
            health: Health::Healthy,
            mtls: false,
            workload: Arc::new(WorkloadMeta::default()),
            state: mesh.registry.endpoint(&name, *address),
        })
    };
    let cluster = Cluster::new(
        mesh.registry.id(&name),
        Arc::new(spec),
        endpoints.iter().map(endpoint).collect(),
        mesh.registry.cluster(&name),
    );
    let forward = Forward::new(vec![WeightedCluster::new(cluster.id, &name, 1)]).unwrap();
    let mut builder = SnapshotBuilder::new("shop");
    builder.put_cluster(Arc::new(cluster));
    builder.put_virtual_host(Arc::new(VirtualHost {
        name: format!("80/{host}:80").into(),
        port: 80,
        domains: [Arc::from(host)].into(),
        routes: [Arc::new(Route {
            name: "default".into(),
            config: None,
            matches: Match::default(),
            action: Action::Forward(forward),
            request_headers: Default::default(),
            response_headers: Default::default(),
            limit: None,
            extras: Default::default(),
        })]
        .into(),
    }));
    builder.build()
}

/// A little time between two looks.
async fn pause() {
    let never = std::future::pending::<()>();
    let _ = tokio::time::timeout(Duration::from_millis(20), never).await;
}

/// Certificates made by openssl: an authority, and a server's and a client's of it.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=30\ncrlnumber=number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n";
        std::fs::write(made.dir.path().join("ca.cnf"), config).unwrap();
        std::fs::write(made.dir.path().join("index.txt"), "").unwrap();
        std::fs::write(made.dir.path().join("number"), "01\n").unwrap();
        made.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2");
        for name in ["server", "client"] {
            let san = format!("subjectAltName=DNS:api.example.com,URI:spiffe://outside/{name}\n");
            std::fs::write(made.dir.path().join("san"), san).unwrap();
            made.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            made.openssl(&format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile san"));
        }
        made.openssl("ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.pem -out empty.crl");
        made.openssl("ca -config ca.cnf -revoke server.pem -keyfile ca.key -cert ca.pem");
        made.openssl("ca -config ca.cnf -gencrl -keyfile ca.key -cert ca.pem -out revoked.crl");
        made
    }

    fn openssl(&self, words: &str) {
        let done = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{words}: {done:?}");
    }

    fn source(&self, name: &str) -> Source {
        Source::File(self.dir.path().join(name).to_string_lossy().into())
    }

    /// A server of openssl's that answers every GET.
    async fn server(&self, options: &str) -> Server {
        let address = StdListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-www",
                "-quiet",
                "-cert",
                "server.pem",
                "-key",
                "server.key",
            ])
            .args(["-CAfile", "ca.pem", "-accept", &address.to_string()])
            .args(options.split_ascii_whitespace())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, address };
        for _ in 0..500 {
            if TcpStream::connect(address).await.is_ok() {
                return server;
            }
            pause().await;
        }
        panic!("openssl does not listen");
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tls(made: &Made) -> OutsideTls {
    OutsideTls {
        sni: Some("api.example.com".into()),
        names: Arc::from([]),
        roots: Some(made.source("ca.pem")),
        revoked: None,
        certificate: None,
        verify: true,
        nobody: false,
    }
}

async fn status(mesh: &Mesh, server: &Server, tls: OutsideTls) -> (u16, String) {
    let snapshot = leading(
        mesh,
        "api.example.com",
        Protocol::Http,
        &[server.address],
        |spec| {
            spec.outside = Some(Arc::new(tls));
        },
    );
    let caller = mesh.proxy("shopper", snapshot, &["api.example.com"]);
    let outbound = caller.open(Entrance::Outbound);
    let answer = get(outbound, "http://api.example.com/").await;
    (answer.status.as_u16(), answer.reason().to_owned())
}

/// What is asked of a server, and the status that comes of it.
type Row = (&'static str, OutsideTls, u16);

/// Whose name a server may have.
fn named(made: &Made) -> Vec<Row> {
    let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect();
    let base = || tls(made);
    vec![
        ("the right name", base(), 200),
        (
            "nobody",
            OutsideTls {
                nobody: true,
                verify: false,
                ..base()
            },
            503,
        ),
        (
            "another name",
            OutsideTls {
                sni: Some("other.example.com".into()),
                ..base()
            },
            503,
        ),
        (
            "another server name, but a name that is listed",
            OutsideTls {
                sni: Some("other.example.com".into()),
                names: names(&["x", "api.example.com"]),
                ..base()
            },
            200,
        ),
        (
            "a list without its name",
            OutsideTls {
                names: names(&["other.example.com"]),
                ..base()
            },
            503,
        ),
        (
            "a pattern",
            OutsideTls {
                names: names(&["*.example.com"]),
                ..base()
            },
            200,
        ),
        (
            "a pattern of others",
            OutsideTls {
                names: names(&["*.example.org"]),
                ..base()
            },
            503,
        ),
        (
            "its URI",
            OutsideTls {
                names: names(&["spiffe://outside/server"]),
                ..base()
            },
            200,
        ),
        (
            "another URI",
            OutsideTls {
                names: names(&["spiffe://outside/client"]),
                ..base()
            },
            503,
        ),
    ]
}

/// Whom files let vouch for a server, and whom they revoke.
fn from_files(made: &Made) -> Vec<Row> {
    let base = || tls(made);
    vec![
        (
            "the system's authorities",
            OutsideTls {
                roots: None,
                ..base()
            },
            503,
        ),
        (
            "the system's authorities, not verified",
            OutsideTls {
                roots: None,
                verify: false,
                ..base()
            },
            200,
        ),
        (
            "no such file",
            OutsideTls {
                roots: Some(made.source("nothing")),
                ..base()
            },
            503,
        ),
        (
            "nothing revoked",
            OutsideTls {
                revoked: Some(made.source("empty.crl")),
                ..base()
            },
            200,
        ),
        (
            "revoked",
            OutsideTls {
                revoked: Some(made.source("revoked.crl")),
                ..base()
            },
            503,
        ),
        (
            "revoked, with a name that is listed",
            OutsideTls {
                revoked: Some(made.source("revoked.crl")),
                names: ["api.example.com".to_owned()].into(),
                ..base()
            },
            503,
        ),
    ]
}

#[tokio::test]
async fn tls_is_begun_with_real_servers_and_only_with_the_right_ones() {
    let made = Made::new();
    let mesh = Mesh::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let server = made.server(version).await;
        for (what, tls, expect) in named(&made).into_iter().chain(from_files(&made)) {
            let (got, reason) = status(&mesh, &server, tls).await;
            assert_eq!(got, expect, "{version}: {what}");
            let wanted = if expect == 200 { "-" } else { "tls-failed" };
            assert_eq!(reason, wanted, "{version}: {what}");
        }
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let made = Made::new();
    let mesh = Mesh::new();
    let server = made.server("-Verify 1 -verify_return_error").await;
    let own = || Some((made.source("client.pem"), made.source("client.key")));
    let with = OutsideTls {
        certificate: own(),
        ..tls(&made)
    };
    assert_eq!(status(&mesh, &server, with).await.0, 200);
    let (without, _) = status(&mesh, &server, tls(&made)).await;
    assert_eq!(without, 503);
    let wrong = Some((made.source("client.pem"), made.source("server.key")));
    let wrong = OutsideTls {
        certificate: wrong,
        ..tls(&made)
    };
    let (status, reason) = status(&mesh, &server, wrong).await;
    assert_eq!((status, reason.as_str()), (503, "tls-failed"));
}

/// A proxy that takes CONNECT and POST and says what it was asked.
async fn connecting(asked: Arc<Mutex<Vec<String>>>, refuse: bool) -> SocketAddr {
    let program = raw(move |mut stream, _| {
        let asked = Arc::clone(&asked);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            let line = String::from_utf8_lossy(&head);
            let line = line.lines().next().unwrap().to_owned();
            asked.lock().unwrap().push(line);
            if refuse {
                let no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(no).await.unwrap();
                return;
            }
            // The first byte of the target comes in one piece with the head.
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nhello ")
                .await
                .unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    })
    .await;
    program.address
}

#[tokio::test]
async fn connections_of_bytes_lead_on_through_a_proxy() {
    for (post, refuse, line) in [
        (false, false, "CONNECT db.example.com:5432 HTTP/1.1"),
        (true, false, "POST / HTTP/1.1"),
        (false, true, "CONNECT db.example.com:5432 HTTP/1.1"),
    ] {
        let asked = Arc::default();
        let proxy = connecting(Arc::clone(&asked), refuse).await;
        let mesh = Mesh::new();
        let snapshot = leading(&mesh, HOST, Protocol::Tcp, &[proxy], |spec| {
            spec.tunnel = Some(Tunnel {
                target: "db.example.com:5432".into(),
                post,
            });
        });
        let caller = mesh.proxy("shopper", snapshot, &[HOST]);
        let bind = caller.open(Entrance::Bind {
            host: HOST.into(),
            port: 80,
            inside: true,
            protocol: Protocol::Auto,
        });
        let mut stream = TcpStream::connect(bind).await.unwrap();
        stream.write_all(b"world").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = within(stream.read_to_string(&mut answer)).await;
        if refuse {
            assert!(answer.is_empty(), "{answer}");
        } else {
            read.unwrap();
            assert_eq!(answer, "hello world");
        }
        let asked: Vec<String> = asked.lock().unwrap().clone();
        assert_eq!(asked.first().map(String::as_str), Some(line));
    }
}

/// A name server with one address for every name; 0: there is no such name.
fn name_server(dir: &Path, address: Arc<AtomicU32>, asked: Arc<AtomicU32>) -> PathBuf {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let conf = dir.join("resolv.conf");
    let server = socket.local_addr().unwrap();
    std::fs::write(
        &conf,
        format!("nameserver [{}]:{}\n", server.ip(), server.port()),
    )
    .unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut room) {
            asked.fetch_add(1, SeqCst);
            let question = Packet::parse(&room[..length]).unwrap();
            let mut reply = Packet::new_reply(question.id());
            let name = question.questions[0].qname.clone();
            let four = Ipv4Addr::from(address.load(SeqCst));
            if four.is_unspecified() {
                *reply.rcode_mut() = RCODE::NameError;
            } else {
                let data = RData::A(A::from(four));
                let record = ResourceRecord::new(name, CLASS::IN, 1, data);
                reply.answers.push(record);
            }
            reply.questions = question.questions;
            let bytes = reply.build_bytes_vec().unwrap();
            let _ = socket.send_to(&bytes, from);
        }
    });
    conf
}

#[tokio::test]
async fn a_name_that_the_caller_says_is_looked_up_and_again_when_its_time_is_over() {
    let program = http(mirror).await;
    let port = program.address.port();
    let dir = tempfile::tempdir().unwrap();
    let (address, asked) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let conf = name_server(dir.path(), Arc::clone(&address), Arc::clone(&asked));
    let mesh = Mesh::new();
    let inside = Inside {
        resolv_conf: Some(conf),
        ..Inside::default()
    };
    let mut snapshot = leading(&mesh, "*.example.com", Protocol::Http, &[], |spec| {
        spec.by_caller = true;
    });
    let mut vhost = VirtualHost::clone(snapshot.virtual_hosts().next().unwrap());
    vhost.port = port;
    let mut builder = snapshot.edit();
    builder.put_virtual_host(Arc::new(vhost));
    snapshot = builder.build();
    let caller = mesh.proxy_within(inside, 1, "shopper", snapshot, &[], |_| {});
    let outbound = caller.open(Entrance::Outbound);
    let url = format!("http://a.example.com:{port}/");
    let missing = get(outbound, &url).await;
    assert_eq!(
        (missing.status.as_u16(), missing.reason()),
        (503, "unknown-host")
    );
    address.store(u32::from(Ipv4Addr::LOCALHOST), SeqCst);
    let found = get(outbound, &url).await;
    assert_eq!(found.status.as_u16(), 200, "{found:?}");
    assert!(found.body.contains("host=a.example.com"), "{}", found.body);
    // Within its time the answer is kept: nobody is asked.
    let before = asked.load(SeqCst);
    get(outbound, &url).await;
    assert_eq!(asked.load(SeqCst), before);
    // Another name is another question.
    get(outbound, &format!("http://b.example.com:{port}/")).await;
    assert!(asked.load(SeqCst) > before);
    // Afterwards it is not: the name means another machine now, at which nobody listens.
    address.store(u32::from(Ipv4Addr::new(127, 0, 0, 99)), SeqCst);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let answer = get(outbound, &url).await;
        if answer.status.as_u16() == 503 {
            assert_eq!(answer.reason(), "connect-failed");
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the old address is still called"
        );
        pause().await;
    }
}
