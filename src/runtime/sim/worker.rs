//! A task with a queue before it, in the place of a thread. What is at the disk takes its time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{sync_takes, tasks};

struct Queue<T> {
    items: Mutex<Items<T>>,
    came: Notify,
}

struct Items<T> {
    waiting: VecDeque<T>,
    open: bool,
}

impl<T> Queue<T> {
    fn items(&self) -> MutexGuard<'_, Items<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What else is in the queue already.
pub struct More<'q, T>(&'q Queue<T>);

impl<T> Iterator for More<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.items().waiting.pop_front()
    }
}

/// The way to the task.
pub struct Worker<T>(Arc<Queue<T>>);

impl<T: Send + 'static> Worker<T> {
    /// Starts the task. It gives `work` what comes, one by one, and lets it take more that waits
    /// already; it ends when `work` breaks. The bound is not kept: who would wait for room cannot
    /// wait here.
    ///
    /// # Errors
    /// Never.
    pub fn start(
        name: &'static str,
        _queued_max: usize,
        mut work: impl FnMut(T, More<'_, T>) -> ControlFlow<()> + Send + 'static,
    ) -> io::Result<Self> {
        let items = Mutex::new(Items { waiting: VecDeque::new(), open: true });
        let queue = Arc::new(Queue { items, came: Notify::new() });
        let inbox = Arc::clone(&queue);
        let _detached = tasks::spawn(name, async move {
            loop {
                let came = inbox.came.notified();
                let (empty, open) = {
                    let items = inbox.items();
                    (items.waiting.is_empty(), items.open)
                };
                if empty && !open {
                    return;
                }
                if empty {
                    came.await;
                    continue;
                }
                // What the disk is asked for now is done after a while; until then a crash may
                // come, and more may be queued.
                tokio::time::sleep(sync_takes()).await;
                let first = inbox.items().waiting.pop_front();
                let ends = first.is_some_and(|first| work(first, More(&inbox)).is_break());
                if ends {
                    inbox.items().open = false;
                    return;
                }
            }
        });
        Ok(Self(queue))
    }

    /// Queues something.
    ///
    /// # Errors
    /// When the task has ended.
    pub fn submit(&self, item: T) -> Result<(), Gone> {
        let mut items = self.0.items();
        if !items.open {
            return Err(Gone);
        }
        items.waiting.push_back(item);
        drop(items);
        self.0.came.notify_one();
        Ok(())
    }

    /// As [`Self::submit`].
    ///
    /// # Errors
    /// When the task has ended.
    pub fn submit_now(&self, item: T) -> Result<(), Gone> {
        self.submit(item)
    }
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.0.items().open = false;
        self.0.came.notify_one();
    }
}

/// The task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;
