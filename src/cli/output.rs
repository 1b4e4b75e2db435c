//! Printing: data on standard output, everything else on standard error.

use std::io::Write as _;

use comfy_table::{Table, presets};
use serde_json::Value;

use super::Failure;

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

/// A list, as a table of these columns or as JSON.
pub(crate) fn list(output: Output, columns: &[&str], items: &[Value]) -> Result<(), Failure> {
    match output {
        Output::Table => {
            let rows = items.iter().map(|item| columns.iter().map(|c| cell(&item[*c])).collect());
            let table = table(columns, rows);
            for row in table.lines() {
                line(row.trim_end())?;
            }
            Ok(())
        }
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

/// Items that come one by one, printed as they come.
pub(crate) struct Lines {
    output: Output,
    columns: &'static [(&'static str, usize)],
    printed: u64,
    out: std::io::BufWriter<anstream::Stdout>,
}

impl Lines {
    /// Columns have a name and a width.
    pub(crate) fn new(output: Output, columns: &'static [(&'static str, usize)]) -> Self {
        Self { output, columns, printed: 0, out: std::io::BufWriter::new(anstream::stdout()) }
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
