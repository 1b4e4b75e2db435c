//! Faults that a node must not survive.

use tokio::sync::watch;

/// Tells a fault. Clones share it; the first fault counts.
#[derive(Clone, Debug)]
pub struct FatalSender(watch::Sender<Option<String>>);

/// Hears of the first fault.
#[derive(Clone, Debug)]
pub struct FatalReceiver(watch::Receiver<Option<String>>);

/// A way for faults.
#[must_use]
pub fn channel() -> (FatalSender, FatalReceiver) {
    let (sender, receiver) = watch::channel(None);
    (FatalSender(sender), FatalReceiver(receiver))
}

impl FatalSender {
    /// Tells a fault; later ones are logged only.
    pub fn fail(&self, message: impl Into<String>) {
        let message = message.into();
        tracing::error!(fault = message, "the node stops");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(message);
            is_first
        });
    }
}

impl FatalReceiver {
    /// Waits for a fault. Never ends when there can be none any more.
    pub async fn wait(&mut self) -> String {
        let first = self.0.wait_for(Option::is_some).await.ok().and_then(|first| first.clone());
        match first {
            Some(first) => first,
            None => std::future::pending().await,
        }
    }
}
