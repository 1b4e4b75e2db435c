//! Values that several commands take: durations and switches.

/// The units of a duration, the largest first, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration like 500ms, 30s, 5m, 12h or 14d, in milliseconds.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration like 500ms, 30s, 5m, 12h or 14d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.parse().ok().and_then(|n: u64| n.checked_mul(*scale)).ok_or_else(wrong)
}

/// Milliseconds in the largest unit that they are a whole number of.
pub(super) fn format_duration(ms: u64) -> String {
    let whole = |scale: u64| ms > 0 && ms.is_multiple_of(scale);
    let (unit, scale) = UNITS.iter().find(|(_, scale)| whole(*scale)).unwrap_or(&("s", 1000));
    format!("{}{unit}", ms / scale)
}

/// How long ago something was: in whole seconds from one second on.
pub(super) fn format_age(ms: u64) -> String {
    if ms < 1000 { format_duration(ms) } else { format!("{}s", ms / 1000) }
}

/// `on` or `off`.
pub(super) fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("use on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_come_back_as_they_were_written() {
        for (text, ms) in
            [("0s", 0), ("500ms", 500), ("90s", 90_000), ("2m", 120_000), ("14d", 1_209_600_000)]
        {
            assert_eq!((duration(text), format_duration(ms)), (Ok(ms), text.to_owned()));
        }
        assert_eq!([0, 70, 1999, 3_600_000].map(format_age), ["0s", "70ms", "1s", "3600s"]);
        for text in ["", "5", "s", "-1s", "1.5s", "1w", "99999999999999999999d", "1 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
