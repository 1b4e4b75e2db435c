//! Fault injection for Message Hub: real processes, real faults, histories judged by checkers.
//!
//! A run starts a cluster in a sandbox of its own ([`sandbox`], [`cluster`]), lets a [`workload`] use
//! it while [`nemesis`] breaks it, writes down everything that happened ([`history`]), and has it
//! judged ([`checker`]). The history alone decides: `check` judges a saved one again.

pub mod checker;
pub mod cluster;
pub mod delivered;
pub mod history;
pub mod matrix;
pub mod nemesis;
pub mod operation;
pub mod plant;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod tools;
pub mod workload;
