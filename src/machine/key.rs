//! Keys of rows: numbers in big-endian, so that they sort; text with its length before it.

use super::Fault;
use super::record::Kind;

/// Larger than every key.
pub const END: [u8; 16] = [0xff; 16];

/// Appends a text with its length, so that no text's rows lie between those of another.
pub fn push_text(key: &mut Vec<u8>, text: &str) {
    key.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    key.extend_from_slice(text.as_bytes());
}

/// The rows that begin with a prefix: from it to the returned key, which is excluded.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    end.extend_from_slice(&END);
    end
}

/// Takes a key apart.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Of the key of a row of this kind.
    #[must_use]
    pub fn new(kind: Kind, key: &'a [u8]) -> Self {
        Self { kind, rest: key }
    }

    fn corrupt(&self) -> Fault {
        Fault::Corrupt { record: self.kind, what: "malformed key".to_owned() }
    }

    /// The next 8 bytes.
    ///
    /// # Errors
    /// When the key is shorter.
    pub fn number(&mut self) -> Result<u64, Fault> {
        let (head, rest) = self.rest.split_first_chunk::<8>().ok_or_else(|| self.corrupt())?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*head))
    }

    /// The next byte.
    ///
    /// # Errors
    /// When the key is shorter.
    pub fn byte(&mut self) -> Result<u8, Fault> {
        let (head, rest) = self.rest.split_first().ok_or_else(|| self.corrupt())?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next text.
    ///
    /// # Errors
    /// When the key is shorter, or it is no text.
    pub fn text(&mut self) -> Result<&'a str, Fault> {
        let (head, rest) = self.rest.split_first_chunk::<2>().ok_or_else(|| self.corrupt())?;
        let length = usize::from(u16::from_be_bytes(*head));
        let (text, rest) = rest.split_at_checked(length).ok_or_else(|| self.corrupt())?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.corrupt())
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_apart() {
        let mut key = 7_u64.to_be_bytes().to_vec();
        push_text(&mut key, "aé");
        key.push(3);
        let mut reader = Reader::new(Kind::Ready, &key);
        assert_eq!((reader.number().unwrap(), reader.text().unwrap()), (7, "aé"));
        assert!(reader.end().is_err());
        assert_eq!(reader.byte().unwrap(), 3);
        assert!(reader.byte().is_err() && reader.number().is_err() && reader.text().is_err());
        reader.end().unwrap();
        assert!(after_prefix(&key) > [key.clone(), vec![0xff]].concat());
    }
}
