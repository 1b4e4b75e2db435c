//! `mhub events replay`.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost::Message as _;

use super::events::{EVENT, decode, print};
use super::output::{self, Lines, Output};
use super::read::{ConsistencyArg, FromArg, instant};
use super::subscription::filter_of;
use super::{Done, Failure};
use crate::client::{
    Client, Cursor, Pace, Pending, Publisher, Replay, ReplayOptions, Selection, Until,
};
use crate::model::rejection::Exit;
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{AttributeValue, RecordedEvent};
use crate::runtime::clock;

/// Publishes of a copy that are under way.
const COPIES_MAX: usize = 4096;
/// How often the file of a cursor is written.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// The extension attribute of a copy that tells where it is from.
const REPLAYED_FROM: &str = "replayedfrom";

#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// The topic.
    #[arg(required_unless_present = "all")]
    topic: Option<String>,
    /// The whole hub, in the order of positions.
    #[arg(long, conflicts_with = "topic")]
    all: bool,
    /// Where to begin: start, an offset, pos=POSITION, or @TIME.
    #[arg(long, default_value = "start")]
    from: FromArg,
    /// Where to end, not included: end (as it is now), an offset (a position with --all),
    /// pos=POSITION, or @TIME.
    #[arg(long, default_value = "end")]
    until: UntilArg,
    /// Only events of this key.
    #[arg(long)]
    key: Option<String>,
    /// Only events with this correlation id.
    #[arg(long)]
    correlation: Option<String>,
    /// Only events that this takes: a filter in JSON, or a file with one; all of several have to hold.
    #[arg(long)]
    filter: Vec<String>,
    /// At most so many events a second.
    #[arg(long, conflicts_with = "original")]
    rate: Option<u64>,
    /// As far apart as they were recorded.
    #[arg(long)]
    original: bool,
    /// With --original: so many times as fast.
    #[arg(long, default_value = "1", requires = "original", value_parser = speed)]
    speed: u64,
    /// Publish copies to this topic instead of printing: without delays and deadlines, and with where
    /// they are from in the attribute `replayedfrom`.
    #[arg(long, value_name = "TOPIC")]
    into: Option<String>,
    /// Go on where this file says, and keep it up to date.
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// How fresh.
    #[arg(long, default_value = "linearizable")]
    consistency: ConsistencyArg,
}

/// `end`, a place, or `@TIME`.
#[derive(Clone, Copy, Debug)]
struct UntilArg(Until);

impl FromStr for UntilArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "end" {
            return Ok(Self(Until::End));
        }
        if let Some(time) = text.strip_prefix('@') {
            return instant(time).map(|ms| Self(Until::Time(ms)));
        }
        let until = match text.strip_prefix("pos=") {
            Some(position) => position.parse().map(Until::Position),
            None => text.parse().map(Until::Place),
        };
        until
            .map(Self)
            .map_err(|_| format!("{text:?} is none of end, an offset, pos=POSITION, @TIME"))
    }
}

/// A number with at most three decimals, as thousandths.
fn speed(text: &str) -> Result<u64, String> {
    super::service_print::weight(text).map_err(|_| format!("{text:?} is no speed like 2 or 0.5"))
}

/// Where a cursor is kept.
struct Kept {
    path: PathBuf,
    saved: Option<Instant>,
}

impl Kept {
    fn load(path: &Path) -> Result<Option<Cursor>, Failure> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                let path = path.display();
                Failure::usage(format!("{path} is no cursor of a replay ({error}); remove it"))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
        }
    }

    /// Written whole, by a rename: it may be read after a crash at any moment.
    fn save(&mut self, cursor: &Cursor, at_once: bool) -> Result<(), Failure> {
        let now = clock::now();
        if !at_once && self.saved.is_some_and(|saved| now - saved < SAVE_EVERY) {
            return Ok(());
        }
        self.saved = Some(now);
        let mut next = self.path.clone().into_os_string();
        next.push(".next");
        let text = serde_json::to_vec(cursor).map_err(std::io::Error::other)?;
        let mut file = std::fs::File::create(&next)?;
        file.write_all(&text)?;
        file.sync_all()?;
        Ok(std::fs::rename(&next, &self.path)?)
    }
}

/// Copies on their way to a topic.
struct Copies {
    publisher: Publisher,
    topic: String,
    /// With where to go on once it is there, in order.
    pending: VecDeque<(Pending, Cursor)>,
    /// Where to go on after what is there.
    reached: Option<Cursor>,
}

impl Copies {
    async fn send(&mut self, event: &RecordedEvent, after: Cursor) -> Result<(), Failure> {
        let mut copy = decode(&event.event)?;
        (copy.deadline, copy.deliver_at) = (None, None);
        let from = Attr::CeString(format!("{}/{}", event.topic, event.offset));
        copy.extensions.insert(REPLAYED_FROM.to_owned(), AttributeValue { attr: Some(from) });
        let encoded = copy.encode_to_vec().into();
        let pending = self.publisher.submit(self.topic.as_str(), encoded).await?;
        self.pending.push_back((pending, after));
        Ok(())
    }

    /// Takes note of those that are there, and waits until at most so many are on their way.
    async fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while let Some((pending, _)) = self.pending.front_mut() {
            let receipt = match pending.now_or_never() {
                Some(receipt) => receipt,
                None if self.pending.len() > left => match self.pending.front_mut() {
                    Some((pending, _)) => pending.await,
                    None => break,
                },
                None => break,
            };
            receipt?;
            self.reached = self.pending.pop_front().map(|(_, after)| after);
        }
        Ok(())
    }
}

/// How far a replay is, counted from where it began.
struct Bar {
    bar: ProgressBar,
    start: u64,
}

impl Bar {
    fn new(start: u64, end: u64) -> Self {
        let shown = std::io::stderr().is_terminal();
        let target =
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(end.saturating_sub(start)), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, start }
    }

    fn reach(&self, next: u64) {
        self.bar.set_position(next.saturating_sub(self.start));
    }
}

fn options(args: &ReplayArgs) -> Result<ReplayOptions, Failure> {
    let filter = filter_of(&args.filter)?.map(|filter| filter.compile()).transpose()?;
    let pace = match args.rate {
        Some(per_s) => Pace::Rate(per_s),
        None if args.original => Pace::Original { speed_milli: args.speed },
        None => Pace::Fast,
    };
    Ok(ReplayOptions {
        topic: args.topic.clone().unwrap_or_default(),
        from: Some(args.from.request(args.all)),
        until: args.until.0,
        selection: Selection {
            key: args.key.clone(),
            correlation_id: args.correlation.clone(),
            filter,
        },
        pace,
        options: Some(args.consistency.options()),
    })
}

pub(super) async fn run(client: &Client, output: Output, args: ReplayArgs) -> Done {
    let cursor = args.cursor.as_deref().map(Kept::load).transpose()?.flatten();
    let kept = args.cursor.clone().map(|path| Kept { path, saved: None });
    let replay = Replay::begin(client, options(&args)?, cursor).await?;
    let copies = args.into.clone().map(|topic| Copies {
        publisher: client.publisher(),
        topic,
        pending: VecDeque::new(),
        reached: None,
    });
    let bar = Bar::new(replay.cursor().next, replay.end());
    let lines = Lines::new(output, EVENT);
    let (all, count, printed) = (args.all, 0, None);
    let mut player = Player { replay, output, lines, copies, kept, all, count, printed };
    let played = player.play(&bar).await;
    bar.bar.finish_and_clear();
    // However it ended: what is there is not to come again.
    let ended = player.end(matches!(played, Ok(false))).await;
    let (stopped, ()) = (played?, ended?);
    let (count, next) = (player.count, player.replay.cursor().next);
    if player.copies.is_none() {
        player.lines.end()?;
    }
    output::complain(&format!("{count} events replayed; the next one is {next}"));
    Ok(if stopped { Exit::Partial } else { Exit::Ok })
}

/// A replay, and what it is played to.
struct Player {
    replay: Replay,
    output: Output,
    lines: Lines,
    copies: Option<Copies>,
    kept: Option<Kept>,
    all: bool,
    count: u64,
    /// Where to go on after what was printed.
    printed: Option<Cursor>,
}

impl Player {
    /// Plays until the range ends or somebody stops it; whether the latter.
    async fn play(&mut self, bar: &Bar) -> Result<bool, Failure> {
        loop {
            let next = tokio::select! {
                next = self.replay.next() => next?,
                stop = tokio::signal::ctrl_c() => {
                    stop?;
                    return Ok(true);
                }
            };
            let Some(events) = next else { return Ok(false) };
            for event in &events {
                match &mut self.copies {
                    Some(copies) => {
                        let at = if self.all { event.position } else { event.offset };
                        let after = Cursor { next: at + 1, ..self.replay.cursor() };
                        copies.send(event, after).await?;
                    }
                    None => print(&mut self.lines, self.output, event)?,
                }
            }
            match &mut self.copies {
                Some(copies) => copies.settle(COPIES_MAX).await?,
                None => {
                    self.lines.flush()?;
                    self.printed = Some(self.replay.cursor());
                }
            }
            self.count += events.len() as u64;
            bar.reach(self.replay.cursor().next);
            self.save(self.reached(), false)?;
        }
    }

    /// Waits for copies that are on their way, and keeps where to go on; `whole`: the range was played to its end.
    async fn end(&mut self, whole: bool) -> Result<(), Failure> {
        let settled = match &mut self.copies {
            Some(copies) => copies.settle(0).await,
            None => Ok(()),
        };
        // Those that are not chosen count as done once all before them are.
        let whole = whole && settled.is_ok();
        let reached = if whole { Some(self.replay.cursor()) } else { self.reached() };
        self.save(reached, true)?;
        settled
    }

    /// Where to go on after what is there.
    fn reached(&self) -> Option<Cursor> {
        match &self.copies {
            Some(copies) => copies.reached.clone(),
            None => self.printed.clone(),
        }
    }

    fn save(&mut self, reached: Option<Cursor>, at_once: bool) -> Result<(), Failure> {
        match (&mut self.kept, reached) {
            (Some(kept), Some(cursor)) => kept.save(&cursor, at_once),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts_from_where_the_replay_began() {
        let bar = Bar::new(900_000, 1_000_000);
        assert_eq!((bar.bar.position(), bar.bar.length()), (0, Some(100_000)));
        bar.reach(950_000);
        assert_eq!(bar.bar.position(), 50_000);
        bar.reach(1_000_000);
        assert_eq!(Some(bar.bar.position()), bar.bar.length());
        assert_eq!(Bar::new(7, 7).bar.length(), Some(0));
    }
}
