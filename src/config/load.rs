//! Reading settings from file, environment and flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::settings::{Config, ROWS, Row};

/// The file that is read when none is named, if it is there.
const DEFAULT_FILE: &str = "mhub.toml";
/// Environment variables that belong to client commands and scripts, not to a node.
const NOT_SETTINGS: [&str; 8] = [
    "MHUB_ENDPOINT",
    "MHUB_OUTPUT",
    "MHUB_CONFIG",
    "MHUB_TIMEOUT",
    "MHUB_BIN",
    "MHUB_CACHE",
    "MHUB_YES",
    "MHUB_OWNER",
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where that came from.
    pub origin: Origin,
    /// What it means.
    pub help: &'static str,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such setting.
    #[error(
        "unknown setting {key} from {origin}; did you mean {nearest}? `mhub config show` lists all"
    )]
    Unknown {
        /// What was given.
        key: String,
        /// By whom.
        origin: Origin,
        /// A setting that there is.
        nearest: String,
    },
    /// Its value is wrong.
    #[error("setting {key} from {origin}: {why}")]
    Invalid {
        /// The setting.
        key: String,
        /// Who gave it.
        origin: Origin,
        /// What is wrong.
        why: String,
    },
    /// The file cannot be read.
    #[error("configuration file {0}: {1}")]
    File(PathBuf, String),
}

/// Settings from the command line: `section.key` → value.
pub type Overrides = BTreeMap<String, String>;

/// Puts the settings together; returns them with their origins.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &Overrides,
) -> Result<(Config, Vec<Setting>), ConfigError> {
    let mut given: BTreeMap<&'static str, (String, Origin)> = BTreeMap::new();
    for (key, value, origin) in from_file(file)? {
        given.insert(row(&key, &key, &origin)?.key, (value, origin));
    }
    for (name, value) in environment {
        let Some(key) = key_of_variable(&name) else { continue };
        let origin = Origin::Environment(name.clone());
        given.insert(row(&key, &name, &origin)?.key, (value, origin));
    }
    for (key, value) in flags {
        given.insert(row(key, key, &Origin::Flag)?.key, (value.clone(), Origin::Flag));
    }
    let mut config = Config::default();
    for row in ROWS {
        if let Some((value, origin)) = given.get(row.key) {
            (row.set)(&mut config, value).map_err(|why| ConfigError::Invalid {
                key: row.key.to_owned(),
                origin: origin.clone(),
                why,
            })?;
        }
    }
    let origin = |key: &str| given.get(key).map_or(Origin::Default, |(_, origin)| origin.clone());
    config.check().map_err(|(key, why)| ConfigError::Invalid {
        key: key.to_owned(),
        origin: origin(key),
        why,
    })?;
    let settings = ROWS.iter().map(|row| Setting {
        key: row.key,
        value: (row.show)(&config),
        origin: origin(row.key),
        help: row.help,
    });
    let settings = settings.collect();
    Ok((config, settings))
}

fn row(key: &str, given: &str, origin: &Origin) -> Result<&'static Row, ConfigError> {
    ROWS.iter().find(|row| row.key == key).ok_or_else(|| {
        let nearest =
            ROWS.iter().min_by_key(|row| distance(row.key, key)).map_or("", |row| row.key);
        ConfigError::Unknown {
            key: given.to_owned(),
            origin: origin.clone(),
            nearest: match origin {
                Origin::Environment(_) => {
                    format!("MHUB_{}", nearest.replace('.', "_").to_uppercase())
                }
                Origin::Default | Origin::File(_) | Origin::Flag => nearest.to_owned(),
            },
        }
    })
}

/// `MHUB_RAFT_HEARTBEAT_MS` → `raft.heartbeat_ms`; `None` for what is no setting of a node.
fn key_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix("MHUB_")?;
    if NOT_SETTINGS.contains(&name) || rest.starts_with("TEST_") {
        return None;
    }
    let lower = rest.to_lowercase();
    Some(lower.replacen('_', ".", 1))
}

fn from_file(named: Option<&Path>) -> Result<Vec<(String, String, Origin)>, ConfigError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    if named.is_none() && !path.exists() {
        return Ok(Vec::new());
    }
    let fail = |why: String| ConfigError::File(path.to_owned(), why);
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| fail(e.to_string()))?;
    let origin = Origin::File(path.to_owned());
    let mut found = Vec::new();
    for (section, value) in table {
        let toml::Value::Table(keys) = value else {
            return Err(fail(format!("{section} stands outside of a [section]")));
        };
        for (key, value) in keys {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                other => return Err(fail(format!("{section}.{key} is a {}", other.type_str()))),
            };
            found.push((format!("{section}.{key}"), text, origin.clone()));
        }
    }
    Ok(found)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<(Config, Vec<Setting>), ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = file.map(|text| {
            let path = dir.path().join("mhub.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let flags = own(flags).into_iter().collect();
        load(path.as_deref(), own(environment).into_iter(), &flags)
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[raft]\nheartbeat_ms = 100\nelection_min_ms = 500\n[log]\nformat = \"json\"\n";
        let environment = [("MHUB_RAFT_HEARTBEAT_MS", "110"), ("MHUB_NODE_ID", "7"), ("PATH", "x")];
        let (config, settings) = loaded(Some(file), &environment, &[("node.id", "9")]).unwrap();
        assert_eq!((config.raft.heartbeat_ms, config.raft.election_min_ms), (110, 500));
        assert_eq!((config.node.id, config.log.format), (Some(9), super::super::LogFormat::Json));
        let origin = |key: &str| settings.iter().find(|s| s.key == key).unwrap().origin.to_string();
        assert_eq!(origin("node.id"), "flag");
        assert_eq!(origin("raft.heartbeat_ms"), "environment MHUB_RAFT_HEARTBEAT_MS");
        assert!(origin("log.format").starts_with("file "));
        assert_eq!(origin("listen.client"), "default");
        assert_eq!(settings.len(), ROWS.len());
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        let error = loaded(Some("[raft]\nheartbeat = 1\n"), &[], &[]).unwrap_err().to_string();
        assert!(error.contains("raft.heartbeat_ms"), "{error}");
        let error = loaded(None, &[("MHUB_LISTEN_CLIENTS", "1")], &[]).unwrap_err().to_string();
        assert!(error.contains("MHUB_LISTEN_CLIENT"), "{error}");
        assert!(loaded(None, &[("MHUB_ENDPOINT", "x"), ("MHUB_TEST_ROUNDS", "1")], &[]).is_ok());
    }

    #[test]
    fn values_are_checked() {
        let long = "z".repeat(999);
        for (key, value) in [
            ("raft.heartbeat_ms", "soon"),
            ("raft.election_min_ms", "300"),
            ("raft.election_max_ms", "800"),
            ("node.id", "0"),
            ("node.zone", long.as_str()),
            ("listen.client", "7400"),
            ("listen.client", "0.0.0.0:7400"),
            ("log.format", "xml"),
            ("storage.compression", "zip"),
            ("trace.otlp_endpoint", "https://127.0.0.1:4317"),
            ("trace.otlp_endpoint", "HTTPS://collector"),
            ("trace.otlp_endpoint", "127.0.0.1:4317"),
            ("trace.otlp_endpoint", "grpc://127.0.0.1:4317"),
            ("trace.otlp_endpoint", "http://:4317"),
            ("trace.otlp_endpoint", "http://collector:otlp"),
        ] {
            let error = loaded(None, &[], &[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let open = [("listen.client", "0.0.0.0:7400"), ("listen.insecure", "true")];
        assert!(loaded(None, &[], &open).is_ok());
        for collector in
            ["http://127.0.0.1:4317", "http://[::1]:4317/", "HTTP://collector", "http://[::1]"]
        {
            loaded(None, &[], &[("trace.otlp_endpoint", collector)]).unwrap();
        }
        let error = loaded(None, &[("MHUB_TRACE_OTLP_ENDPOINT", "https://x:4317")], &[]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("MHUB_TRACE_OTLP_ENDPOINT") && error.contains("TLS"), "{error}");
    }

    #[test]
    fn defaults_read_back() {
        let (config, settings) = loaded(None, &[], &[]).unwrap();
        let flags: Vec<_> = settings.iter().map(|s| (s.key, s.value.as_str())).collect();
        assert_eq!(loaded(None, &[], &flags).unwrap().0, config);
    }
}
