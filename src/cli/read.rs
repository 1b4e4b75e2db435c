//! Where to read from, and how fresh: arguments that several commands share.

use std::str::FromStr;

use crate::proto::v1::read_request::From;
use crate::proto::v1::{End, Linearizable, ReadOptions, Stale, Start, read_options};

/// `linearizable`, `stale` or `at-least=POSITION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConsistencyArg {
    Linearizable,
    Stale,
    AtLeast(u64),
}

impl FromStr for ConsistencyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "linearizable" => Ok(Self::Linearizable),
            "stale" => Ok(Self::Stale),
            _ => text
                .strip_prefix("at-least=")
                .and_then(|position| position.parse().ok())
                .map(Self::AtLeast)
                .ok_or_else(|| {
                    format!("{text:?} is none of linearizable, stale, at-least=POSITION")
                }),
        }
    }
}

impl ConsistencyArg {
    pub(super) fn options(self) -> ReadOptions {
        ReadOptions {
            consistency: Some(match self {
                Self::Linearizable => read_options::Consistency::Linearizable(Linearizable {}),
                Self::Stale => read_options::Consistency::Stale(Stale {}),
                Self::AtLeast(p) => read_options::Consistency::AtLeastPosition(p),
            }),
        }
    }
}

/// An instant in Unix milliseconds.
pub(super) fn instant(time: &str) -> Result<u64, String> {
    let instant = time.parse::<u64>().ok().or_else(|| {
        let instant: jiff::Timestamp = time.parse().ok()?;
        u64::try_from(instant.as_millisecond()).ok()
    });
    instant.ok_or_else(|| format!("{time:?} is neither RFC 3339 nor Unix milliseconds"))
}

/// `start`, `end`, an offset, `pos=POSITION`, or `@TIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromArg {
    Start,
    End,
    Offset(u64),
    Position(u64),
    Time(u64),
}

impl FromStr for FromArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => return Ok(Self::Start),
            "end" => return Ok(Self::End),
            _ => {}
        }
        if let Some(time) = text.strip_prefix('@') {
            return instant(time).map(Self::Time);
        }
        let number = |text: &str| text.parse::<u64>().ok();
        match text.strip_prefix("pos=") {
            Some(position) => number(position).map(Self::Position),
            None => number(text).map(Self::Offset),
        }
        .ok_or_else(|| format!("{text:?} is none of start, end, an offset, pos=POSITION, @TIME"))
    }
}

impl FromArg {
    /// As a request has it; a number is a position when the whole hub is read.
    pub(super) fn request(self, whole_hub: bool) -> From {
        match self {
            Self::Start => From::Start(Start {}),
            Self::End => From::End(End {}),
            Self::Offset(n) if whole_hub => From::Position(n),
            Self::Offset(n) => From::Offset(n),
            Self::Position(n) => From::Position(n),
            Self::Time(n) => From::TimeMs(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, from) in [
            ("start", FromArg::Start),
            ("17", FromArg::Offset(17)),
            ("pos=18", FromArg::Position(18)),
            ("@1000", FromArg::Time(1000)),
            ("@1970-01-01T00:00:01Z", FromArg::Time(1000)),
        ] {
            assert_eq!(text.parse(), Ok(from));
        }
        for text in ["", "-1", "@noon", "pos=", "begin"] {
            assert!(text.parse::<FromArg>().is_err(), "{text}");
        }
        assert_eq!("at-least=7".parse(), Ok(ConsistencyArg::AtLeast(7)));
        assert!("eventual".parse::<ConsistencyArg>().is_err());
    }
}
