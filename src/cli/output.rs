//! Printing: data on standard output, everything else on standard error.

use std::io::{BufWriter, Write};

use comfy_table::{Table, presets};
use serde_json::Value;

use super::{Failure, Global};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
}

/// How one command prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printing {
    pub(crate) output: Output,
    /// It was asked for; else it is the default.
    pub(crate) chosen: bool,
}

impl Printing {
    pub(super) fn of(global: &Global) -> Self {
        Self { output: global.output, chosen: global.output_is_chosen }
    }
}

/// A line on standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    writeln!(anstream::stdout().lock(), "{text}")?;
    Ok(())
}

/// A line on standard error. Failing to say so is not worth failing for.
pub(crate) fn complain(text: &str) {
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}

/// A table with a head.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    table
}

/// The lines of a table of these columns, its head first.
pub(crate) fn rows(columns: &[&str], items: &[Value]) -> Vec<String> {
    let rows = items.iter().map(|item| columns.iter().map(|c| cell(&item[*c])).collect());
    table(columns, rows).lines().map(|row| row.trim_end().to_owned()).collect()
}

/// A list, as a table of these columns or as JSON.
pub(crate) fn list(output: Output, columns: &[&str], items: &[Value]) -> Result<(), Failure> {
    match output {
        Output::Table => rows(columns, items).iter().try_for_each(|row| line(row)),
        Output::Json => line(&format!("{:#}", Value::Array(items.to_vec()))),
        Output::Jsonl => items.iter().try_for_each(|item| line(&item.to_string())),
    }
}

/// One thing, as lines of name and value or as JSON.
pub(crate) fn item(output: Output, item: &Value) -> Result<(), Failure> {
    match output {
        Output::Table => {
            let Value::Object(fields) = item else { return line(&cell(item)) };
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields
                .iter()
                .filter(|(_, value)| !value.is_array())
                .try_for_each(|(name, value)| line(&format!("{name:width$}  {}", cell(value))))
        }
        Output::Json => line(&format!("{item:#}")),
        Output::Jsonl => line(&item.to_string()),
    }
}

/// One thing whose numbers are to stay as they are written: a table shows its top level.
pub(crate) fn document(output: Output, thing: &impl serde::Serialize) -> Result<(), Failure> {
    match output {
        Output::Table => {
            let value = serde_json::to_value(thing).map_err(unprintable)?;
            item(output, &value)
        }
        Output::Json => line(&serde_json::to_string_pretty(thing).map_err(unprintable)?),
        Output::Jsonl => line(&text(thing)?),
    }
}

fn text(thing: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(thing).map_err(unprintable)
}

fn unprintable(error: serde_json::Error) -> Failure {
    Failure::new(crate::model::rejection::Exit::Error, format!("cannot print as JSON: {error}"))
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Bytes that are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// Items that come one by one, printed as they come.
pub(crate) struct Lines {
    output: Output,
    columns: &'static [(&'static str, usize)],
    printed: u64,
    out: BufWriter<Box<dyn Write + Send>>,
}

impl Lines {
    /// Columns have a name and a width.
    pub(crate) fn new(output: Output, columns: &'static [(&'static str, usize)]) -> Self {
        match output {
            // What an event says may colour a terminal, and nothing else.
            Output::Table => Self::to(output, columns, Box::new(anstream::stdout())),
            // JSON has no escapes to take out, and looking for them in each byte takes its time.
            Output::Json | Output::Jsonl => Self::to(output, columns, Box::new(std::io::stdout())),
        }
    }

    fn to(
        output: Output,
        columns: &'static [(&'static str, usize)],
        out: Box<dyn Write + Send>,
    ) -> Self {
        Self { output, columns, printed: 0, out: BufWriter::with_capacity(WRITTEN_AT_ONCE, out) }
    }

    /// Prints one.
    pub(crate) fn print(&mut self, item: &Value) -> Result<(), Failure> {
        match self.output {
            Output::Table => {
                if self.printed == 0 {
                    let head = self.columns.iter().map(|(c, w)| format!("{:w$}", c.to_uppercase()));
                    writeln!(self.out, "{}", head.collect::<Vec<_>>().join("  ").trim_end())?;
                }
                let cells = self.columns.iter().map(|(c, w)| format!("{:w$}", cell(&item[*c])));
                writeln!(self.out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
            }
            Output::Json => {
                write!(self.out, "{}\n{item}", if self.printed == 0 { "[" } else { "," })?;
            }
            Output::Jsonl => writeln!(self.out, "{item}")?,
        }
        self.printed += 1;
        Ok(())
    }

    /// Prints one as JSON, digit by digit as it is written.
    pub(crate) fn document(&mut self, item: &impl serde::Serialize) -> Result<(), Failure> {
        let text = text(item)?;
        match self.output {
            Output::Json => {
                write!(self.out, "{}\n{text}", if self.printed == 0 { "[" } else { "," })?;
            }
            Output::Table | Output::Jsonl => writeln!(self.out, "{text}")?,
        }
        self.printed += 1;
        Ok(())
    }

    /// Makes what was printed visible.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Ends the document.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        if self.output == Output::Json {
            writeln!(self.out, "{}", if self.printed == 0 { "[]" } else { "\n]" })?;
        }
        self.flush()
    }
}

/// An instant in Unix milliseconds as RFC 3339.
pub(crate) fn instant(unix_ms: u64) -> String {
    let instant =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    instant.map_or_else(|| unix_ms.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;
    use crate::model::rejection::Exit;
    use crate::proto::cloudevents::EventJson;
    use crate::proto::v1::Event;

    /// What was written; more than so many bytes are not taken.
    #[derive(Clone)]
    struct Pipe(Arc<Mutex<Vec<u8>>>, usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut written = self.0.lock().unwrap();
            if written.len() + bytes.len() > self.1 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(output: Output, bytes_max: usize) -> (Lines, Arc<Mutex<Vec<u8>>>) {
        let pipe = Pipe(Arc::default(), bytes_max);
        (Lines::to(output, &[("id", 4)], Box::new(pipe.clone())), pipe.0)
    }

    fn event(kind: &str, data: &'static [u8]) -> Event {
        Event { datacontenttype: kind.to_owned(), data: data.into(), ..Event::default() }
    }

    #[test]
    fn json_is_told_as_it_is_and_never_holds_an_escape() {
        for output in [Output::Json, Output::Jsonl] {
            let (mut lines, written) = lines(output, usize::MAX);
            lines.print(&json!({"id": "\u{1b}[31mred"})).unwrap();
            let raw = event("application/json", br#"{"a":  1e2, "b": "\u001b[0m"}"#);
            lines.document(&EventJson(&raw)).unwrap();
            lines.document(&EventJson(&event("text/plain", b"\x1b[31mred"))).unwrap();
            // That is no JSON.
            lines.document(&EventJson(&event("application/json", b"\"\x1b[31m\""))).unwrap();
            assert!(written.lock().unwrap().is_empty(), "it is not written bit by bit");
            lines.end().unwrap();
            let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            assert!(!text.contains('\u{1b}'), "{text:?}");
            assert!(text.contains(r#""data":{"a":  1e2, "b": "\u001b[0m"}"#), "{text}");
            let items: Vec<Value> = if output == Output::Json {
                serde_json::from_str(&text).unwrap()
            } else {
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            };
            assert_eq!((items.len(), &items[0]["id"]), (4, &json!("\u{1b}[31mred")));
            assert_eq!(items[2]["data"], "\u{1b}[31mred");
            assert!(items[3]["data_base64"].is_string());
        }
    }

    #[test]
    fn a_reader_that_has_had_enough_is_no_error() {
        for output in [Output::Table, Output::Json, Output::Jsonl] {
            let (mut lines, _) = lines(output, WRITTEN_AT_ONCE);
            let long = json!({"id": "x".repeat(WRITTEN_AT_ONCE)});
            let printed = lines.print(&long).and_then(|()| lines.flush());
            assert_eq!(printed.unwrap_err().exit, Exit::Ok);
        }
    }
}
