//! A topic's settings.

use std::collections::BTreeMap;

use super::limits::{
    DEDUP_WINDOW_MS_MAX, DEDUP_WINDOW_MS_MIN, DESCRIPTION_BYTES_MAX, EVENT_BYTES_MAX,
    LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX,
};
use super::rejection::{Reason, Rejection};
use super::schema_rule::{SchemaMode, SchemaRule};

/// Every setting of a topic, resolved. Meanings, units and ranges are those of
/// `messagehub.v1.TopicConfig`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicConfig {
    /// Largest encoded event, bytes.
    #[prost(uint64, tag = "1")]
    pub max_event_bytes: u64,
    /// Milliseconds; 0: forever.
    #[prost(uint64, tag = "2")]
    pub retention_age_ms: u64,
    /// Bytes; 0: no bound.
    #[prost(uint64, tag = "3")]
    pub retention_bytes: u64,
    /// Events; 0: no bound.
    #[prost(uint64, tag = "4")]
    pub retention_count: u64,
    /// Milliseconds; 0: off.
    #[prost(uint64, tag = "5")]
    pub dedup_window_ms: u64,
    /// Keep an index by event id.
    #[prost(bool, tag = "6")]
    pub index_ids: bool,
    /// Free text.
    #[prost(string, tag = "7")]
    pub description: String,
    /// Free labels.
    #[prost(btree_map = "string, string", tag = "8")]
    pub labels: BTreeMap<String, String>,
    /// What schemas say of its events; absent: nothing.
    #[prost(message, optional, tag = "9")]
    pub schema: Option<SchemaRule>,
}

impl TopicConfig {
    /// The settings of a topic for which nothing was said.
    #[must_use]
    pub fn defaults() -> Self {
        Self { max_event_bytes: EVENT_BYTES_MAX, ..Self::default() }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// `INVALID_CONFIG`, naming the setting.
    pub fn check(&self) -> Result<(), Rejection> {
        if self.max_event_bytes == 0 || self.max_event_bytes > EVENT_BYTES_MAX {
            return Err(refuse(
                "max_event_bytes",
                format!("{} is not in 1..={EVENT_BYTES_MAX}", self.max_event_bytes),
            ));
        }
        let window = self.dedup_window_ms;
        if window != 0 && !(DEDUP_WINDOW_MS_MIN..=DEDUP_WINDOW_MS_MAX).contains(&window) {
            return Err(refuse(
                "dedup_window_ms",
                format!(
                    "{window} is neither 0 nor in {DEDUP_WINDOW_MS_MIN}..={DEDUP_WINDOW_MS_MAX}"
                ),
            ));
        }
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(refuse(
                "description",
                format!("is longer than {DESCRIPTION_BYTES_MAX} bytes"),
            ));
        }
        if let Some(rule) = &self.schema {
            rule.check().map_err(|why| refuse("schema", why))?;
        }
        check_labels(&self.labels)
    }
}

/// Checks labels.
///
/// # Errors
/// `INVALID_CONFIG`.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Rejection> {
    if labels.len() > LABELS_MAX {
        return Err(refuse("labels", format!("are more than {LABELS_MAX}")));
    }
    for (name, value) in labels {
        if name.is_empty() || name.len() > LABEL_NAME_BYTES_MAX {
            return Err(refuse(
                "labels",
                format!("have a name that is not 1 to {LABEL_NAME_BYTES_MAX} bytes long: {name:?}"),
            ));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(refuse(
                "labels",
                format!("have a value of more than {LABEL_VALUE_BYTES_MAX} bytes: {name:?}"),
            ));
        }
    }
    Ok(())
}

fn refuse(setting: &str, why: String) -> Rejection {
    Rejection::new(Reason::InvalidConfig, format!("{setting} {why}; correct the setting"))
        .with("setting", setting)
}

/// Settings to change; absent ones stay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicPatch {
    /// See [`TopicConfig`].
    #[prost(uint64, optional, tag = "1")]
    pub max_event_bytes: Option<u64>,
    /// See [`TopicConfig`].
    #[prost(uint64, optional, tag = "2")]
    pub retention_age_ms: Option<u64>,
    /// See [`TopicConfig`].
    #[prost(uint64, optional, tag = "3")]
    pub retention_bytes: Option<u64>,
    /// See [`TopicConfig`].
    #[prost(uint64, optional, tag = "4")]
    pub retention_count: Option<u64>,
    /// See [`TopicConfig`].
    #[prost(uint64, optional, tag = "5")]
    pub dedup_window_ms: Option<u64>,
    /// See [`TopicConfig`].
    #[prost(bool, optional, tag = "6")]
    pub index_ids: Option<bool>,
    /// See [`TopicConfig`].
    #[prost(string, optional, tag = "7")]
    pub description: Option<String>,
    /// The labels that replace the old ones, when `replace_labels`.
    #[prost(btree_map = "string, string", tag = "8")]
    pub labels: BTreeMap<String, String>,
    /// Whether `labels` counts.
    #[prost(bool, tag = "9")]
    pub replace_labels: bool,
    /// The rule that replaces the old one as a whole.
    #[prost(message, optional, tag = "10")]
    pub schema: Option<SchemaRule>,
}

impl TopicPatch {
    /// The settings after this change.
    #[must_use]
    pub fn onto(&self, old: &TopicConfig) -> TopicConfig {
        TopicConfig {
            max_event_bytes: self.max_event_bytes.unwrap_or(old.max_event_bytes),
            retention_age_ms: self.retention_age_ms.unwrap_or(old.retention_age_ms),
            retention_bytes: self.retention_bytes.unwrap_or(old.retention_bytes),
            retention_count: self.retention_count.unwrap_or(old.retention_count),
            dedup_window_ms: self.dedup_window_ms.unwrap_or(old.dedup_window_ms),
            index_ids: self.index_ids.unwrap_or(old.index_ids),
            description: self.description.clone().unwrap_or_else(|| old.description.clone()),
            labels: if self.replace_labels { self.labels.clone() } else { old.labels.clone() },
            schema: match &self.schema {
                None => old.schema.clone(),
                Some(rule) => Some(rule.clone()).filter(|rule| rule.mode != SchemaMode::Off as i32),
            },
        }
    }
}
