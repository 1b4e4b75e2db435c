//! Why commands fail.

use super::next_step;
use crate::model::rejection::{Exit, Rejection};

/// Why a command failed, as its user hears it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
    pub(super) next: Option<&'static str>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: None }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let next = next_step(rejection.reason);
        Self { next, ..Self::new(rejection.reason.exit(), rejection.to_string()) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Error, format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever reads our output has had enough.
        let exit =
            if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Error };
        Self::new(exit, error.to_string())
    }
}
