//! The files of a schema that a command names.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::{Failure, input};
use crate::model::limits::CALL_BYTES_MAX;
use crate::proto::v1::{SchemaDefinition, SchemaFile, SchemaFormat, SchemaReference};

/// A schema in files.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Source {
    /// The schema; for Protobuf the main file, and what it imports.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The folder that imports of Protobuf are relative to; of several, the first that a file is in. Default: the
    /// folder of the main file.
    #[arg(long, value_name = "DIR")]
    proto_path: Vec<PathBuf>,
    /// Its language; default: by the name of the file (.json, .proto, .avsc).
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// A registered schema that it uses: how it calls it, its subject and version.
    #[arg(long, value_name = "NAME=SUBJECT@VERSION", value_parser = reference)]
    reference: Vec<SchemaReference>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    Json,
    Protobuf,
    Avro,
}

fn reference(text: &str) -> Result<SchemaReference, String> {
    let parts = text.rsplit_once('=').and_then(|(name, rest)| {
        let (subject, version) = rest.rsplit_once('@')?;
        Some((name, subject, version.parse().ok()?))
    });
    let (name, subject, version) = parts
        .ok_or_else(|| format!("{text:?} is no NAME=SUBJECT@VERSION, like money=shop.money@1"))?;
    Ok(SchemaReference { name: name.to_owned(), subject: subject.to_owned(), version })
}

impl Source {
    pub(super) fn definition(self) -> Result<SchemaDefinition, Failure> {
        let main = self.files.first().map_or(Path::new(""), PathBuf::as_path);
        let format = match self.format {
            Some(format) => format,
            None => by_name(main)?,
        };
        let format = match format {
            FormatArg::Json => SchemaFormat::Json,
            FormatArg::Protobuf => SchemaFormat::Protobuf,
            FormatArg::Avro => SchemaFormat::Avro,
        };
        let folders = if self.proto_path.is_empty() {
            vec![main.parent().unwrap_or(main).to_owned()]
        } else {
            self.proto_path
        };
        let folders = folders.iter().map(|dir| whole(dir)).collect::<Result<Vec<_>, _>>()?;
        let file = |path: &PathBuf| -> Result<SchemaFile, Failure> {
            // What is longer is refused by the hub anyway.
            let text = input::read_text(path, CALL_BYTES_MAX)?;
            Ok(SchemaFile { name: name_of(path, &folders)?, text })
        };
        let files = self.files.iter().map(file).collect::<Result<_, _>>()?;
        Ok(SchemaDefinition { format: format.into(), files, references: self.reference })
    }
}

/// A file as imports name it, wherever it lies: from one of these folders on, with `/`.
fn name_of(path: &Path, folders: &[PathBuf]) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return Ok("-".to_owned());
    }
    let full = whole(path)?;
    let below = folders.iter().find_map(|folder| full.strip_prefix(folder).ok());
    let below = below.ok_or_else(|| {
        let known: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let (path, known) = (path.display(), known.join(", "));
        Failure::usage(format!(
            "{path} is not in {known}; name the folder that imports are relative to: --proto-path DIR"
        ))
    })?;
    let parts: Option<Vec<_>> = below.iter().map(OsStr::to_str).collect();
    let parts = parts.ok_or_else(|| Failure::usage(format!("{path:?}: its name is no text")))?;
    Ok(parts.join("/"))
}

/// A path from the root, without `.` and `..`.
fn whole(path: &Path) -> Result<PathBuf, Failure> {
    let mut whole = std::env::current_dir()?;
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
    }
    Ok(whole)
}

fn by_name(path: &Path) -> Result<FormatArg, Failure> {
    match path.extension().and_then(OsStr::to_str) {
        Some("json") => Ok(FormatArg::Json),
        Some("proto") => Ok(FormatArg::Protobuf),
        Some("avsc") => Ok(FormatArg::Avro),
        _ => Err(Failure::usage(format!(
            "{}: its name does not tell the language; say --format json, protobuf or avro",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_all_it_needs() {
        let found = reference("https://shop/money=x=shop.money@3").unwrap();
        assert_eq!(
            (found.name.as_str(), found.subject.as_str()),
            ("https://shop/money=x", "shop.money")
        );
        assert_eq!(found.version, 3);
        for text in ["money", "money=shop", "money=shop@x", "shop@1"] {
            assert!(reference(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_tells_the_language() {
        assert_eq!(by_name(Path::new("a/order.avsc")).unwrap(), FormatArg::Avro);
        assert!(by_name(Path::new("order")).unwrap_err().message.contains("--format"));
    }

    #[test]
    fn files_are_called_as_imports_name_them() {
        let folders = |of: &[&str]| of.iter().map(|dir| whole(Path::new(dir)).unwrap()).collect();
        let name = |path: &str, of: &[&str]| {
            let folders: Vec<_> = folders(of);
            name_of(Path::new(path), &folders).map_err(|failure| failure.message)
        };
        for (path, of, called) in [
            ("order.proto", &[""][..], "order.proto"),
            ("./order.proto", &[""], "order.proto"),
            ("/a/b/order.proto", &["/a/b"], "order.proto"),
            ("/a/c/../b/./order.proto", &["/a/b/"], "order.proto"),
            ("/a/b/shop/order.proto", &["/x", "/a/b", "/a"], "shop/order.proto"),
            ("a/shop/order.proto", &["./a"], "shop/order.proto"),
            ("-", &["/a"], "-"),
        ] {
            assert_eq!(name(path, of).as_deref(), Ok(called), "{path} {of:?}");
        }
        for (path, of) in [("/a/order.proto", &["/a/b"][..]), ("/ab/order.proto", &["/a"])] {
            assert!(name(path, of).unwrap_err().contains("--proto-path"), "{path}");
        }
    }
}
