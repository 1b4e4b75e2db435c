//! Clock, tasks, shutdown and faults, files and sockets: the few things that every running part
//! needs from the system.
//!
//! With the feature `sim` all that depends on the system comes from a simulated one.

pub mod fatal;
#[cfg(feature = "planted")]
pub mod planted;
pub mod shutdown;

#[cfg(not(feature = "sim"))]
pub mod clock;
#[cfg(not(feature = "sim"))]
pub mod fs;
#[cfg(not(feature = "sim"))]
pub mod net;
#[cfg(not(feature = "sim"))]
pub mod tasks;
#[cfg(not(feature = "sim"))]
pub mod worker;
#[cfg(all(feature = "failpoints", not(feature = "sim")))]
mod wrong_clock;

#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "sim")]
pub use self::sim::{clock, fs, net, tasks, worker};
