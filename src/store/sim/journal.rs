//! A file of records, `[length u32][crc32c u32][body]`; what a crash left of the last one is cut off.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::runtime::fs::{self, File};
use crate::store::files;

const NAME: &str = "journal";
const HEADER: usize = 8;

#[derive(Debug)]
pub(super) struct Journal(File);

impl Journal {
    /// Opens the journal of a directory, which is made where it is not there; the bodies of the
    /// records that are whole.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<Bytes>)> {
        let path = dir.join(NAME);
        if !fs::exists(&path)? {
            fs::create_dir_all(dir)?;
            let file = File::create(&path)?;
            file.sync_all()?;
            files::sync_dir(dir)?;
            return Ok((Self(file), Vec::new()));
        }
        let (file, content) = (File::open(&path)?, Bytes::from(fs::read(&path)?));
        let (mut rest, mut bodies) = (content.clone(), Vec::new());
        while let Some(body) = next(&mut rest) {
            bodies.push(body);
        }
        fs::truncate(&file, content.len() - rest.len());
        file.sync_all()?;
        Ok((Self(file), bodies))
    }

    pub(super) fn append(&self, body: &[u8]) {
        let mut record = BytesMut::with_capacity(HEADER + body.len());
        record.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        record.put_u32_le(crc32c::crc32c(body));
        record.put_slice(body);
        fs::append(&self.0, &record);
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn next(rest: &mut Bytes) -> Option<Bytes> {
    let mut ahead = rest.clone();
    let length = usize::try_from(ahead.try_get_u32_le().ok()?).ok()?;
    let crc = ahead.try_get_u32_le().ok()?;
    let body = (length > 0 && length <= ahead.len()).then(|| ahead.split_to(length))?;
    if crc32c::crc32c(&body) != crc {
        return None;
    }
    *rest = ahead;
    Some(body)
}

/// Appends bytes with their length before them.
pub(super) fn put(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    buf.put_slice(bytes);
}

/// Reads what [`put`] wrote.
pub(super) fn get(buf: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(buf.try_get_u32_le().ok()?).ok()?;
    (length <= buf.len()).then(|| buf.split_to(length))
}
