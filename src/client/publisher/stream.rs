//! The request side of a publish stream: the transport pulls calls when it has room, so that they
//! are joined as late as possible.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

use super::Shared;
use super::state::Pull;
use crate::client::spawn::now;
use crate::proto::v1::{PublishAnswer, PublishCall};

/// The calls of one stream. Ends when a newer stream took over, or when all is done.
pub(super) struct CallStream {
    shared: Arc<Shared>,
    generation: u64,
}

impl CallStream {
    pub(super) fn open(shared: Arc<Shared>) -> Self {
        let (generation, old) = shared.lock().open_stream(Instant::from_std(now()));
        if let Some(waker) = old {
            waker.wake();
        }
        Self { shared, generation }
    }
}

impl Stream for CallStream {
    type Item = Arc<PublishCall>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let at = Instant::from_std(now());
        match self.shared.lock().pull(self.generation, at, cx.waker()) {
            Pull::Send(call) => Poll::Ready(Some(call)),
            Pull::End => Poll::Ready(None),
            Pull::Wait => Poll::Pending,
            Pull::Yield => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// Encodes shared calls, which the publisher keeps for sending them again.
pub(super) struct CallCodec;

impl Codec for CallCodec {
    type Encode = Arc<PublishCall>;
    type Decode = PublishAnswer;
    type Encoder = CallEncoder;
    type Decoder = <ProstCodec<PublishCall, PublishAnswer> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        CallEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<PublishCall, PublishAnswer>::raw_decoder(BufferSettings::default())
    }
}

pub(super) struct CallEncoder;

impl Encoder for CallEncoder {
    type Item = Arc<PublishCall>;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, dst: &mut EncodeBuf<'_>) -> Result<(), Self::Error> {
        item.encode(dst).map_err(|error| Status::internal(format!("encode a call: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        // One allocation for a full joined call.
        BufferSettings::new(64 << 10, 256 << 10)
    }
}
