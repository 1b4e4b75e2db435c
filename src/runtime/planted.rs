//! Plants the bug that the environment names. Not part of a release build.

use crate::model::planted::{ALL, Bug, plant};

/// Names the bug to plant.
pub const VARIABLE: &str = "MHUB_TEST_PLANT";

/// Plants what [`VARIABLE`] names, if anything.
///
/// # Errors
/// When there is no bug of that name.
pub fn arm() -> Result<(), String> {
    let Ok(name) = std::env::var(VARIABLE) else { return Ok(()) };
    match Bug::parse(&name) {
        Some(bug) => {
            plant(bug);
            Ok(())
        }
        None => {
            let known: Vec<&str> = ALL.iter().map(|(name, _, _)| *name).collect();
            Err(format!("{VARIABLE}={name} is no planted bug; take one of {}", known.join(", ")))
        }
    }
}
