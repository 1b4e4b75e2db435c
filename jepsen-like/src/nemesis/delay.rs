//! Late packets: the kernel hands those between nodes over (iptables NFQUEUE), and each is let go after
//! a delay of its own. Jitter changes their order.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nfq::{Message, Queue, Verdict};
use tokio::sync::oneshot;

use super::{Fault, Undo};
use crate::tools::{command, installed, now};

/// The rewriting of nftables that Debian installs as `iptables` needs more of the kernel.
const IPTABLES: &str = "iptables-legacy";
const QUEUE: u16 = 7;
/// Packets that wait.
const PACKETS_MAX: u32 = 20_000;
/// A delay and its jitter, milliseconds.
const DELAYS_MS: [(u64, u64); 4] = [(10, 2), (40, 30), (120, 60), (300, 200)];
/// How often the thread looks for packets that are due.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// The packets between nodes: each node speaks from an address of its own.
const RULE: &[&str] = &["INPUT", "-s", "127.0.1.0/24", "-d", "127.0.1.0/24", "-j", "NFQUEUE"];

/// Whether packets can be made late here.
#[must_use]
pub fn possible() -> bool {
    installed(IPTABLES)
}

async fn rule(change: &str) -> anyhow::Result<()> {
    let queue = QUEUE.to_string();
    let arguments = [&[change], RULE, &["--queue-num", &queue, "--queue-bypass"]].concat();
    command(IPTABLES, &arguments).await?;
    Ok(())
}

/// The thread that holds packets.
#[derive(Debug)]
pub struct Delayer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u64>>,
}

/// All packets between nodes are late.
///
/// # Errors
/// When the kernel does not hand packets over.
pub async fn begin(seed: u64) -> anyhow::Result<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (delay_ms, jitter_ms) = DELAYS_MS[rng.usize(..DELAYS_MS.len())];
    let stop = Arc::new(AtomicBool::new(false));
    let (bound, wait) = oneshot::channel();
    let stopped = Arc::clone(&stop);
    let draw = move || delay_ms - jitter_ms.min(delay_ms) + rng.u64(..=2 * jitter_ms);
    let thread = std::thread::Builder::new()
        .name("delay".to_owned())
        .spawn(move || hold(&stopped, bound, draw))
        .context("start a thread")?;
    let delayer = Delayer { stop, thread };
    // The queue has somebody who looks after it before the first packet comes.
    if wait.await.is_err() {
        delayer.end().await?;
        anyhow::bail!("the kernel hands no packets over");
    }
    rule("-A").await?;
    let detail =
        format!("packets between nodes are {delay_ms} ms late, give or take {jitter_ms} ms");
    Ok(Fault { detail, undo: Undo::Delay(delayer) })
}

fn hold(
    stop: &AtomicBool,
    bound: oneshot::Sender<()>,
    mut draw: impl FnMut() -> u64,
) -> io::Result<u64> {
    let mut queue = Queue::open()?;
    queue.bind(QUEUE)?;
    queue.set_queue_max_len(QUEUE, PACKETS_MAX)?;
    queue.set_nonblocking(true);
    let _ = bound.send(());
    let mut held: BTreeMap<(Instant, u64), Message> = BTreeMap::new();
    let mut count = 0;
    loop {
        let ending = stop.load(Ordering::Acquire);
        loop {
            match queue.recv() {
                Ok(message) => {
                    count += 1;
                    held.insert((now() + Duration::from_millis(draw()), count), message);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while let Some(first) = held.first_entry().filter(|first| ending || first.key().0 <= now())
        {
            let mut message = first.remove();
            message.set_verdict(Verdict::Accept);
            queue.verdict(message)?;
        }
        if ending {
            return Ok(count);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Delayer {
    /// Packets come in time again; how many were late.
    ///
    /// # Errors
    /// When the rule cannot be removed, or the thread had failed.
    pub async fn end(self) -> anyhow::Result<String> {
        // Without it nothing else comes; what is held is let go at once.
        let removed = rule("-D").await;
        self.stop.store(true, Ordering::Release);
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        let count = ended.map_err(|_| anyhow::anyhow!("the thread that delays panicked"))??;
        removed?;
        Ok(if count == 0 { String::new() } else { format!("{count} packets were late") })
    }
}
