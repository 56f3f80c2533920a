//! A PROXY header as a server reads it, by the protocol's own text and with nothing of Naka's: that it is told by somebody
//! else is the point.

use anyhow::{Context, Result, bail};
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1.
const LONGEST: usize = 107;

/// Reads the header that a connection must begin with, and nothing after it: `v1 FROM > TO`, `v2 FROM > TO`,
/// `v1 UNKNOWN`, `v2 LOCAL`.
///
/// # Errors
/// When the connection begins with anything else, or ends.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String> {
    let mut head = vec![stream.read_u8().await?];
    if head[0] == SIGNATURE[0] {
        return binary(stream).await;
    }
    while !head.ends_with(b"\r\n") {
        // Who says something else is not waited for.
        if head.len() == LONGEST || !head.starts_with(&WORD[..head.len().min(WORD.len())]) {
            bail!("no line of a PROXY header");
        }
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8(head)?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok("v1 UNKNOWN".to_owned()),
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            from,
            to,
            from_port,
            to_port,
        ] => {
            let end = |ip: &str, port: &str| -> Result<SocketAddr> {
                let ip: IpAddr = ip.parse()?;
                if ip.is_ipv4() != (*family == "TCP4") {
                    bail!("{ip} is not of {family}");
                }
                Ok(SocketAddr::new(ip, port.parse()?))
            };
            let (from, to) = (end(from, from_port)?, end(to, to_port)?);
            Ok(format!("v1 {from} > {to}"))
        }
        _ => bail!("no PROXY header: {line:?}"),
    }
}

async fn binary<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String> {
    let mut rest = [0; 15];
    stream.read_exact(&mut rest).await?;
    if rest[..11] != SIGNATURE[1..] {
        bail!("no signature");
    }
    let [command, family, high, low] = [rest[11], rest[12], rest[13], rest[14]];
    let mut body = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut body).await?;
    match (command, family) {
        (0x20, _) => Ok("v2 LOCAL".to_owned()),
        (0x21, 0x11) => two::<4>(&body),
        (0x21, 0x21) => two::<16>(&body),
        other => bail!("no such command and family: {other:x?}"),
    }
}

fn two<const N: usize>(body: &[u8]) -> Result<String>
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| -> Result<IpAddr> {
        let octets: [u8; N] = body.get(at..at + N).context("an address")?.try_into()?;
        Ok(octets.into())
    };
    let port = |at: usize| -> Result<u16> {
        let octets = body.get(at..at + 2).context("a port")?.try_into()?;
        Ok(u16::from_be_bytes(octets))
    };
    let from = SocketAddr::new(ip(0)?, port(2 * N)?);
    let to = SocketAddr::new(ip(N)?, port(2 * N + 2)?);
    Ok(format!("v2 {from} > {to}"))
}
