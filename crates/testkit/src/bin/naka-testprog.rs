//! The programs of the tests: an HTTP server that logs what it was asked, and an open-loop load that logs what it
//! got. Both are plain blocking code with no mesh library in them, so that what they count is evidence from outside.
//!
//! ```text
//! naka-testprog serve --port P --name NAME --version V --log FILE [--bind ADDR] [--delay MS]
//! naka-testprog load  --url URL --rate N --for SECONDS --connections N --log FILE [--count N] [--marker TEXT] [--method M]
//! naka-testprog echo  --port P             TCP echo
//! naka-testprog greet --port P             TCP, server speaks first
//! naka-testprog hold  --url URL --log FILE an upgraded connection that echoes a line every 20 ms until stdin ends
//! ```
//! The load honours `http_proxy` (with credentials) as curl does.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use anyhow::{Context, Result, bail};
use naka_testkit::http1::{Client, Head, read_head};
use serde_json::json;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() -> std::process::ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let mut options = HashMap::new();
    while let Some(name) = args.next() {
        options.insert(
            name.trim_start_matches('-').to_owned(),
            args.next().unwrap_or_default(),
        );
    }
    let result = match command.as_str() {
        "serve" => serve(&options),
        "load" => load(&options),
        "echo" => tcp(&options, None),
        "greet" => tcp(&options, Some(b"220 hello\r\n")),
        "hold" => hold(&options),
        _ => Err(anyhow::anyhow!("unknown command {command:?}")),
    };
    if let Err(error) = result {
        eprintln!("naka-testprog {command}: {error:#}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}

type Options = HashMap<String, String>;

fn option<'a>(options: &'a Options, name: &str) -> Result<&'a str> {
    options
        .get(name)
        .map(String::as_str)
        .with_context(|| format!("--{name} is missing"))
}

fn number(options: &Options, name: &str, default: u64) -> Result<u64> {
    options.get(name).map_or(Ok(default), |text| {
        text.parse().with_context(|| format!("--{name} {text}"))
    })
}

/// One JSON object per line, written whole, so that a killed program leaves whole lines.
#[derive(Clone)]
struct Log(Arc<Mutex<Option<File>>>);

impl Log {
    fn open(path: Option<&String>) -> Result<Self> {
        let file = path
            .map(|p| File::options().create(true).append(true).open(p))
            .transpose()?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    fn write(&self, line: &serde_json::Value) {
        if let Some(file) = self.0.lock().expect("no writer panics").as_mut() {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

fn millis() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis())
}

// === server ===

fn serve(options: &Options) -> Result<()> {
    let bind = options.get("bind").map_or("127.0.0.1", String::as_str);
    let listener = TcpListener::bind((bind, u16::try_from(number(options, "port", 0)?)?))?;
    let name: Arc<str> = option(options, "name")?.into();
    let version: Arc<str> = options.get("version").map_or("v1", String::as_str).into();
    let log = Log::open(options.get("log"))?;
    let delay = Duration::from_millis(number(options, "delay", 0)?);
    for stream in listener.incoming() {
        let (stream, name, version, log) = (stream?, name.clone(), version.clone(), log.clone());
        std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || {
                let _ = answer_all(stream, &name, &version, delay, &log);
            })?;
    }
    Ok(())
}

fn answer_all(
    stream: TcpStream,
    name: &str,
    version: &str,
    delay: Duration,
    log: &Log,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let length: usize = head
            .header("content-length")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let body_bytes = if head.header("transfer-encoding").is_some() {
            naka_testkit::http1::read_chunked(&mut reader)?.len()
        } else {
            std::io::copy(&mut (&mut reader).take(length as u64), &mut std::io::sink())? as usize
        };
        let id = head
            .header("x-test-id")
            .or_else(|| head.header("x-request-id"))
            .unwrap_or_default()
            .to_owned();
        log.write(&json!({"id": id, "path": head.target, "method": head.method, "service": name, "version": version,
            "peer": peer_of(&head), "headers": head.headers, "time_ms": u64::try_from(millis()).unwrap_or(0), "body_bytes": body_bytes}));
        if head.header("upgrade").is_some() {
            writer.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")?;
            std::io::copy(&mut reader, &mut writer)?;
            return Ok(());
        }
        std::thread::sleep(delay);
        let path = head.target.split('?').next().unwrap_or_default();
        let (status, body) = match path.trim_start_matches('/').split_once('/') {
            Some(("status", code)) => (code.parse().unwrap_or(200), String::new()),
            Some(("bytes", count)) => (200, "x".repeat(count.parse().unwrap_or(0))),
            Some(("slow", ms)) => {
                std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
                (200, String::new())
            }
            Some(("garbage", _)) => {
                writer.write_all(b"\x00\x01 this is no HTTP\r\n\r\n")?;
                return Ok(());
            }
            Some(("cut", _)) => {
                writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")?;
                writer.shutdown(Shutdown::Both)?;
                return Ok(());
            }
            _ => (
                200,
                json!({"service": name, "version": version, "id": id, "peer": peer_of(&head)})
                    .to_string(),
            ),
        };
        let answer = format!(
            "HTTP/1.1 {status} T\r\ncontent-type: application/json\r\nx-version: {version}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        writer.write_all(answer.as_bytes())?;
        if head
            .header("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"))
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The SPIFFE id of the caller as the receiving sidecar verified it, from x-forwarded-client-cert.
fn peer_of(head: &Head) -> String {
    let xfcc = head.header("x-forwarded-client-cert").unwrap_or_default();
    xfcc.split([';', ','])
        .find_map(|part| part.strip_prefix("URI="))
        .unwrap_or_default()
        .to_owned()
}

fn tcp(options: &Options, greeting: Option<&'static [u8]>) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", u16::try_from(number(options, "port", 0)?)?))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            if let Some(greeting) = greeting {
                stream.write_all(greeting)?;
            }
            let mut reader = stream.try_clone()?;
            std::io::copy(&mut reader, &mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            Ok(())
        });
    }
    Ok(())
}

// === load ===

/// What all connections of the load share: the schedule and the outcome.
struct Load {
    url: String,
    marker: String,
    method: String,
    log: Log,
    start: Instant,
    interval: Duration,
    last: u64,
    next: AtomicU64,
    errors: AtomicU64,
    run: String,
}

fn load(options: &Options) -> Result<()> {
    let rate = number(options, "rate", 100)?.max(1);
    let seconds = number(options, "for", 10)?;
    let load = Arc::new(Load {
        url: option(options, "url")?.to_owned(),
        marker: options.get("marker").cloned().unwrap_or_default(),
        method: options
            .get("method")
            .map_or("GET", String::as_str)
            .to_owned(),
        log: Log::open(options.get("log"))?,
        start: Instant::now(),
        interval: Duration::from_nanos(1_000_000_000 / rate),
        last: number(options, "count", rate * seconds)?,
        next: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        run: format!("{:x}-{:x}", std::process::id(), millis()),
    });
    let threads: Vec<_> = (0..number(options, "connections", 8)?)
        .map(|_| {
            let load = load.clone();
            std::thread::spawn(move || send_all(&load))
        })
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a connection of the load panicked"))?;
    }
    let sent = load.next.load(Ordering::Relaxed).min(load.last);
    println!(
        "{}",
        json!({"requests": sent, "errors": load.errors.load(Ordering::Relaxed), "seconds": load.start.elapsed().as_secs_f64()})
    );
    Ok(())
}

/// Takes the next number of the shared schedule, waits for its time, sends; latency counts from the scheduled time.
fn send_all(load: &Load) {
    let mut client: Option<Client> = None;
    loop {
        let number = load.next.fetch_add(1, Ordering::Relaxed);
        if number >= load.last {
            return;
        }
        let due = load.start + load.interval * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let id = format!("{}-{number}", load.run);
        let headers = [
            ("x-test-id", id.as_str()),
            ("x-request-id", id.as_str()),
            ("x-marker", load.marker.as_str()),
        ];
        let outcome = (|| {
            if client.is_none() {
                client = Some(Client::open(&load.url)?);
            }
            let open = client.as_mut().context("just opened")?;
            open.request(&load.method, &load.url, &headers, b"")
        })();
        let latency_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = match outcome {
            Ok(answer) => {
                if answer
                    .head
                    .header("connection")
                    .is_some_and(|v| v.eq_ignore_ascii_case("close"))
                {
                    client = None;
                }
                if !(200..400).contains(&answer.status) {
                    load.errors.fetch_add(1, Ordering::Relaxed);
                }
                json!({"id": id, "status": answer.status, "version": answer.head.header("x-version"), "reason": answer.head.header("x-naka-reason"), "latency_us": latency_us, "time_ms": u64::try_from(millis()).unwrap_or(0)})
            }
            Err(error) => {
                client = None;
                load.errors.fetch_add(1, Ordering::Relaxed);
                json!({"id": id, "status": 0, "error": format!("{error:#}"), "latency_us": latency_us, "time_ms": u64::try_from(millis()).unwrap_or(0)})
            }
        };
        load.log.write(&line);
    }
}

fn hold(options: &Options) -> Result<()> {
    let url = option(options, "url")?;
    let log = Log::open(options.get("log"))?;
    let mut client = Client::open(url)?;
    let (status, mut stream) = client.upgrade(url)?;
    if status != 101 {
        bail!("upgrade answered {status}");
    }
    let stop = Arc::new(AtomicU64::new(0));
    let seen = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        seen.store(1, Ordering::Relaxed);
    });
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut count = 0u64;
    while stop.load(Ordering::Relaxed) == 0 {
        stream.write_all(format!("line {count}\n").as_bytes())?;
        let mut back = String::new();
        if reader.read_line(&mut back)? == 0 || back != format!("line {count}\n") {
            bail!("the connection broke after {count} lines (got {back:?})");
        }
        count += 1;
        log.write(&json!({"echoed": count}));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{}", json!({"echoed": count}));
    Ok(())
}
