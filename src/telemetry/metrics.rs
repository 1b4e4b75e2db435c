//! Gauges that parts of the node keep up to date themselves.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Connections on the client port.
#[derive(Debug, Default)]
pub struct Connections {
    /// Open now.
    pub open: Gauge,
    /// Refused because too many were open.
    pub refused: Counter,
}
