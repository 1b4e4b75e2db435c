//! Services, their instances, and what may be said of them.

mod instance;
mod service;

pub use self::instance::{
    Address, BreakerState, BreakerStatus, Health, InstanceInfo, InstanceSpec, Mode, Signal,
    Transition, check_instance_id,
};
pub use self::service::{
    BalancePolicy, BreakerPolicy, Check, CheckKind, Dependency, Failover, HealthPolicy,
    ServiceConfig, ServiceInfo,
};
use super::limits::VERSION_BYTES_MAX;
use super::rejection::{Reason, Rejection};

fn refuse(setting: &str, why: &str) -> Rejection {
    Rejection::new(Reason::InvalidConfig, format!("{setting} {why}; correct the setting"))
        .with("setting", setting)
}

fn within(
    setting: &str,
    value: u64,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<(), Rejection> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(refuse(setting, &format!("{value} is not in {}..={}", range.start(), range.end())))
}

fn known(setting: &str, known: bool) -> Result<(), Rejection> {
    if known { Ok(()) } else { Err(refuse(setting, "has a value that does not exist")) }
}

/// Whoever names a long version is not told all of it.
fn check_length(setting: &str, text: &str) -> Result<(), Rejection> {
    if text.len() <= VERSION_BYTES_MAX {
        return Ok(());
    }
    let bytes = text.len();
    Err(refuse(setting, &format!("has {bytes} bytes, {VERSION_BYTES_MAX} is the most")))
}

/// Checks a version of Semantic Versioning 2.0; empty: none is told.
fn check_version(setting: &str, version: &str) -> Result<(), Rejection> {
    check_length(setting, version)?;
    if version.is_empty() || semver::Version::parse(version).is_ok() {
        return Ok(());
    }
    Err(refuse(setting, &format!("{version:?} is no semantic version like 1.4.0")))
}

/// Whether a version meets a requirement. What tells no version meets only the empty requirement,
/// and what does not parse meets none; both were checked when they came in.
#[must_use]
pub fn meets(version: &str, requirement: &str) -> bool {
    if requirement.is_empty() {
        return true;
    }
    let requirement = semver::VersionReq::parse(requirement);
    let version = semver::Version::parse(version);
    requirement.ok().zip(version.ok()).is_some_and(|(wanted, version)| wanted.matches(&version))
}

/// Checks a requirement as Cargo has it: `^1.2`, `>=1.0, <2.0`; empty: any version.
///
/// # Errors
/// `INVALID_CONFIG`.
pub fn check_requirement(setting: &str, requirement: &str) -> Result<(), Rejection> {
    check_length(setting, requirement)?;
    if requirement.is_empty() || semver::VersionReq::parse(requirement).is_ok() {
        return Ok(());
    }
    Err(refuse(setting, &format!("{requirement:?} is no version requirement like ^1.4")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_requirements_are_bounded() {
        let long = |bytes: usize| format!("1.0.0-{}", "a".repeat(bytes - 6));
        for check in [check_version, check_requirement] {
            assert_eq!(check("version", &long(VERSION_BYTES_MAX)), Ok(()));
            let refused = check("version", &long(VERSION_BYTES_MAX + 1)).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidConfig);
            assert!(refused.to_string().len() < VERSION_BYTES_MAX, "{refused}");
        }
    }

    #[test]
    fn versions_meet_requirements() {
        for (version, requirement, wanted) in [
            ("1.4.2", "^1.4", true),
            ("2.0.0", "^1.4", false),
            ("1.5.0", ">=1.0, <1.5", false),
            ("", "", true),
            ("", "^1", false),
            ("0.1.0", "", true),
        ] {
            assert_eq!(meets(version, requirement), wanted, "{version} {requirement}");
        }
    }
}
