//! The only place that starts tasks and threads, each with a name.

use std::future::Future;
use std::io;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Starts a task on the async workers. It must not block.
#[expect(clippy::disallowed_methods, reason = "this is where tasks are started")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}

/// Starts work that blocks, on the pool of threads that is there for it.
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let span = tracing::debug_span!("blocking", name);
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

/// Gives what comes to work that blocks, on the pool of threads that is there for it, and `None` at
/// the end; returns then, or at the first error.
pub fn drain<T: Send + 'static, E: Send + 'static>(
    name: &'static str,
    mut inbox: mpsc::Receiver<T>,
    mut work: impl FnMut(Option<T>) -> Result<(), E> + Send + 'static,
) -> JoinHandle<Result<(), E>> {
    spawn_blocking(name, move || {
        while let Some(item) = inbox.blocking_recv() {
            work(Some(item))?;
        }
        work(None)
    })
}

/// Sends what an iterator that blocks yields, from the pool of threads that is there for it; until
/// nobody receives any more, or the first error.
pub fn feed<T: Send + 'static, E: Send + 'static>(
    name: &'static str,
    items: impl Iterator<Item = Result<T, E>> + Send + 'static,
    outbox: mpsc::Sender<T>,
) -> JoinHandle<Result<(), E>> {
    spawn_blocking(name, move || {
        for item in items {
            if outbox.blocking_send(item?).is_err() {
                break;
            }
        }
        Ok(())
    })
}

/// Starts a thread of its own, for work that never ends.
///
/// # Errors
/// When the system has no thread left.
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}
