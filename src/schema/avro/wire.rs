//! Payloads against a schema, on the wire (Avro specification, binary encoding): nothing is built,
//! whatever counts a payload claims.

use super::model::{Model, Primitive, Type, TypeId};
use crate::schema::limits::{AVRO_EMPTY_ITEMS_MAX, INSTANCE_DEPTH_MAX, TEXT_BYTES_MAX};
use crate::schema::report::{Violation, push_segment, shorten_to};

/// What begins a message in the single-object encoding.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// Checks a payload: one value, or one in the single-object encoding if it has the schema's
/// fingerprint.
///
/// # Errors
/// Text that is not UTF-8, each; else the first violation, after which the bytes mean nothing.
pub(super) fn check(
    model: &Model,
    root: TypeId,
    fingerprint: u64,
    payload: &[u8],
) -> Result<(), Vec<Violation>> {
    let marked =
        payload.strip_prefix(&SINGLE_OBJECT).and_then(|rest| rest.split_first_chunk::<8>());
    let rest = match marked {
        Some((found, rest)) if u64::from_le_bytes(*found) == fingerprint => rest,
        _ => payload,
    };
    let mut check = Check {
        model,
        whole: rest.len(),
        rest,
        empty_items: 0,
        path: String::new(),
        violations: Vec::new(),
    };
    let read = check.value(root, 1);
    if let Err(text) = read {
        check.violation(&text);
    } else if !check.rest.is_empty() {
        let text = format!("{} bytes follow the value; send one value", check.rest.len());
        check.violation(&text);
    }
    if check.violations.is_empty() {
        return Ok(());
    }
    if let Some((found, _)) = marked
        && u64::from_le_bytes(*found) != fingerprint
    {
        let text = format!(
            "payload may be a single object of a schema with fingerprint {:016x}; this schema has \
             {fingerprint:016x}: write it with this one",
            u64::from_le_bytes(*found)
        );
        check.path.clear();
        check.violation(&text);
    }
    Err(check.violations)
}

struct Check<'m, 'p> {
    model: &'m Model,
    /// Bytes of the value.
    whole: usize,
    rest: &'p [u8],
    empty_items: u64,
    path: String,
    violations: Vec<Violation>,
}

/// What ends the check: the text of the violation.
type Read<T> = Result<T, String>;

impl<'p> Check<'_, 'p> {
    fn value(&mut self, id: TypeId, depth: usize) -> Read<()> {
        if depth > INSTANCE_DEPTH_MAX {
            return Err(format!(
                "values nest deeper than {INSTANCE_DEPTH_MAX} levels; nest them less"
            ));
        }
        let model = self.model;
        match model.of(id) {
            Type::Primitive(primitive) => self.primitive(*primitive),
            Type::Array(items) => self.blocks(*items, false, depth),
            Type::Map(values) => self.blocks(*values, true, depth),
            Type::Union(branches) => {
                let index = self.index(branches.len(), "union branch")?;
                match branches.get(index) {
                    Some(branch) => self.value(*branch, depth + 1),
                    None => Ok(()),
                }
            }
            Type::Fixed { size, .. } => self.take(*size).map(|_| ()),
            Type::Enum { symbols, .. } => self.index(symbols.len(), "symbol").map(|_| ()),
            Type::Record { fields, solid, .. } => {
                for field in solid.iter().filter_map(|index| fields.get(*index)) {
                    let back = self.enter(&field.name);
                    self.value(field.of, depth + 1)?;
                    self.path.truncate(back);
                }
                Ok(())
            }
        }
    }

    fn primitive(&mut self, primitive: Primitive) -> Read<()> {
        match primitive {
            Primitive::Null => Ok(()),
            Primitive::Boolean => match self.take(1)? {
                [0 | 1] => Ok(()),
                other => Err(format!("{other:02x?} is no boolean; write 0 or 1")),
            },
            Primitive::Int => {
                let long = self.long()?;
                let int = i32::try_from(long);
                int.map(|_| ()).map_err(|_| format!("{long} is no int; write 32 bits"))
            }
            Primitive::Long => self.long().map(|_| ()),
            Primitive::Float => self.take(4).map(|_| ()),
            Primitive::Double => self.take(8).map(|_| ()),
            Primitive::Bytes => self.delimited().map(|_| ()),
            Primitive::String => self.text().map(|_| ()),
        }
    }

    /// The blocks of an array or a map.
    fn blocks(&mut self, inner: TypeId, is_map: bool, depth: usize) -> Read<()> {
        let empty = !is_map && self.model.is_empty(inner);
        let mut position = 0_u64;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            // Who skips a block relies on the number of its bytes.
            let mut claimed = None;
            if count < 0 {
                count = count.checked_neg().ok_or("a block has too many elements; write fewer")?;
                claimed = Some(self.long()?);
            }
            let before = self.rest.len();
            let count = count.unsigned_abs();
            if empty {
                self.empty_items = self.empty_items.saturating_add(count);
                if self.empty_items > AVRO_EMPTY_ITEMS_MAX {
                    return Err(format!(
                        "more than {AVRO_EMPTY_ITEMS_MAX} elements without bytes; write fewer"
                    ));
                }
            }
            for _ in 0..if empty { 0 } else { count } {
                let segment = if is_map { self.text()?.to_owned() } else { position.to_string() };
                let back = self.enter(&segment);
                self.value(inner, depth + 1)?;
                self.path.truncate(back);
                position += 1;
            }
            let bytes = before - self.rest.len();
            if let Some(claimed) = claimed
                && usize::try_from(claimed) != Ok(bytes)
            {
                return Err(format!(
                    "a block says that it has {claimed} bytes and has {bytes}; write it anew"
                ));
            }
        }
    }

    fn index(&mut self, count: usize, what: &str) -> Read<usize> {
        let index = self.long()?;
        usize::try_from(index).ok().filter(|index| *index < count).ok_or_else(|| {
            format!("{what} {index} is not in the schema, which has {count}; write one that is")
        })
    }

    fn long(&mut self) -> Read<i64> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some((byte, rest)) = self.rest.split_first() else { return Err(self.ends()) };
            self.rest = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                let half = i64::try_from(number >> 1).unwrap_or(i64::MAX);
                return Ok(if number & 1 == 0 { half } else { !half });
            }
        }
        Err(format!("a number before byte {} has more than 64 bits; write it anew", self.at()))
    }

    fn take(&mut self, length: u64) -> Read<&'p [u8]> {
        let taken =
            usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((bytes, rest)) = taken else { return Err(self.ends()) };
        self.rest = rest;
        Ok(bytes)
    }

    fn delimited(&mut self) -> Read<&'p [u8]> {
        let length = self.long()?;
        let natural = u64::try_from(length);
        self.take(natural.map_err(|_| format!("length {length} is negative; write it anew"))?)
    }

    fn text(&mut self) -> Read<&'p str> {
        let bytes = self.delimited()?;
        Ok(std::str::from_utf8(bytes).unwrap_or_else(|_| {
            self.violation("text is not UTF-8; encode it as UTF-8");
            ""
        }))
    }

    fn at(&self) -> usize {
        self.whole - self.rest.len()
    }

    fn ends(&self) -> String {
        format!("payload ends within a value, after byte {}; send a whole value", self.at())
    }

    fn enter(&mut self, segment: &str) -> usize {
        let back = self.path.len();
        push_segment(&mut self.path, &shorten_to(segment, TEXT_BYTES_MAX));
        back
    }

    fn violation(&mut self, text: &str) {
        Violation::note(&mut self.violations, &self.path, text);
    }
}
