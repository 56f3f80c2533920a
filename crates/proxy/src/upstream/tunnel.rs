//! A way through a proxy: CONNECT (or POST) to a target, then bytes.
//!
//! Nothing of the answer but its status is looked at; bytes that come behind its head are the target's first ones.

use crate::fail::Fail;
use crate::io::Io;
use crate::limits;
use bytes::Bytes;
use naka_engine::model::Tunnel;
use naka_types::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest head of an answer.
const HEAD: usize = 8 * 1024;

/// Asks the proxy at the other end to lead on.
pub(crate) async fn through(mut io: Io, tunnel: &Tunnel) -> Result<Io, Fail> {
    let asking = async {
        let target = &tunnel.target;
        let request = if tunnel.post {
            format!("POST / HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\n\r\n")
        } else {
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
        };
        io.write_all(request.as_bytes()).await?;
        io.flush().await?;
        let mut head = Vec::with_capacity(512);
        loop {
            let mut room = [0; 512];
            let read = io.read(&mut room).await?;
            if read == 0 {
                return Err(std::io::Error::other("it closed the connection"));
            }
            head.extend_from_slice(&room[..read]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = head.split_off(end + 4);
                return Ok((head, rest));
            }
            if head.len() > HEAD {
                return Err(std::io::Error::other("its answer has no end"));
            }
        }
    };
    let answered = tokio::time::timeout(limits::PASSTHROUGH_CONNECT, asking).await;
    let failed = |what: &dyn std::fmt::Display| {
        let detail = format!("the proxy before {}: {what}", tunnel.target);
        Fail::connect(Reason::ConnectFailed, &detail)
    };
    let (head, rest) = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"no answer in time")),
    };
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse::<u16>().ok());
    if !http || !status.is_some_and(|status| (200..300).contains(&status)) {
        return Err(failed(&line));
    }
    if !rest.is_empty() {
        io.put_back(Bytes::from(rest));
    }
    Ok(io)
}
