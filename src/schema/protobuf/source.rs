//! The files that a compilation may open.

use std::collections::BTreeMap;
use std::path::Path;

use protox::Error;
use protox::file::{File, FileResolver, GoogleFileResolver};

use crate::schema::definition::{Definition, Resolved};
use crate::schema::limits::SCHEMA_TREE_MAX;
use crate::schema::report::{Invalid, Problems};

/// Files by the name under which they are imported.
pub(super) struct Sources {
    texts: BTreeMap<String, String>,
    well_known: GoogleFileResolver,
}

impl Sources {
    /// The files of a definition and of all that it refers to.
    ///
    /// # Errors
    /// Different files of the same name; a file without a name; more files than
    /// [`SCHEMA_TREE_MAX`].
    pub(super) fn collect(definition: &Definition, resolved: &[Resolved]) -> Result<Self, Invalid> {
        let mut sources = Self { texts: BTreeMap::new(), well_known: GoogleFileResolver::new() };
        let mut problems = Problems::default();
        for (index, file) in definition.files.iter().enumerate() {
            if definition.files.iter().take(index).any(|known| known.name == file.name) {
                let text = format!("two files are called {:?}; rename one", file.name);
                problems.push(&file.name, text);
            }
            sources.add(&file.name, &file.text, &mut problems);
        }
        sources.add_references(resolved, &mut problems);
        if sources.texts.len() > SCHEMA_TREE_MAX {
            let text = format!(
                "schema has {} files with those that it refers to; keep them within \
                 {SCHEMA_TREE_MAX}",
                sources.texts.len()
            );
            problems.push(definition.main_name(), text);
        }
        problems.into_result().map(|()| sources)
    }

    /// A reference is imported by its own name, whatever the file is called at home.
    fn add_references(&mut self, resolved: &[Resolved], problems: &mut Problems) {
        for found in resolved {
            let files = &found.definition.files;
            for (index, file) in files.iter().enumerate() {
                let name = if index == 0 { &found.name } else { &file.name };
                self.add(name, &file.text, problems);
            }
            self.add_references(&found.resolved, problems);
        }
    }

    fn add(&mut self, name: &str, text: &str, problems: &mut Problems) {
        if name.is_empty() {
            let text = "a file has no name; give it the path by which it is imported".to_owned();
            problems.push_once("", text);
        }
        match self.texts.get(name) {
            Some(known) if known != text => {
                let text = format!(
                    "two different files are called {name:?}; imports know one of each name: \
                     rename one"
                );
                problems.push_once(name, text);
            }
            Some(_) => {}
            None => {
                self.texts.insert(name.to_owned(), text.to_owned());
            }
        }
    }
}

impl FileResolver for Sources {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        let name = path.to_str()?;
        self.texts.contains_key(name).then(|| name.to_owned())
    }

    fn open_file(&self, name: &str) -> Result<File, Error> {
        match self.texts.get(name) {
            Some(text) => File::from_source(name, text),
            None => self.well_known.open_file(name),
        }
    }
}

/// The place of an error of `protox`, `file:line:column` where it knows that, and its text.
pub(super) fn problem_of(error: &Error, opened: &str) -> (String, String) {
    let file = error.file().unwrap_or(opened);
    let text = error.to_string();
    // Only the debug form has the line and the column: `file:line:column: text`.
    let debug = format!("{error:?}");
    let position = debug
        .strip_prefix(file)
        .and_then(|rest| rest.strip_suffix(text.as_str()))
        .map(|rest| rest.trim_end_matches([' ', ':']))
        .filter(|rest| rest.bytes().all(|byte| byte == b':' || byte.is_ascii_digit()));
    let place = format!("{file}{}", position.unwrap_or_default());
    let advice = if error.is_file_not_found() {
        "add that file, or a reference of this name"
    } else {
        "correct the file there"
    };
    (place, format!("{text}; {advice}"))
}
