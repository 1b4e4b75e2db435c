//! `mhub events publish TOPIC [FILE|-]`: lines as they come, many on their way, receipts in order.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use futures_util::stream::{FuturesOrdered, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;

use super::events::{RECEIPT, receipt};
use super::output::{self, Lines, Output};
use super::{Done, Failure, input};
use crate::client::{Client, Pending, Publisher, Receipt, cloudevents};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::runtime::tasks;

/// Publishes that are on their way at once.
const IN_FLIGHT_MAX: usize = 4096;
/// Lines that are read ahead.
const LINES_QUEUED: usize = 1024;

/// A line's number, from 1, and what came of it.
type Numbered<T> = (u64, T);

/// Publishes lines until they end, or one of them is refused.
pub(super) async fn run(
    client: &Client,
    output: Output,
    topic: &str,
    file: Option<PathBuf>,
) -> Done {
    let publisher = client.publisher();
    let mut lines = read(file)?;
    let mut told = Told::new(output, topic);
    let mut on_their_way = FuturesOrdered::new();
    let mut open = true;
    loop {
        let more = open && told.refused.is_none() && on_their_way.len() < IN_FLIGHT_MAX;
        tokio::select! {
            biased;
            Some((number, outcome)) = on_their_way.next(), if !on_their_way.is_empty() => {
                told.tell(number, outcome)?;
                if on_their_way.is_empty() {
                    told.lines.flush()?;
                }
            }
            line = lines.recv(), if more => match line {
                None => open = false,
                Some((number, line)) => match submit(&publisher, topic, line?).await {
                    Ok(None) => {}
                    Ok(Some(pending)) => on_their_way.push_back(numbered(number, pending)),
                    Err(rejection) => told.tell(number, Err(rejection))?,
                },
            },
            else => return told.end(),
        }
    }
}

async fn numbered(number: u64, pending: Pending) -> Numbered<Result<Receipt, Rejection>> {
    (number, pending.await)
}

/// `None` for a blank line.
async fn submit(
    publisher: &Publisher,
    topic: &str,
    line: Vec<u8>,
) -> Result<Option<Pending>, Rejection> {
    let text = String::from_utf8(line)
        .map_err(|_| Rejection::new(Reason::EventInvalid, "not UTF-8; correct the line"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    if text.len() > MESSAGE_BYTES_MAX {
        let message = format!("longer than {MESSAGE_BYTES_MAX} bytes; an event is smaller");
        return Err(Rejection::new(Reason::EventTooLarge, message));
    }
    let event = cloudevents::from_json(&text)?;
    publisher.submit(topic, event.encode_to_vec().into()).await.map(Some)
}

/// Reads lines on a thread of its own: standard input may have none for long, and what was read
/// before is not to wait for that.
fn read(
    file: Option<PathBuf>,
) -> Result<mpsc::Receiver<Numbered<std::io::Result<Vec<u8>>>>, Failure> {
    let mut input = BufReader::new(input::open(file.as_deref().unwrap_or(Path::new("-")))?);
    let (sender, lines) = mpsc::channel(LINES_QUEUED);
    let bound = MESSAGE_BYTES_MAX as u64 + 1;
    drop(tasks::thread("lines", move || {
        for number in 1.. {
            let mut line = Vec::new();
            let read = input.by_ref().take(bound).read_until(b'\n', &mut line);
            let (over, failed) = (matches!(read, Ok(0)), read.is_err());
            // A line beyond the bound ends the reading: it is refused as a whole.
            let cut = line.len() as u64 == bound;
            if over || sender.blocking_send((number, read.map(|_| line))).is_err() || failed || cut
            {
                return;
            }
        }
    })?);
    Ok(lines)
}

/// What was told of the lines.
struct Told<'a> {
    topic: &'a str,
    lines: Lines,
    published: u64,
    /// The exit code of the first line that was refused.
    refused: Option<Exit>,
}

impl<'a> Told<'a> {
    fn new(output: Output, topic: &'a str) -> Self {
        Self { topic, lines: Lines::new(output, RECEIPT), published: 0, refused: None }
    }

    fn tell(&mut self, number: u64, outcome: Result<Receipt, Rejection>) -> Result<(), Failure> {
        match outcome {
            Ok(one) => {
                self.published += 1;
                self.lines.print(&receipt(self.topic, one))?;
            }
            Err(rejection) => {
                output::complain(&format!("error: line {number}: {rejection}"));
                self.refused.get_or_insert(rejection.reason.exit());
            }
        }
        Ok(())
    }

    fn end(self) -> Done {
        self.lines.end()?;
        let Some(exit) = self.refused else { return Ok(Exit::Ok) };
        let exit = if self.published > 0 { Exit::Partial } else { exit };
        let message = format!(
            "{} events were published, those of the lines above were not, and nothing was read beyond them",
            self.published
        );
        Err(Failure {
            next: Some("correct these lines and publish what is left"),
            ..Failure::new(exit, message)
        })
    }
}
