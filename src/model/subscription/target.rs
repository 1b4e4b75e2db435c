//! Where the hub itself delivers a subscription's events to.

use super::{known, within};
use crate::model::limits::{TARGET_PATH_BYTES_MAX, TARGET_TIMEOUT_MS};
use crate::model::quota::check_service;
use crate::model::rejection::Rejection;

/// How an event is handed to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TargetFormat {
    /// An HTTP request, with the event's attributes in headers.
    HttpBinary = 0,
    /// An HTTP request, with the event as JSON.
    HttpStructured = 1,
    /// A call of `messagehub.v1.Handler/Handle`.
    Grpc = 2,
}

impl TargetFormat {
    /// The protocol of the address that it is sent to.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::HttpBinary | Self::HttpStructured => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// A service whose instances get a subscription's events.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Target {
    /// The service; it need not exist yet.
    #[prost(string, tag = "1")]
    pub service: String,
    /// How they are handed over.
    #[prost(enumeration = "TargetFormat", tag = "2")]
    pub format: i32,
    /// The path of requests.
    #[prost(string, tag = "3")]
    pub path: String,
    /// How long an answer may take, milliseconds.
    #[prost(uint64, tag = "4")]
    pub timeout_ms: u64,
    /// An answer that blames the request is tried again instead of rejecting the event.
    #[prost(bool, tag = "5")]
    pub retry_client_errors: bool,
}

impl Target {
    /// The settings of a target for which only the service was said.
    #[must_use]
    pub fn defaults(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            format: TargetFormat::HttpBinary as i32,
            path: "/".to_owned(),
            timeout_ms: 10_000,
            retry_client_errors: false,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// `INVALID_NAME` of the service, `INVALID_CONFIG`, naming the setting.
    pub(super) fn check(&self) -> Result<(), Rejection> {
        check_service(&self.service)?;
        known("target.format", TargetFormat::try_from(self.format).is_ok())?;
        let (min, max) = (*TARGET_TIMEOUT_MS.start(), *TARGET_TIMEOUT_MS.end());
        within("target.timeout_ms", self.timeout_ms, min, max)?;
        within("target.path", self.path.len() as u64, 1, TARGET_PATH_BYTES_MAX as u64)?;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'#');
        let sound = self.path.starts_with('/') && self.path.bytes().all(plain);
        if sound {
            return Ok(());
        }
        let why = format!("{:?} is no path of a URI like /events", self.path);
        Err(super::refuse("target.path", &why))
    }
}

/// Changes of a [`Target`]; an empty service ends it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TargetPatch {
    /// See [`Target`].
    #[prost(string, optional, tag = "1")]
    pub service: Option<String>,
    /// See [`Target`].
    #[prost(enumeration = "TargetFormat", optional, tag = "2")]
    pub format: Option<i32>,
    /// See [`Target`].
    #[prost(string, optional, tag = "3")]
    pub path: Option<String>,
    /// See [`Target`].
    #[prost(uint64, optional, tag = "4")]
    pub timeout_ms: Option<u64>,
    /// See [`Target`].
    #[prost(bool, optional, tag = "5")]
    pub retry_client_errors: Option<bool>,
}

impl TargetPatch {
    /// The target after this change; `None`: consumers pull.
    pub(super) fn onto(&self, old: Option<&Target>) -> Option<Target> {
        let mut new = old.cloned().unwrap_or_else(|| Target::defaults(""));
        if let Some(service) = &self.service {
            if service.is_empty() {
                return None;
            }
            new.service.clone_from(service);
        }
        new.format = self.format.unwrap_or(new.format);
        if let Some(path) = &self.path {
            new.path.clone_from(path);
        }
        new.timeout_ms = self.timeout_ms.unwrap_or(new.timeout_ms);
        new.retry_client_errors = self.retry_client_errors.unwrap_or(new.retry_client_errors);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rejection::Reason;

    #[test]
    fn every_range_is_checked() {
        assert_eq!(Target::defaults("billing").check(), Ok(()));
        for (change, reason) in [
            ((|t| t.service = "a b".into()) as fn(&mut Target), Reason::InvalidName),
            (|t| t.service = String::new(), Reason::InvalidName),
            (|t| t.format = 9, Reason::InvalidConfig),
            (|t| t.timeout_ms = 0, Reason::InvalidConfig),
            (|t| t.timeout_ms = u64::MAX, Reason::InvalidConfig),
            (|t| t.path = String::new(), Reason::InvalidConfig),
            (|t| t.path = "events".into(), Reason::InvalidConfig),
            (|t| t.path = "/a b".into(), Reason::InvalidConfig),
            (|t| t.path = "/a\r\nhost: x".into(), Reason::InvalidConfig),
            (|t| t.path = format!("/{}", "p".repeat(9999)), Reason::InvalidConfig),
        ] {
            let mut target = Target::defaults("billing");
            change(&mut target);
            assert_eq!(target.check().unwrap_err().reason, reason, "{target:?}");
        }
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let named = |service: &str| TargetPatch {
            service: Some(service.to_owned()),
            ..TargetPatch::default()
        };
        let target = named("billing").onto(None).unwrap();
        assert_eq!(target, Target::defaults("billing"));
        let slower = TargetPatch { timeout_ms: Some(7000), ..TargetPatch::default() };
        let changed = slower.onto(Some(&target)).unwrap();
        assert_eq!(changed, Target { timeout_ms: 7000, ..target });
        assert_eq!(named("").onto(Some(&changed)), None);
        // Without a service it is refused when it is checked.
        assert!(slower.onto(None).unwrap().check().is_err());
    }
}
