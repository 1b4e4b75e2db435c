//! Hearing that something may be ready for a subscription: only who has to do with a change is
//! woken by it, however many wait for others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::ids::SubscriptionId;
use crate::model::outcome::Effect;
use crate::model::pattern::TopicPattern;

/// What somebody wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interest {
    /// Any change that may make something ready to be delivered.
    #[default]
    Anything,
    /// Changes of a subscription, and of the topics that it takes.
    Subscription(SubscriptionId, TopicPattern),
    /// Changes of services and instances.
    Registry,
    /// Changes of subscriptions that have a target.
    Targets,
}

impl Interest {
    fn is_in(&self, effect: &Effect) -> bool {
        match (self, effect) {
            (_, Effect::HashState(_)) => false,
            (Self::Registry, effect) => matches!(effect, Effect::RegistryChanged(_)),
            (_, Effect::RegistryChanged(_)) => false,
            (Self::Targets, effect) => matches!(effect, Effect::TargetsChanged),
            (_, Effect::TargetsChanged) => false,
            (Self::Anything, _) => true,
            (Self::Subscription(id, _), Effect::Wake(changed)) => id == changed,
            (Self::Subscription(_, pattern), Effect::TopicAppended(name)) => pattern.matches(name),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to somebody who listens.
type Way = (Arc<Mutex<Interest>>, watch::Sender<()>);

/// All who listen. Their number is that of the dispatchers, and bounded with it.
#[derive(Debug, Default)]
pub(super) struct Hints(Mutex<Vec<Way>>);

impl Hints {
    pub(super) fn listen(&self) -> Listener {
        let (tell, heard) = watch::channel(());
        let listener = Listener { interest: Arc::default(), heard };
        locked(&self.0).push((Arc::clone(&listener.interest), tell));
        listener
    }

    /// Wakes all: the whole state may be another one.
    pub(super) fn tell_all(&self) {
        locked(&self.0).iter().for_each(|(_, tell)| tell.send_replace(()));
    }

    /// Wakes those whom any of the effects concerns.
    pub(super) fn tell(&self, effects: &[Effect]) {
        let mut listeners = locked(&self.0);
        listeners.retain(|(_, tell)| !tell.is_closed());
        for (interest, tell) in listeners.iter() {
            let interest = locked(interest);
            if effects.iter().any(|effect| interest.is_in(effect)) {
                tell.send_replace(());
            }
        }
    }
}

/// Hears what it is interested in: at first of anything. A hint: it may come for nothing, and nothing
/// may depend on it.
#[derive(Debug)]
pub struct Listener {
    interest: Arc<Mutex<Interest>>,
    heard: watch::Receiver<()>,
}

impl Listener {
    /// Changes what to hear of. Where that is more than before, something may have been missed, and
    /// counts as heard.
    pub fn attend(&mut self, interest: Interest) {
        let mut before = locked(&self.interest);
        if *before != interest && *before != Interest::Anything {
            self.heard.mark_changed();
        }
        *before = interest;
    }

    /// Forgets what was heard; whether it was anything.
    pub fn forget(&mut self) -> bool {
        let heard = self.heard.has_changed().unwrap_or(false);
        self.heard.mark_unchanged();
        heard
    }

    /// Waits until something is heard.
    pub async fn hear(&mut self) {
        if self.heard.changed().await.is_err() {
            // Consensus has stopped: nothing is told any more.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_hears_of_what_concerns_it() {
        let hints = Hints::default();
        let mut listener = hints.listen();
        let hears = |listener: &mut Listener, effect: Effect| {
            hints.tell(&[Effect::HashState(1.into()), effect]);
            listener.forget()
        };
        let appended = |name: &str| Effect::TopicAppended(name.to_owned());
        let wake = |id| Effect::Wake(SubscriptionId(id));
        assert!(hears(&mut listener, wake(9)));
        assert!(!hears(&mut listener, Effect::HashState(1.into())));
        let pattern = TopicPattern::parse("orders.*").unwrap();
        listener.attend(Interest::Subscription(SubscriptionId(7), pattern.clone()));
        assert!(hears(&mut listener, wake(7)));
        assert!(!hears(&mut listener, wake(6)));
        assert!(!hears(&mut listener, wake(8)));
        assert!(hears(&mut listener, appended("orders.created")));
        assert!(!hears(&mut listener, appended("mail.sent")));
        listener.attend(Interest::Subscription(SubscriptionId(8), pattern));
        assert!(listener.heard.has_changed().unwrap(), "it may have missed something");
        assert!(hears(&mut listener, wake(8)));
        drop(listener);
        hints.tell(&[wake(8)]);
        assert!(locked(&hints.0).is_empty());
    }
}
