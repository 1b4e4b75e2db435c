//! The registry of schemas: subjects with versions, which may refer to each other.
//!
//! Whether a schema is one, and whether it is compatible with earlier ones, is judged by the proposer; here it
//! only is made sure that the subject is still what it was judged against.

pub(crate) mod judged;
pub mod query;
mod record;
pub(crate) mod register;
pub(crate) mod settings;
