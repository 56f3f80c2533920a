//! `google.protobuf.Any`: packing and unpacking with the type checked.

use crate::google::protobuf::Any;
use prost::{Message, Name};

/// Why an `Any` did not hold the wanted message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It holds another type.
    #[error("expected a {want}, got {got:?}")]
    Type {
        /// Type URL asked for.
        want: String,
        /// Type URL found.
        got: String,
    },
    /// The bytes are no such message.
    #[error("the bytes of a {want} do not decode")]
    Bytes {
        /// Type URL asked for.
        want: String,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
}

/// Packs a message under its own type URL.
#[must_use]
pub fn pack<M: Message + Name>(message: &M) -> Any {
    pack_as(&M::type_url(), message)
}

/// Packs a message under a given type URL.
#[must_use]
pub fn pack_as<M: Message>(type_url: &str, message: &M) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// Unpacks a message, after comparing the type URL.
///
/// # Errors
/// [`Error`] when the type differs or the bytes do not decode.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, Error> {
    if any.type_url.rsplit('/').next() != Some(M::full_name().as_str()) {
        return Err(Error::Type {
            want: M::type_url(),
            got: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|source| Error::Bytes {
        want: M::type_url(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{Error, pack, unpack};
    use crate::v1::{NameFilter, WorkloadRecord};

    #[test]
    fn a_message_comes_back_and_another_type_does_not() {
        let filter = NameFilter {
            exact: vec!["a.b.svc.cluster.local".to_owned()],
            ..NameFilter::default()
        };
        let mut any = pack(&filter);
        assert_eq!(any.type_url, crate::type_url::NAME_FILTER);
        assert_eq!(unpack::<NameFilter>(&any).unwrap(), filter);
        assert!(matches!(
            unpack::<WorkloadRecord>(&any),
            Err(Error::Type { .. })
        ));
        any.value = vec![0xff; 3];
        assert!(matches!(
            unpack::<NameFilter>(&any),
            Err(Error::Bytes { .. })
        ));
    }
}
