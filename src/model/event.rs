//! An event as it travels: the encoded `messagehub.v1.Event`, read in place.

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::limits::{
    ATTRIBUTE_BYTES_MAX, DELIVER_AT_MS_MAX, EXTENSION_NAME_BYTES_MAX, EXTENSIONS_MAX,
    FAIRNESS_KEY_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADERS_MAX, PRIORITY_DEFAULT, PRIORITY_MAX,
    TRACEPARENT_BYTES_MAX, URI_BYTES_MAX, VALUE_BYTES_MAX,
};
use super::rejection::{Reason, Rejection};
use super::wire::{Malformed, Value, next_field};

/// Names of extension attributes that have a field of their own, or that CloudEvents keeps.
pub const RESERVED_EXTENSIONS: [&str; 19] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "correlationid",
    "causationid",
    "expirytime",
    "partitionkey",
    "sequence",
    "traceparent",
    "priority",
    "deliverat",
    "headers",
    "fairnesskey",
];

/// The field of an event in which the hub records what its schema said of it.
pub const VERDICT_TAG: u32 = 25;

/// The attributes of an encoded event, borrowed from it. Absent text is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventView<'a> {
    /// CloudEvents `id`.
    pub id: &'a str,
    /// CloudEvents `source`.
    pub source: &'a str,
    /// CloudEvents `type`.
    pub kind: &'a str,
    /// CloudEvents `subject`.
    pub subject: &'a str,
    /// CloudEvents `datacontenttype`.
    pub datacontenttype: &'a str,
    /// CloudEvents `dataschema`.
    pub dataschema: &'a str,
    /// The payload.
    pub data: &'a [u8],
    /// The entity; empty: none.
    pub key: &'a str,
    /// 0 to 9.
    pub priority: Option<u32>,
    /// Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// Unix milliseconds.
    pub deliver_at_ms: Option<u64>,
    /// Groups the events of one piece of work.
    pub correlation_id: &'a str,
    /// The id of the causing event.
    pub causation_id: &'a str,
    /// W3C trace context.
    pub traceparent: &'a str,
    /// Whose share of a subscription's attention the event takes; empty: nobody's in particular.
    pub fairness_key: &'a str,
    /// Whether it tells what a schema said of it.
    pub has_verdict: bool,
    extensions: usize,
    headers: usize,
}

impl<'a> EventView<'a> {
    /// Reads an encoded event that was checked before.
    ///
    /// # Errors
    /// [`Malformed`] when it was not.
    pub fn read(encoded: &'a [u8]) -> Result<Self, Malformed> {
        Self::scan(encoded).map_err(|_| Malformed)
    }

    /// Whether its delivery needs more than the log: a priority off the default, a delay, a
    /// deadline or a fairness key.
    #[must_use]
    pub fn is_special(&self) -> bool {
        self.priority.is_some_and(|p| p != PRIORITY_DEFAULT)
            || self.deadline_ms.is_some()
            || self.deliver_at_ms.is_some()
            || !self.fairness_key.is_empty()
    }

    /// Reads an encoded event and checks every rule that needs neither a clock nor a topic.
    ///
    /// # Errors
    /// `EVENT_INVALID`, naming the attribute.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Rejection> {
        let view = Self::scan(encoded).map_err(|fault| match fault {
            Fault::Malformed => refuse("event", "is not a protobuf messagehub.v1.Event"),
            Fault::Refused(rejection) => rejection,
        })?;
        view.check()?;
        Ok(view)
    }

    /// Checks what depends on the time of publishing.
    ///
    /// # Errors
    /// `DEADLINE_PAST` for a deadline at or before `now_ms`; `EVENT_INVALID` for a `deliver_at`
    /// more than 365 days ahead, or not before the deadline.
    pub fn check_times(&self, now_ms: u64) -> Result<(), Rejection> {
        if let Some(deadline) = self.deadline_ms
            && deadline <= now_ms
        {
            return Err(Rejection::new(
                Reason::DeadlinePast,
                format!("deadline of event {:?} passed {} ms ago by the hub's clock; give a later one, or set the clock that it comes from", self.id, now_ms - deadline),
            )
            .with("deadline_ms", deadline)
            .with("now_ms", now_ms));
        }
        let Some(deliver_at) = self.deliver_at_ms else { return Ok(()) };
        if deliver_at > now_ms.saturating_add(DELIVER_AT_MS_MAX) {
            return Err(refuse("deliver_at", "is more than 365 days ahead"));
        }
        if self.deadline_ms.is_some_and(|deadline| deliver_at >= deadline) {
            return Err(refuse("deliver_at", "is not before the deadline"));
        }
        Ok(())
    }

    fn scan(mut buf: &'a [u8]) -> Result<Self, Fault> {
        let mut view = Self::default();
        while let Some((tag, value)) = next_field(&mut buf)? {
            match (tag, value) {
                (1, Value::Bytes(b)) => view.id = text("id", b)?,
                (2, Value::Bytes(b)) => view.source = text("source", b)?,
                (3, Value::Bytes(b)) => view.kind = text("type", b)?,
                (4, Value::Bytes(b)) => view.subject = text("subject", b)?,
                (5, Value::Bytes(b)) => drop(timestamp_ms("time", b)?),
                (6, Value::Bytes(b)) => view.datacontenttype = text("datacontenttype", b)?,
                (7, Value::Bytes(b)) => view.dataschema = text("dataschema", b)?,
                (8, Value::Bytes(b)) => view.data = b,
                (9, Value::Bytes(b)) => {
                    view.extensions += 1;
                    extension(b)?;
                }
                (16, Value::Bytes(b)) => view.key = text("key", b)?,
                (17, Value::Varint(n)) => {
                    view.priority = Some(u32::try_from(n).unwrap_or(u32::MAX))
                }
                (18, Value::Bytes(b)) => view.deadline_ms = Some(timestamp_ms("deadline", b)?),
                (19, Value::Bytes(b)) => view.deliver_at_ms = Some(timestamp_ms("deliver_at", b)?),
                (20, Value::Bytes(b)) => view.correlation_id = text("correlation_id", b)?,
                (21, Value::Bytes(b)) => view.causation_id = text("causation_id", b)?,
                (22, Value::Bytes(b)) => view.traceparent = text("traceparent", b)?,
                (23, Value::Bytes(b)) => {
                    view.headers += 1;
                    header(b)?;
                }
                (24, Value::Bytes(b)) => view.fairness_key = text("fairness_key", b)?,
                (VERDICT_TAG, Value::Bytes(_)) => view.has_verdict = true,
                (1..=9 | 16..=VERDICT_TAG, _) => return Err(Fault::Malformed),
                // A field of a newer version travels along untouched.
                _ => {}
            }
        }
        Ok(view)
    }

    fn check(&self) -> Result<(), Rejection> {
        for (name, value, required, max) in [
            ("id", self.id, true, ATTRIBUTE_BYTES_MAX),
            ("source", self.source, true, URI_BYTES_MAX),
            ("type", self.kind, true, ATTRIBUTE_BYTES_MAX),
            ("subject", self.subject, false, URI_BYTES_MAX),
            ("datacontenttype", self.datacontenttype, false, ATTRIBUTE_BYTES_MAX),
            ("dataschema", self.dataschema, false, URI_BYTES_MAX),
            ("key", self.key, false, ATTRIBUTE_BYTES_MAX),
            ("correlation_id", self.correlation_id, false, ATTRIBUTE_BYTES_MAX),
            ("causation_id", self.causation_id, false, ATTRIBUTE_BYTES_MAX),
            ("traceparent", self.traceparent, false, TRACEPARENT_BYTES_MAX),
            ("fairness_key", self.fairness_key, false, FAIRNESS_KEY_BYTES_MAX),
        ] {
            if required && value.is_empty() {
                return Err(refuse(name, "is missing"));
            }
            if value.len() > max {
                return Err(refuse(name, &format!("is longer than {max} bytes")));
            }
        }
        if self.priority.is_some_and(|p| p > PRIORITY_MAX) {
            return Err(refuse("priority", "is not in 0..=9"));
        }
        if self.extensions > EXTENSIONS_MAX {
            return Err(refuse("extensions", &format!("are more than {EXTENSIONS_MAX}")));
        }
        if self.headers > HEADERS_MAX {
            return Err(refuse("headers", &format!("are more than {HEADERS_MAX}")));
        }
        Ok(())
    }
}

enum Fault {
    Malformed,
    Refused(Rejection),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

fn refuse(attribute: &str, why: &str) -> Rejection {
    Rejection::new(Reason::EventInvalid, format!("attribute {attribute} {why}; correct the event"))
        .with("attribute", attribute)
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| refuse(name, "is not UTF-8").into())
}

/// The two fields of a map entry.
fn map_entry(mut buf: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value) = (&b""[..], &b""[..]);
    while let Some(field) = next_field(&mut buf)? {
        match field {
            (1, Value::Bytes(b)) => key = b,
            (2, Value::Bytes(b)) => value = b,
            _ => return Err(Malformed),
        }
    }
    Ok((key, value))
}

fn extension(entry: &[u8]) -> Result<(), Fault> {
    let (name, value) = map_entry(entry)?;
    let name = text("extensions", name)?;
    check_extension_name(name)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(refuse(name, &format!("is longer than {VALUE_BYTES_MAX} bytes")).into());
    }
    Ok(())
}

/// Checks the name of an extension attribute: 1 to 20 characters of `a-z0-9`, not reserved.
///
/// # Errors
/// `EVENT_INVALID`.
pub fn check_extension_name(name: &str) -> Result<(), Rejection> {
    let well_formed = (1..=EXTENSION_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !well_formed {
        return Err(refuse(
            name,
            &format!(
                "is no extension name: 1 to {EXTENSION_NAME_BYTES_MAX} characters of a-z and 0-9"
            ),
        ));
    }
    if RESERVED_EXTENSIONS.contains(&name) {
        return Err(refuse(name, "is reserved: it has a field of its own"));
    }
    Ok(())
}

fn header(entry: &[u8]) -> Result<(), Fault> {
    let (name, value) = map_entry(entry)?;
    let name = text("headers", name)?;
    text(name, value)?;
    if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX {
        return Err(refuse(
            "headers",
            &format!("have a name that is not 1 to {HEADER_NAME_BYTES_MAX} bytes long"),
        )
        .into());
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(refuse(name, &format!("is longer than {VALUE_BYTES_MAX} bytes")).into());
    }
    Ok(())
}

/// `google.protobuf.Timestamp` to Unix milliseconds, rounded down; years 1970 to 9999.
fn timestamp_ms(name: &str, mut buf: &[u8]) -> Result<u64, Fault> {
    const SECONDS_MAX: u64 = 253_402_300_799;
    let (mut seconds, mut nanos) = (0, 0);
    while let Some(field) = next_field(&mut buf)? {
        match field {
            (1, Value::Varint(n)) => seconds = n,
            (2, Value::Varint(n)) => nanos = n,
            _ => return Err(Fault::Malformed),
        }
    }
    if seconds > SECONDS_MAX || nanos >= 1_000_000_000 {
        return Err(refuse(name, "is not an instant of the years 1970 to 9999").into());
    }
    Ok(seconds * 1000 + nanos / 1_000_000)
}

/// When an encoded event that was validated before is to be delivered, Unix milliseconds; `None`:
/// at once.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn deliver_at_of(encoded: &[u8]) -> Result<Option<u64>, Malformed> {
    let mut buf = encoded;
    while let Some(field) = next_field(&mut buf)? {
        if let (19, Value::Bytes(b)) = field {
            return timestamp_ms("deliver_at", b).map(Some).map_err(|_| Malformed);
        }
    }
    Ok(None)
}

/// An encoded event that was validated before, without what a schema said of it.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn without_verdict(encoded: &[u8]) -> Result<Bytes, Malformed> {
    let (mut kept, mut rest) = (BytesMut::with_capacity(encoded.len()), encoded);
    loop {
        let field = rest;
        match next_field(&mut rest)? {
            None => return Ok(kept.freeze()),
            Some((VERDICT_TAG, _)) => {}
            Some(_) => kept.put_slice(field.get(..field.len() - rest.len()).unwrap_or_default()),
        }
    }
}

/// The key of an encoded event that was validated before; empty: none.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn key_of(encoded: &[u8]) -> Result<&str, Malformed> {
    text_of(encoded, 16)
}

/// The correlation id of an encoded event that was validated before; empty: none.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn correlation_of(encoded: &[u8]) -> Result<&str, Malformed> {
    text_of(encoded, 20)
}

/// The text in a field of an encoded event; empty: it has none.
fn text_of(encoded: &[u8], tag: u32) -> Result<&str, Malformed> {
    let mut buf = encoded;
    let mut text = "";
    while let Some(field) = next_field(&mut buf)? {
        if let (found, Value::Bytes(b)) = field
            && found == tag
        {
            text = std::str::from_utf8(b).map_err(|_| Malformed)?;
        }
    }
    Ok(text)
}

/// The source and id of an encoded event that was validated before.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn identity_of(encoded: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut buf = encoded;
    let (mut source, mut id) = ("", "");
    while let Some(field) = next_field(&mut buf)? {
        match field {
            (1, Value::Bytes(b)) => id = std::str::from_utf8(b).map_err(|_| Malformed)?,
            (2, Value::Bytes(b)) => source = std::str::from_utf8(b).map_err(|_| Malformed)?,
            _ => {}
        }
    }
    Ok((source, id))
}

/// The value of a header of an encoded event that was validated before.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn header_of<'a>(encoded: &'a [u8], name: &str) -> Result<Option<&'a str>, Malformed> {
    let value = entry_of(encoded, 23, name)?;
    value.map(|v| std::str::from_utf8(v).map_err(|_| Malformed)).transpose()
}

/// The value of an extension attribute of an encoded event that was validated before, as text;
/// `None` also for types that have no text of their own: bytes and timestamps.
///
/// # Errors
/// [`Malformed`] when it was not.
pub fn extension_of<'a>(encoded: &'a [u8], name: &str) -> Result<Option<Cow<'a, str>>, Malformed> {
    let Some(mut value) = entry_of(encoded, 9, name)? else { return Ok(None) };
    let mut found = None;
    while let Some(field) = next_field(&mut value)? {
        found = match field {
            (1, Value::Varint(n)) => Some(Cow::Borrowed(if n == 0 { "false" } else { "true" })),
            (2, Value::Varint(n)) => Some(Cow::Owned(n.cast_signed().to_string())),
            (3 | 5 | 6, Value::Bytes(b)) => {
                Some(Cow::Borrowed(std::str::from_utf8(b).map_err(|_| Malformed)?))
            }
            _ => None,
        };
    }
    Ok(found)
}

/// The value of an entry of a map field; the last one counts.
fn entry_of<'a>(encoded: &'a [u8], tag: u32, name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut buf = encoded;
    let mut found = None;
    while let Some(field) = next_field(&mut buf)? {
        if let (t, Value::Bytes(entry)) = field
            && t == tag
        {
            let (key, value) = map_entry(entry)?;
            if key == name.as_bytes() {
                found = Some(value);
            }
        }
    }
    Ok(found)
}
