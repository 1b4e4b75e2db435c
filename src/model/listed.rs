//! Telling of many things in one refusal: as much as there is room for, and how many more there are.

use super::limits::REFUSAL_BYTES_MAX;

/// Texts one after the other, as far as there is room for them; how many more there are is told, and returned.
#[must_use]
pub fn joined<T: AsRef<str>>(each: impl IntoIterator<Item = T>) -> (String, usize) {
    let (mut text, mut left) = (String::new(), 0_usize);
    for one in each {
        let one = one.as_ref();
        if left > 0 || (!text.is_empty() && text.len() + one.len() > REFUSAL_BYTES_MAX) {
            left += 1;
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&clipped(one, REFUSAL_BYTES_MAX));
    }
    if left > 0 {
        text.push_str(&format!("; and {left} more"));
    }
    (text, left)
}

/// Ascending numbers in short: `0-3,7`.
#[must_use]
pub fn numbers(ascending: impl IntoIterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in ascending {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// A text, or its beginning within so many bytes and `…`.
#[must_use]
pub fn clipped(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8()));
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        assert_eq!(joined::<&str>([]), (String::new(), 0));
        assert_eq!(joined(["one", "two"]), ("one; two".to_owned(), 0));
        let half = "x".repeat(REFUSAL_BYTES_MAX / 2 - 2);
        let told = joined([half.as_str(), &half, &half, "short"]);
        assert_eq!(told, (format!("{half}; {half}; and 2 more"), 2));
        // The first one is told in any case, as far as possible.
        let (told, left) = joined(["ä".repeat(REFUSAL_BYTES_MAX), "two".to_owned()]);
        assert_eq!(left, 1);
        assert!(told.len() <= REFUSAL_BYTES_MAX + "; and 1 more".len(), "{}", told.len());
        assert!(told.starts_with("äää") && told.ends_with("ä…; and 1 more"), "{told}");
    }

    #[test]
    fn numbers_are_told_by_runs() {
        for (all, told) in [
            (&[][..], ""),
            (&[7], "7"),
            (&[0, 1, 2, 3, 7], "0-3,7"),
            (&[1, 3, 4, 9, 10, 11], "1,3-4,9-11"),
        ] {
            assert_eq!(numbers(all.iter().copied()), told);
        }
        assert_eq!(numbers(0..500), "0-499");
    }
}
