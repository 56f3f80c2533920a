//! gRPC-Web: gRPC for callers that see neither HTTP/2 nor trailers (browsers), translated as Envoy's filter does.
//!
//! Why here: what is one form of a call and what is the other is a decision about bytes; sockets and bodies are the
//! proxy's. The text form (base64) exists for callers that cannot read bytes either.
//!
//! Invariants: only a request whose content type is one of the four is touched; messages pass as they come, never
//! collected; of the text at most three characters, of a message at most two bytes wait for the next part.
//!
//! Not here: cross-origin rules, which are the routes' ([`crate::exchange`]).

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Content types of requests, and whether they are text.
const KINDS: [(&[u8], bool); 4] = [
    (b"application/grpc-web", false),
    (b"application/grpc-web+proto", false),
    (b"application/grpc-web-text", true),
    (b"application/grpc-web-text+proto", true),
];
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// First byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;
/// A flag and a length before each message.
const PREFIX: usize = 5;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// In which forms a call comes and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The request's body is base64.
    pub text_request: bool,
    /// The answer's is to be.
    pub text_response: bool,
}

/// The form of a request, if it is gRPC-Web.
#[must_use]
pub fn asked(headers: &HeaderMap) -> Option<Form> {
    let kind = |name| {
        let value: &[u8] = headers.get(name).map_or(&[], HeaderValue::as_bytes);
        KINDS.iter().find(|(known, _)| *known == value)
    };
    let (_, text_request) = kind(CONTENT_TYPE)?;
    Some(Form {
        text_request: *text_request,
        text_response: kind(ACCEPT).is_some_and(|(_, text)| *text),
    })
}

impl Form {
    /// Makes the head of a request gRPC's. The length was that of the caller's form.
    pub fn request(self, headers: &mut HeaderMap) {
        // A route may have set its own.
        if asked(headers).is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        headers.remove(CONTENT_LENGTH);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let known = HeaderValue::from_static("identity,deflate,gzip");
        headers.insert(ACCEPT_ENCODING, known);
    }

    /// Makes the head of an answer gRPC-Web's; false when the answer is not gRPC, and then stays as it is.
    pub fn response(self, headers: &mut HeaderMap) -> bool {
        let grpc = crate::canonical::is_grpc(headers);
        if grpc {
            let own = if self.text_response {
                "application/grpc-web-text+proto"
            } else {
                "application/grpc-web+proto"
            };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(own));
            headers.remove(CONTENT_LENGTH);
        }
        grpc
    }
}

/// The frame of a body that stands for trailers.
#[must_use]
pub fn trailers(trailers: &HeaderMap) -> Vec<u8> {
    let mut frame = vec![TRAILERS, 0, 0, 0, 0];
    for (name, value) in trailers {
        frame.extend_from_slice(name.as_str().as_bytes());
        frame.push(b':');
        frame.extend_from_slice(value.as_bytes());
        frame.extend_from_slice(b"\r\n");
    }
    // Trailers are bounded like all headers, far below what four bytes count.
    let length = u32::try_from(frame.len() - PREFIX).unwrap_or(u32::MAX);
    frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    frame
}

/// What was to be base64 is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not sound base64")]
pub struct NotText;

/// From text to bytes, part by part. Padding may stand at the end of every message, not only at the text's.
#[derive(Debug, Default)]
pub struct Decoder {
    group: [u8; 4],
    filled: usize,
}

impl Decoder {
    /// The bytes that a part of the text completes.
    ///
    /// # Errors
    /// [`NotText`].
    pub fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>, NotText> {
        let mut bytes = Vec::with_capacity((self.filled + text.len()) / 4 * 3);
        for one in text {
            self.group[self.filled] = *one;
            self.filled += 1;
            if self.filled == self.group.len() {
                self.filled = 0;
                let (three, count) = group(self.group)?;
                bytes.extend_from_slice(&three[..count]);
            }
        }
        Ok(bytes)
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// [`NotText`] in the midst of four characters.
    pub fn end(&self) -> Result<(), NotText> {
        if self.filled == 0 {
            Ok(())
        } else {
            Err(NotText)
        }
    }
}

/// Four characters as one to three bytes.
fn group(text: [u8; 4]) -> Result<([u8; 3], usize), NotText> {
    let count = match text {
        [_, _, b'=', b'='] => 1,
        [_, _, _, b'='] => 2,
        _ => 3,
    };
    let mut bits = 0_u32;
    for one in &text[..=count] {
        bits = bits << 6 | u32::from(digit(*one).ok_or(NotText)?);
    }
    bits <<= 6 * (3 - count);
    let [_, a, b, c] = bits.to_be_bytes();
    let three = [a, b, c];
    // Bits that no byte has would be a second way to write the same.
    if three[count..].iter().any(|rest| *rest != 0) {
        return Err(NotText);
    }
    Ok((three, count))
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// From an answer's bytes to text, part by part. Each message is padded, so that a caller can read it when it is there.
#[derive(Debug, Default)]
pub struct Encoder {
    carried: [u8; 3],
    filled: usize,
    prefix: [u8; PREFIX],
    seen: usize,
    /// Bytes of the message that are to come.
    left: u64,
}

impl Encoder {
    /// The text that a part of the messages completes.
    #[must_use]
    pub fn encode(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity((bytes.len() / 3 + 2) * 4);
        while !bytes.is_empty() {
            let wanted = if self.seen < PREFIX {
                PREFIX - self.seen
            } else {
                usize::try_from(self.left).unwrap_or(usize::MAX)
            };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            self.put(now, &mut text);
            if self.seen < PREFIX {
                self.prefix[self.seen..self.seen + now.len()].copy_from_slice(now);
                self.seen += now.len();
                if self.seen == PREFIX {
                    let [_, length @ ..] = self.prefix;
                    self.left = u64::from(u32::from_be_bytes(length));
                }
            } else {
                self.left -= now.len() as u64;
            }
            if self.seen == PREFIX && self.left == 0 {
                self.seen = 0;
                self.pad(&mut text);
            }
        }
        text
    }

    /// What is left when the messages break off in the midst of one.
    #[must_use]
    pub fn end(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        self.pad(&mut text);
        text
    }

    fn put(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for one in bytes {
            self.carried[self.filled] = *one;
            self.filled += 1;
            if self.filled == self.carried.len() {
                self.pad(text);
            }
        }
    }

    /// Writes what is carried, as four characters.
    fn pad(&mut self, text: &mut Vec<u8>) {
        if self.filled == 0 {
            return;
        }
        self.carried[self.filled..].fill(0);
        let [a, b, c] = self.carried;
        let bits = u32::from_be_bytes([0, a, b, c]);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= self.filled {
                ALPHABET[digit as usize]
            } else {
                b'='
            });
        }
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &'static str, accept: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers
    }

    #[test]
    fn only_the_four_content_types_are_grpc_web() {
        for (content_type, accept, expect) in [
            ("application/grpc-web", "*/*", Some((false, false))),
            ("application/grpc-web+proto", "", Some((false, false))),
            (
                "application/grpc-web-text",
                "application/grpc-web-text",
                Some((true, true)),
            ),
            (
                "application/grpc-web-text+proto",
                "*/*",
                Some((true, false)),
            ),
            ("application/grpc", "application/grpc-web-text", None),
            ("application/grpc-webs", "", None),
            ("application/json", "", None),
        ] {
            let form = asked(&headers(content_type, accept));
            let got = form.map(|form| (form.text_request, form.text_response));
            assert_eq!(got, expect, "{content_type} {accept}");
        }
    }

    #[test]
    fn a_head_becomes_grpc_and_an_answer_grpc_web() {
        let mut head = headers("application/grpc-web-text", "application/grpc-web-text");
        head.insert(CONTENT_LENGTH, HeaderValue::from_static("8"));
        let form = asked(&head).unwrap();
        form.request(&mut head);
        assert_eq!(head[CONTENT_TYPE], "application/grpc");
        assert_eq!(head[TE], "trailers");
        assert!(!head.contains_key(CONTENT_LENGTH));
        assert!(form.response(&mut head));
        assert_eq!(head[CONTENT_TYPE], "application/grpc-web-text+proto");
        let mut page = headers("text/html", "");
        assert!(!form.response(&mut page));
        assert_eq!(page[CONTENT_TYPE], "text/html");
    }

    #[test]
    fn what_a_route_says_of_the_content_type_stays() {
        let form = asked(&headers("application/grpc-web", "")).unwrap();
        let mut set = headers("application/grpc+thrift", "");
        form.request(&mut set);
        assert_eq!(set[CONTENT_TYPE], "application/grpc+thrift");
    }

    #[test]
    fn trailers_are_one_frame() {
        let mut all = HeaderMap::new();
        all.insert("grpc-status", HeaderValue::from_static("0"));
        all.insert("x-a", HeaderValue::from_static("b"));
        assert_eq!(
            trailers(&all),
            b"\x80\x00\x00\x00\x16grpc-status:0\r\nx-a:b\r\n"
        );
    }

    /// Text of these bytes in parts of that size.
    fn encoded(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut encoder = Encoder::default();
        let mut text: Vec<u8> = bytes
            .chunks(size)
            .flat_map(|part| encoder.encode(part))
            .collect();
        text.extend(encoder.end());
        text
    }

    #[test]
    fn text_is_the_same_however_it_is_cut_and_leads_back() {
        // Two messages of 1 and 3 bytes, and trailers.
        let bytes = b"\0\0\0\0\x01a\0\0\0\0\x03xyz\x80\0\0\0\x02ok";
        let whole = encoded(bytes, bytes.len());
        assert_eq!(whole, b"AAAAAAFhAAAAAAN4eXo=gAAAAAJvaw==");
        for size in 1..bytes.len() {
            assert_eq!(encoded(bytes, size), whole, "in parts of {size}");
            let mut decoder = Decoder::default();
            let back: Result<Vec<Vec<u8>>, NotText> = whole
                .chunks(size)
                .map(|part| decoder.decode(part))
                .collect();
            assert_eq!(back.unwrap().concat(), bytes, "in parts of {size}");
            assert_eq!(decoder.end(), Ok(()));
        }
        // A message that breaks off is not kept back.
        assert_eq!(encoded(b"\0\0\0\0\x09a", 2), b"AAAAAAlh");
        assert_eq!(encoded(b"\0\0\0\0\x09ab", 2), b"AAAAAAlhYg==");
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for bad in ["A", "AAA", "A===", "====", "AA=A", "AA A", "AB==", "AA-_"] {
            let mut decoder = Decoder::default();
            let got = decoder.decode(bad.as_bytes()).and_then(|_| decoder.end());
            assert_eq!(got, Err(NotText), "{bad}");
        }
    }
}
