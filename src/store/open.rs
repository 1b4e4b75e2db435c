//! How many databases this process has open.
//!
//! What a database runs in the background must not outlive `main`: it would meet a library that is
//! half destroyed. So a process closes its databases before it ends, and waits for that.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

static OPEN: Mutex<usize> = Mutex::new(0);
static CLOSED: Condvar = Condvar::new();

/// Held by an open database; to be dropped after it.
#[derive(Debug)]
pub(super) struct Open(());

impl Open {
    pub(super) fn new() -> Self {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CLOSED.notify_all();
    }
}

/// Waits until no database is open any more, or the patience is over; whether it was in time.
pub fn wait_closed(patience: Duration) -> bool {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = CLOSED.wait_timeout_while(open, patience, |open| *open > 0);
    !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
}
