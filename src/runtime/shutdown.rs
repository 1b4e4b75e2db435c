//! The wish to stop, told to everyone.

use tokio_util::sync::CancellationToken;

/// A wish to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Asks everyone to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until somebody asks.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}
