//! tonic's protobuf codec with small buffers.
//!
//! A stream of configuration or registration lives as long as its proxy and is idle nearly all the time; tonic's own
//! codec keeps 8 KiB for each direction of each stream, which a control plane with thousands of proxies pays for.
//! These start with half a kilobyte and grow with the message.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// First size of a stream's buffers, in bytes.
const BUFFER: usize = 512;
/// When so much has been encoded, it is handed on before the next message, in bytes.
const YIELD: usize = 32 * 1024;

/// The codec; `T` goes out, `U` comes in.
#[derive(Debug, Clone)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD))
    }
}
