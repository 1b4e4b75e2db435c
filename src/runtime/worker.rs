//! A thread of its own with a bounded queue before it.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{SyncSender, TryIter, sync_channel};
use std::thread::JoinHandle;

use super::tasks;

/// What else is in the queue already.
pub type More<'q, T> = TryIter<'q, T>;

/// The way to the thread. The thread ends with it, once what was queued is done.
pub struct Worker<T> {
    /// `None` once the thread has to end.
    queue: Option<SyncSender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread. It gives `work` what comes, one by one, and lets it take more that waits
    /// already; it ends when `work` breaks.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(
        name: &'static str,
        queued_max: usize,
        mut work: impl FnMut(T, More<'_, T>) -> ControlFlow<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, inbox) = sync_channel(queued_max);
        let run = move || {
            while let Ok(first) = inbox.recv()
                && work(first, inbox.try_iter()).is_continue()
            {}
        };
        let thread = tasks::thread(name, run)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues something; waits while the queue is full.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn submit(&self, item: T) -> Result<(), Gone> {
        self.queue.as_ref().ok_or(Gone)?.send(item).map_err(|_| Gone)
    }

    /// Queues something that the queue has room for.
    ///
    /// # Errors
    /// When the thread has ended, or the queue is full against all expectation.
    pub fn submit_now(&self, item: T) -> Result<(), Gone> {
        let sent = self.queue.as_ref().ok_or(Gone)?.try_send(item);
        sent.map_err(|_| Gone)
    }
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Worker").field(&self.thread).finish()
    }
}

impl<T> Drop for Worker<T> {
    /// Waits for the thread, so that nothing that it holds is used any more.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;
