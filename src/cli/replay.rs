//! `mhub events replay`.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost::Message as _;

use super::events::{EVENT, decode, print};
use super::output::{self, Lines, Output};
use super::read::{ConsistencyArg, FromArg, instant};
use super::subscription::filter_of;
use super::{Done, Failure, shell, stop};
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
    /// Give each event's payload to this command of the shell instead of printing it, one after the other: it is done
    /// once the command ends with 0. The first that fails ends the replay, with 8, or with 1 if it was the first of all.
    #[arg(long, value_name = "COMMAND", conflicts_with = "into")]
    run: Option<String>,
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
    let to = match (args.into, args.run) {
        (Some(topic), _) => {
            let (publisher, pending) = (client.publisher(), VecDeque::new());
            Destination::Topic(Copies { publisher, topic, pending, reached: None })
        }
        (None, Some(command)) => Destination::Command(command),
        (None, None) => Destination::Output(output, Lines::new(output, EVENT)),
    };
    let bar = Bar::new(replay.cursor().next, replay.end());
    let mut player = Player { replay, to, kept, all: args.all, count: 0, reached: None };
    let played = player.play(&bar).await;
    bar.bar.finish_and_clear();
    // However it ended: what is there is not to come again.
    let ended = player.end(matches!(played, Ok(false))).await;
    let (stopped, next) = (played?, ended?);
    let Player { to, count, .. } = player;
    if let Destination::Output(_, lines) = to {
        lines.end()?;
    }
    output::complain(&format!("{count} events replayed; the next one is {next}"));
    Ok(if stopped { Exit::Partial } else { Exit::Ok })
}

/// What a replay is played to.
enum Destination {
    Output(Output, Lines),
    Topic(Copies),
    /// A command of the shell, which is run for one event after the other.
    Command(String),
}

/// A replay, and what it is played to.
struct Player {
    replay: Replay,
    to: Destination,
    kept: Option<Kept>,
    all: bool,
    count: u64,
    /// Where to go on after what was printed, or was done by a command.
    reached: Option<Cursor>,
}

impl Player {
    /// Plays until the range ends or somebody stops it; whether the latter.
    async fn play(&mut self, bar: &Bar) -> Result<bool, Failure> {
        let mut stop = pin!(stop::asked());
        // A command may take its time, and what it did is not to be done again: each event counts by itself.
        let runs = matches!(self.to, Destination::Command(_));
        let at_once = if runs { 1 } else { usize::MAX };
        if runs {
            self.reached = Some(self.replay.cursor());
        }
        loop {
            let next = tokio::select! {
                next = self.replay.next() => next?,
                stopped = &mut stop => {
                    stopped?;
                    return Ok(true);
                }
            };
            let Some(events) = next else { return Ok(false) };
            for events in events.chunks(at_once) {
                tokio::select! {
                    // A terminal's Ctrl-C goes to the command as well: that it ends by it is no failure.
                    biased;
                    stopped = &mut stop, if runs => {
                        stopped?;
                        return Ok(true);
                    }
                    given = self.give(events) => given?,
                }
                self.count += events.len() as u64;
                if let Some(last) = events.last() {
                    bar.reach(self.place(last) + 1);
                }
                self.save(self.reached(), runs)?;
            }
        }
    }

    async fn give(&mut self, events: &[RecordedEvent]) -> Result<(), Failure> {
        for event in events {
            let place = self.place(event);
            let at = |next| Cursor { next, ..self.replay.cursor() };
            match &mut self.to {
                Destination::Output(output, lines) => print(lines, *output, event)?,
                Destination::Topic(copies) => copies.send(event, at(place + 1)).await?,
                Destination::Command(command) => {
                    self.reached = Some(at(place));
                    let data = decode(&event.event)?.data;
                    if let Some(why) = shell::hand(command, &data).await? {
                        return Err(failed(event, &why, self.count, self.kept.as_ref()));
                    }
                    self.reached = Some(at(place + 1));
                }
            }
        }
        match &mut self.to {
            Destination::Output(_, lines) => {
                lines.flush()?;
                self.reached = Some(self.replay.cursor());
            }
            Destination::Topic(copies) => copies.settle(COPIES_MAX).await?,
            Destination::Command(_) => {}
        }
        Ok(())
    }

    /// Waits for copies that are on their way, and keeps where to go on, which it tells; `whole`: the range was played
    /// to its end.
    async fn end(&mut self, whole: bool) -> Result<u64, Failure> {
        let settled = match &mut self.to {
            Destination::Topic(copies) => copies.settle(0).await,
            Destination::Output(..) | Destination::Command(_) => Ok(()),
        };
        // Those that are not chosen count as done once all before them are.
        let played = self.replay.cursor();
        let whole = whole && settled.is_ok();
        let reached = if whole { Some(played.clone()) } else { self.reached() };
        let next = reached.as_ref().unwrap_or(&played).next;
        self.save(reached, true)?;
        settled.map(|()| next)
    }

    fn place(&self, event: &RecordedEvent) -> u64 {
        if self.all { event.position } else { event.offset }
    }

    /// Where to go on after what is there.
    fn reached(&self) -> Option<Cursor> {
        match &self.to {
            Destination::Topic(copies) => copies.reached.clone(),
            Destination::Output(..) | Destination::Command(_) => self.reached.clone(),
        }
    }

    fn save(&mut self, reached: Option<Cursor>, at_once: bool) -> Result<(), Failure> {
        match (&mut self.kept, reached) {
            (Some(kept), Some(cursor)) => kept.save(&cursor, at_once),
            _ => Ok(()),
        }
    }
}

/// Why a replay ends at an event whose command failed, after so many that were done.
fn failed(event: &RecordedEvent, why: &str, done: u64, kept: Option<&Kept>) -> Failure {
    let RecordedEvent { topic, offset, .. } = event;
    let exit = if done > 0 { Exit::Partial } else { Exit::Error };
    let message = format!("the command failed for event {offset} of topic {topic} ({why})");
    let next = match kept {
        Some(_) => "put right what made it fail and run this again: it goes on with this event",
        None => "put right what made it fail and begin with this event; by --cursor FILE it does",
    };
    Failure { next: Some(next), ..Failure::new(exit, message) }
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
