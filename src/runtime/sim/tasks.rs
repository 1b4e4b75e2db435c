//! Tasks; threads are tasks, too.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{NODE, this_node};

/// Starts a task of the node that runs.
#[expect(clippy::disallowed_methods, reason = "this is where tasks are started")]
pub fn spawn<F>(_name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let future = NODE.scope(this_node().unwrap_or(0), future);
    match Handle::try_current() {
        Ok(_) => tokio::spawn(future),
        // What a crash drops may want to clean up behind itself. It is too late for that.
        Err(_) => NOWHERE.with(|nowhere| nowhere.spawn(future)),
    }
}

thread_local! {
    /// Never runs.
    static NOWHERE: Runtime = Builder::new_current_thread().build().unwrap_or_else(|error| {
        unreachable!("a runtime without drivers needs nothing of the system: {error}")
    });
}

/// Does work that blocks, in one go, when its turn comes.
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    spawn(name, async move { work() })
}

/// Gives what comes to work that blocks, and `None` at the end; returns then, or at the first error.
pub fn drain<T: Send + 'static, E: Send + 'static>(
    name: &'static str,
    mut inbox: mpsc::Receiver<T>,
    mut work: impl FnMut(Option<T>) -> Result<(), E> + Send + 'static,
) -> JoinHandle<Result<(), E>> {
    spawn(name, async move {
        while let Some(item) = inbox.recv().await {
            work(Some(item))?;
        }
        work(None)
    })
}

/// Sends what an iterator yields, until nobody receives any more, or the first error.
pub fn feed<T: Send + 'static, E: Send + 'static>(
    name: &'static str,
    items: impl Iterator<Item = Result<T, E>> + Send + 'static,
    outbox: mpsc::Sender<T>,
) -> JoinHandle<Result<(), E>> {
    spawn(name, async move {
        for item in items {
            if outbox.send(item?).await.is_err() {
                break;
            }
        }
        Ok(())
    })
}

/// Does the work at once.
///
/// # Errors
/// Never.
pub fn thread<T>(_name: &str, work: impl FnOnce() -> T) -> io::Result<T> {
    Ok(work())
}
