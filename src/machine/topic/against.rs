//! All that stands against a call, told by one refusal.

use super::record::TopicRecord;
use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::model::command::Publish;
use crate::model::listed;
use crate::model::rejection::{Reason, Rejection};

/// What stands against a call, or a transaction.
#[derive(Debug, Default)]
pub(crate) struct Against {
    all: Vec<Rejection>,
    /// The numbers of the expectations that fail, among those of all parts.
    failing: Vec<u64>,
    /// The expectations of the parts so far.
    expectations: u64,
}

impl Against {
    pub(crate) fn note(&mut self, rejection: Rejection) {
        self.all.push(rejection);
    }

    /// Passes over the expectations of a part whose topic is not there.
    pub(crate) fn pass_over(&mut self, command: &Publish) {
        self.expectations += command.expectations.len() as u64;
    }

    /// Notes every expectation that fails, not the first only.
    pub(crate) fn expect<K: Kv>(
        &mut self,
        machine: &mut Machine<'_, K>,
        topic: &TopicRecord,
        command: &Publish,
    ) -> Result<(), Fault> {
        for (number, expectation) in (self.expectations..).zip(&command.expectations) {
            let (key, expected) = (&expectation.key, expectation.expect());
            #[cfg(feature = "planted")]
            if crate::machine::planted::is_passed_over(command, key)? {
                continue;
            }
            let actual = machine.key_version(topic.topic_id(), key)?;
            if expected.holds(actual) {
                continue;
            }
            let text = format!("key {key:?} is at version {actual}, expected {expected}");
            let conflict = Rejection::new(Reason::VersionConflict, text);
            let conflict = conflict.with("topic", &command.topic).with("key", key);
            self.failing.push(number);
            self.note(conflict.with("expected", expected).with("actual", actual));
        }
        self.pass_over(command);
        Ok(())
    }

    /// One refusal that tells all of it, with the reason and the facts of the first. What there is no room for is
    /// told by number.
    pub(crate) fn refusal(self) -> Option<Rejection> {
        let Self { all, failing, .. } = self;
        let (count, numbers) = (all.len(), listed::numbers(failing));
        let (mut message, left) = listed::joined(all.iter().map(|rejection| &rejection.message));
        if left > 0 && !numbers.is_empty() {
            message.push_str(&format!("; expectations number {numbers} fail"));
        }
        if !numbers.is_empty() {
            message.push_str("; read the keys again and decide anew");
        }
        let first = all.into_iter().next()?;
        let refusal = Rejection { message, ..first }.with("failing", count);
        Some(if numbers.is_empty() {
            refusal
        } else {
            refusal.with("failing_expectations", numbers)
        })
    }
}
