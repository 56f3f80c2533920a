//! A small blocking HTTP/1.1 client and reader for test programs: no library that the mesh itself uses, so that both
//! sides do not share a mistake. Not here: HTTP/2, TLS; real peers (curl, Python, Node) cover those.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Start line and headers of a message; header names in lower case.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Method of a request, version of a response.
    pub method: String,
    /// Target of a request, status of a response.
    pub target: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// First value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// Reads one head; `None` when the peer closed before the first byte.
///
/// # Errors
/// When the connection breaks inside a head.
pub fn read_head(reader: &mut impl BufRead) -> Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.trim_end().splitn(3, ' ');
    let mut head = Head {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        headers: Vec::new(),
    };
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the connection closed inside a head");
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok(Some(head));
        }
        let (name, value) = text
            .split_once(':')
            .with_context(|| format!("bad header line {text:?}"))?;
        head.headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads a chunked body to its end, trailers included.
///
/// # Errors
/// When the connection breaks or a size is malformed.
pub fn read_chunked(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)
            .with_context(|| format!("bad chunk size {line:?}"))?;
        if size == 0 {
            loop {
                line.clear();
                if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                    return Ok(body);
                }
            }
        }
        let at = body.len();
        body.resize(at + size, 0);
        reader.read_exact(&mut body[at..])?;
        reader.read_line(&mut line)?;
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Head with headers.
    pub head: Head,
    /// Body.
    pub body: Vec<u8>,
}

/// A keep-alive connection, directly or through `http_proxy`.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
    proxied: bool,
    authorization: Option<String>,
}

/// `(host:port, path)` of an `http://` URL.
fn split(url: &str) -> Result<(String, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is no http URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    Ok((authority.to_owned(), path.to_owned()))
}

impl Client {
    /// Connects to the URL's host, or to `http_proxy` when that is set and the host is not loopback.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn open(url: &str) -> Result<Self> {
        let (authority, _) = split(url)?;
        let local = authority.starts_with("127.0.0.1") || authority.starts_with("localhost");
        let proxy = std::env::var("http_proxy")
            .ok()
            .filter(|p| !p.is_empty() && !local);
        let Some(proxy) = proxy else {
            let address = if authority.contains(':') {
                authority
            } else {
                format!("{authority}:80")
            };
            return Self::connect(&address, false, None);
        };
        Self::through(&proxy)
    }

    /// Connects to a forward proxy, given as `http_proxy` gives it.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn through(proxy: &str) -> Result<Self> {
        let (authority, _) = split(proxy)?;
        let (credential, address) = authority
            .rsplit_once('@')
            .map_or((None, authority.as_str()), |(c, a)| (Some(c), a));
        Self::connect(
            address,
            true,
            credential.map(|c| format!("Basic {}", base64(c.as_bytes()))),
        )
    }

    fn connect(address: &str, proxied: bool, authorization: Option<String>) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self {
            reader: BufReader::new(stream),
            proxied,
            authorization,
        })
    }

    fn send(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<()> {
        let (authority, path) = split(url)?;
        let target = if self.proxied { url.to_owned() } else { path };
        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            text += &format!("proxy-authorization: {authorization}\r\n");
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        let stream = self.reader.get_mut();
        stream.write_all(text.as_bytes())?;
        stream.write_all(body)?;
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks or the answer is malformed.
    pub fn request(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        self.send(method, url, headers, body)?;
        let head =
            read_head(&mut self.reader)?.context("the connection closed before the answer")?;
        let status = head
            .target
            .parse()
            .with_context(|| format!("bad status {:?}", head.target))?;
        let body = if head
            .header("transfer-encoding")
            .is_some_and(|v| v.contains("chunked"))
        {
            read_chunked(&mut self.reader)?
        } else {
            let length = head
                .header("content-length")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            self.reader.read_exact(&mut body)?;
            body
        };
        Ok(Answer { status, head, body })
    }

    /// Asks for an upgrade and returns the status with the raw connection.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn upgrade(&mut self, url: &str) -> Result<(u16, TcpStream)> {
        let headers = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        self.send("GET", url, &headers, b"")?;
        let head =
            read_head(&mut self.reader)?.context("the connection closed before the answer")?;
        Ok((head.target.parse()?, self.reader.get_ref().try_clone()?))
    }
}

/// Base64 of a short text (RFC 4648), for Proxy-Authorization.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (word >> (18 - 6 * place) & 63) as usize;
            out.push(if place <= chunk.len() {
                char::from(ALPHABET[digit])
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        for (plain, coded) in [
            ("", ""),
            ("a", "YQ=="),
            ("ab", "YWI="),
            ("abc", "YWJj"),
            ("u:p", "dTpw"),
        ] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
