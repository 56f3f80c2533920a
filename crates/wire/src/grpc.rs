//! Messages as a unary gRPC call carries them: a byte that says whether they are compressed, their length, themselves.

use bytes::Bytes;
use prost::Message;

/// Bytes before a message.
const HEAD: usize = 5;

/// A message ready to be sent.
#[must_use]
pub fn frame<M: Message>(message: &M) -> Bytes {
    let mut out = vec![0; HEAD];
    out.extend(message.encode_to_vec());
    let length = u32::try_from(out.len() - HEAD).unwrap_or(u32::MAX);
    out[1..HEAD].copy_from_slice(&length.to_be_bytes());
    out.into()
}

/// The one message of an answer; `None`: it is cut off, compressed, there are several, or it is no such message.
#[must_use]
pub fn unframe<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let [0, length @ ..] = head else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (usize::try_from(length).ok()? == rest.len()).then_some(())?;
    M::decode(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::{frame, unframe};
    use crate::v1::NameFilter;

    #[test]
    fn a_message_comes_back_and_nothing_else_does() {
        let message = NameFilter {
            exact: vec!["a".to_owned()],
            ..NameFilter::default()
        };
        let bytes = frame(&message);
        assert_eq!(unframe::<NameFilter>(&bytes), Some(message));
        let mut compressed = bytes.to_vec();
        compressed[0] = 1;
        let long = [&bytes[..], &[0]].concat();
        let cut = &bytes[..bytes.len() - 1];
        for wrong in [
            &compressed[..],
            &long,
            cut,
            &[],
            &[0, 0, 0, 0, 2, 0xff, 0xff],
        ] {
            assert_eq!(unframe::<NameFilter>(wrong), None, "{wrong:?}");
        }
    }
}
