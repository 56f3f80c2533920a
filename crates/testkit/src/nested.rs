//! Protobuf messages nested deeper than any client makes them, as bytes: a client's own encoder would run out of stack.
//!
//! Only what nests is made here; it is meant to be put behind a sound message, with which a decoder merges it.

/// One step inwards: bytes that come before, and the number of the field that holds the rest.
type Step = (&'static [u8], u64);

/// What is nested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nest {
    /// `google.protobuf.Struct` in `Value` in `Struct`.
    Struct,
    /// `google.protobuf.ListValue` in `Value` in `ListValue`.
    List,
    /// Groups of a field that nobody knows, which a decoder has to pass over.
    Groups,
    /// `google.protobuf.Any` in `Any`.
    Any,
}

impl Nest {
    /// By its name on a command line.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "struct" => Self::Struct,
            "list" => Self::List,
            "groups" => Self::Groups,
            "any" => Self::Any,
            _ => return None,
        })
    }
}

/// Where a request of the control plane's services holds something that nests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `DeltaDiscoveryRequest`: `node.metadata`, or the details of `error_detail`.
    Discovery,
    /// `IstioCertificateRequest`: `metadata`.
    Certificate,
}

/// A key and a value of a `Struct`.
const MEMBER: [Step; 2] = [(b"", 1), (b"\x0a\x04deep", 2)];
/// A `Value` that holds no other.
const TRUE: &[u8] = &[0x20, 1];
/// Begin and end of a group with the number 1000.
const GROUP: [[u8; 2]; 2] = [[0xc3, 0x3e], [0xc4, 0x3e]];
const ANY: &[u8] = b"\x0a\x15a/google.protobuf.Any";

/// What is to be put behind a sound request so that it holds so many levels.
///
/// # Panics
/// For a certificate request with `Any`: it has no place for one.
#[must_use]
pub fn behind(request: Request, nest: Nest, depth: usize) -> Vec<u8> {
    let member = |outer: &[Step], value: Vec<u8>| {
        let steps: Vec<Step> = outer.iter().chain(&MEMBER).copied().collect();
        wrapped(&steps, 1, value)
    };
    let metadata: &[Step] = match request {
        Request::Discovery => &[(b"", 1), (b"", 3)],
        Request::Certificate => &[(b"", 4)],
    };
    match nest {
        Nest::Struct => {
            let level = [(&b""[..], 5), (b"", 1), (b"\x0a\x01k", 2)];
            member(metadata, wrapped(&level, depth, TRUE.to_vec()))
        }
        Nest::List => member(
            metadata,
            wrapped(&[(b"", 6), (b"", 1)], depth, TRUE.to_vec()),
        ),
        Nest::Groups => GROUP.map(|mark| mark.repeat(depth)).concat(),
        Nest::Any => {
            assert_eq!(request, Request::Discovery, "no place for an Any");
            let chain = wrapped(&[(ANY, 2)], depth, Vec::new());
            wrapped(&[(b"", 7), (b"", 3)], 1, chain)
        }
    }
}

/// Puts bytes into so many levels of these steps, outermost first. From the inside, as a length comes before its bytes.
fn wrapped(steps: &[Step], depth: usize, inner: Vec<u8>) -> Vec<u8> {
    let mut length = inner.len();
    let mut heads = Vec::with_capacity(depth * steps.len());
    for _ in 0..depth {
        for (before, field) in steps.iter().rev() {
            let mut head = before.to_vec();
            varint(&mut head, field << 3 | 2);
            varint(&mut head, length as u64);
            length += head.len();
            heads.push(head);
        }
    }
    let outside = heads.into_iter().rev().flatten();
    outside.chain(inner).collect()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::{Nest, Request, behind};
    use naka_wire::envoy::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use naka_wire::google::protobuf::{Value, value::Kind};
    use naka_wire::istio_ca::IstioCertificateRequest;
    use naka_wire::prost::Message;

    /// Levels below a value.
    fn levels(value: &Value) -> usize {
        match &value.kind {
            Some(Kind::StructValue(one)) => 1 + one.fields.values().map(levels).sum::<usize>(),
            Some(Kind::ListValue(one)) => 1 + one.values.iter().map(levels).sum::<usize>(),
            _ => 0,
        }
    }

    #[test]
    fn what_is_made_is_what_a_decoder_reads() {
        let sound = DeltaDiscoveryRequest {
            type_url: "t".into(),
            ..Default::default()
        };
        for nest in [Nest::Struct, Nest::List, Nest::Groups, Nest::Any] {
            let read = |depth| {
                let deep = behind(Request::Discovery, nest, depth);
                let bytes = [sound.encode_to_vec(), deep].concat();
                DeltaDiscoveryRequest::decode(&bytes[..])
            };
            let ten = read(10).unwrap();
            assert_eq!(ten.type_url, "t");
            let metadata = ten.node.and_then(|node| node.metadata);
            let deep = metadata.map_or(0, |metadata| levels(&metadata.fields["deep"]));
            let nests = matches!(nest, Nest::Struct | Nest::List);
            assert_eq!(deep, if nests { 10 } else { 0 }, "{nest:?}");
            // A chain of Any is bytes to whoever does not unpack it.
            assert_eq!(read(100_000).is_ok(), nest == Nest::Any, "{nest:?}");
        }
        let ten = behind(Request::Certificate, Nest::Struct, 10);
        let ten = IstioCertificateRequest::decode(&ten[..]).unwrap();
        assert_eq!(levels(&ten.metadata.unwrap().fields["deep"]), 10);
    }
}
