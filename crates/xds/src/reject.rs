//! How a client says which resources of a response it refused.
//!
//! The protocol has one `error_detail` per response. The message is for people and for other servers; its details
//! carry one struct that maps each refused name to its reason, so that a server of ours knows that the other
//! resources of the response are in force. A refusal without that struct refuses the whole response.

use crate::resource::Reject;
use naka_wire::envoy::google::protobuf::{Any, Struct, Value, value::Kind};
use naka_wire::envoy::google::rpc::Status;
use prost::Message;

const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
const INVALID_ARGUMENT: i32 = 3;
/// A NACK names at most this many bytes of reasons in its message; the details carry all of them.
const MESSAGE_LIMIT: usize = 2_000;

/// The `error_detail` for these rejects; `None` when there are none.
#[must_use]
pub fn encode(rejects: &[Reject]) -> Option<Status> {
    if rejects.is_empty() {
        return None;
    }
    let mut message = String::new();
    for reject in rejects {
        if message.len() > MESSAGE_LIMIT {
            message.push_str("; …");
            break;
        }
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&reject.name);
        message.push_str(": ");
        message.push_str(&reject.reason);
    }
    let fields = rejects
        .iter()
        .map(|reject| {
            let kind = Some(Kind::StringValue(reject.reason.clone()));
            (reject.name.clone(), Value { kind })
        })
        .collect();
    let details = Any {
        type_url: STRUCT.to_owned(),
        value: Struct { fields }.encode_to_vec(),
    };
    Some(Status {
        code: INVALID_ARGUMENT,
        message,
        details: vec![details],
    })
}

/// The rejects a client named, sorted by name; `None` when it refused the response as a whole.
#[must_use]
pub fn decode(status: &Status) -> Option<Vec<Reject>> {
    let details = status.details.iter().find(|any| any.type_url == STRUCT)?;
    let named = Struct::decode(details.value.as_slice()).ok()?;
    let mut rejects: Vec<Reject> = named
        .fields
        .into_iter()
        .filter_map(|(name, value)| match value.kind {
            Some(Kind::StringValue(reason)) => Some(Reject { name, reason }),
            _ => None,
        })
        .collect();
    rejects.sort_by(|a, b| a.name.cmp(&b.name));
    (!rejects.is_empty()).then_some(rejects)
}

#[cfg(test)]
mod tests {
    use super::{Reject, decode, encode};

    #[test]
    fn rejects_round_trip_and_plain_refusals_name_nobody() {
        let rejects = vec![
            Reject {
                name: "a".into(),
                reason: "no".into(),
            },
            Reject {
                name: "b".into(),
                reason: "never".into(),
            },
        ];
        let status = encode(&rejects).unwrap();
        assert_eq!(status.message, "a: no; b: never");
        assert_eq!(decode(&status), Some(rejects));
        assert_eq!(encode(&[]), None);
        let mut plain = status;
        plain.details.clear();
        assert_eq!(decode(&plain), None);
    }
}
