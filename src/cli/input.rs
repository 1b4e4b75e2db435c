//! What a command is given as a file, or on standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Failure;

/// Opens a file; `-` is standard input.
///
/// # Errors
/// A wrong use that names the file.
pub(super) fn open(file: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(File::open(file).map_err(|error| wrong(file, &error))?))
}

/// The whole of it; more than so many bytes are refused before they are sent.
///
/// # Errors
/// A wrong use that names the file.
pub(super) fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let bounded = open(file)?.take(bytes_max as u64 + 1).read_to_end(&mut content);
    bounded.map_err(|error| wrong(file, &error))?;
    if content.len() > bytes_max {
        let file = file.display();
        return Err(Failure::usage(format!("{file}: more than {bytes_max} bytes, the most")));
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// A wrong use that names the file.
pub(super) fn read_text(file: &Path, bytes_max: usize) -> Result<String, Failure> {
    String::from_utf8(read(file, bytes_max)?)
        .map_err(|_| Failure::usage(format!("{}: it is no text", file.display())))
}

fn wrong(file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_as_many_bytes_as_are_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("content");
        std::fs::write(&file, "four").unwrap();
        assert_eq!(read_text(&file, 4).unwrap(), "four");
        let message = |refused: Failure| refused.message;
        let told = message(read(&file, 3).unwrap_err());
        assert!(told.contains("content") && told.contains("more than 3 bytes"), "{told}");
        std::fs::write(&file, [0xFF]).unwrap();
        assert!(message(read_text(&file, 4).unwrap_err()).contains("it is no text"));
        let gone = dir.path().join("gone");
        assert!(message(read(&gone, 4).unwrap_err()).contains("gone: "));
    }
}
