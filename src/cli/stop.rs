//! When somebody asks a command that goes on for ever to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for Ctrl-C, or for the signal by which service managers end a process.
///
/// # Errors
/// When the process may not listen to signals.
pub(super) async fn asked() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
