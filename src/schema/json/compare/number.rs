//! Numbers of schemas, compared exactly.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// A number: whole ones as such, also when they are written with a fraction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Num {
    /// A whole number below 10^38, up or down.
    Int(i128),
    /// Any other.
    Float(f64),
}

/// A bound from below or from above.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Where it lies.
    pub(super) at: Num,
    /// The number itself is excluded.
    pub(super) exclusive: bool,
}

/// Whole `f64` below this are `i128` exactly; all that are not whole are far below it.
const INT_BELOW: f64 = 1e38;

impl Num {
    /// The number that a schema or a payload has.
    pub(super) fn of(number: &Number) -> Self {
        if let Some(int) = number.as_i64() {
            return Self::Int(i128::from(int));
        }
        if let Some(int) = number.as_u64() {
            return Self::Int(i128::from(int));
        }
        Self::from_f64(number.as_f64().unwrap_or(f64::NAN))
    }

    /// The number under a keyword.
    pub(super) fn under(own: &serde_json::Map<String, Value>, keyword: &str) -> Option<Self> {
        own.get(keyword)?.as_number().map(Self::of)
    }

    fn from_f64(float: f64) -> Self {
        if float.fract() == 0.0 && float.abs() < INT_BELOW {
            #[expect(clippy::cast_possible_truncation, reason = "a whole number within i128")]
            return Self::Int(float as i128);
        }
        Self::Float(float)
    }

    /// A text that equal numbers share, and no others.
    pub(super) fn key(self) -> String {
        match self {
            Self::Int(int) => int.to_string(),
            Self::Float(float) => format!("{float:e}"),
        }
    }

    /// Whether it is whole. JSON Schema counts 1.0 as an integer.
    pub(super) fn is_whole(self) -> bool {
        match self {
            Self::Int(_) => true,
            Self::Float(float) => float.fract() == 0.0,
        }
    }

    /// The order of numbers; `None` for what is no number.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => compare_int(a, b),
            (Self::Float(a), Self::Int(b)) => compare_int(b, a).map(Ordering::reverse),
        }
    }

    /// Whether every multiple of `self` is one of `other`; only where that is certain.
    pub(super) fn is_multiple_of(self, other: Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => b != 0 && a % b == 0,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }
}

fn compare_int(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= INT_BELOW {
        return Some(Ordering::Less);
    }
    if float <= -INT_BELOW {
        return Some(Ordering::Greater);
    }
    #[expect(clippy::cast_possible_truncation, reason = "it was found to be in range")]
    let below = float.floor() as i128;
    let order = int.cmp(&below);
    // Equal to the whole part below a fraction is still less.
    Some(if order == Ordering::Equal && float.fract() != 0.0 { Ordering::Less } else { order })
}

impl Limit {
    /// Of two bounds from below the one that leaves less.
    pub(super) fn higher(self, other: Self) -> Self {
        match self.at.compare(other.at) {
            Some(Ordering::Greater) => self,
            Some(Ordering::Equal) if self.exclusive => self,
            _ => other,
        }
    }

    /// Of two bounds from above the one that leaves less.
    pub(super) fn lower(self, other: Self) -> Self {
        match self.at.compare(other.at) {
            Some(Ordering::Less) => self,
            Some(Ordering::Equal) if self.exclusive => self,
            _ => other,
        }
    }

    /// Whether a number is not below this bound.
    pub(super) fn admits_above(self, number: Num) -> Option<bool> {
        let order = number.compare(self.at)?;
        Some(order == Ordering::Greater || (order == Ordering::Equal && !self.exclusive))
    }

    /// Whether a number is not above this bound.
    pub(super) fn admits_below(self, number: Num) -> Option<bool> {
        let order = number.compare(self.at)?;
        Some(order == Ordering::Less || (order == Ordering::Equal && !self.exclusive))
    }

    /// Whether all that is not below `self` is not below `other`.
    pub(super) fn implies_above(self, other: Self) -> bool {
        match self.at.compare(other.at) {
            Some(Ordering::Greater) => true,
            Some(Ordering::Equal) => self.exclusive || !other.exclusive,
            _ => false,
        }
    }

    /// Whether all that is not above `self` is not above `other`.
    pub(super) fn implies_below(self, other: Self) -> bool {
        match self.at.compare(other.at) {
            Some(Ordering::Less) => true,
            Some(Ordering::Equal) => self.exclusive || !other.exclusive,
            _ => false,
        }
    }

    /// As a bound from below for whole numbers alone: the least of them, included.
    pub(super) fn whole_above(self) -> Self {
        let at = match self.at {
            Num::Int(int) => Num::Int(int.saturating_add(i128::from(self.exclusive))),
            Num::Float(float) if float.abs() < INT_BELOW => Num::from_f64(float.ceil()),
            Num::Float(_) => return self,
        };
        Self { at, exclusive: false }
    }

    /// As a bound from above for whole numbers alone: the greatest of them, included.
    pub(super) fn whole_below(self) -> Self {
        let at = match self.at {
            Num::Int(int) => Num::Int(int.saturating_sub(i128::from(self.exclusive))),
            Num::Float(float) if float.abs() < INT_BELOW => Num::from_f64(float.floor()),
            Num::Float(_) => return self,
        };
        Self { at, exclusive: false }
    }
}
