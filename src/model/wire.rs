//! Reading protobuf fields in place, without building messages.

use prost::encoding::{WireType, decode_key, decode_varint};

/// One field of an encoded message, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2: text, bytes, a message.
    Bytes(&'a [u8]),
    /// Wire type 1 or 5; the hub's messages have none.
    Fixed,
}

/// The bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf")]
pub struct Malformed;

/// Takes the next field off `buf`; `None` at its end.
///
/// # Errors
/// [`Malformed`] when the bytes break off or a length lies.
pub fn next_field<'a>(buf: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, Malformed> {
    if buf.is_empty() {
        return Ok(None);
    }
    let (tag, wire_type) = decode_key(buf).map_err(|_| Malformed)?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(decode_varint(buf).map_err(|_| Malformed)?),
        WireType::LengthDelimited => {
            let length = decode_varint(buf).map_err(|_| Malformed)?;
            Value::Bytes(take(buf, usize::try_from(length).map_err(|_| Malformed)?)?)
        }
        WireType::SixtyFourBit => take(buf, 8).map(|_| Value::Fixed)?,
        WireType::ThirtyTwoBit => take(buf, 4).map(|_| Value::Fixed)?,
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    Ok(Some((tag, value)))
}

fn take<'a>(buf: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = buf.split_at_checked(length).ok_or(Malformed)?;
    *buf = tail;
    Ok(head)
}
