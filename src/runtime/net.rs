//! Sockets between nodes.

pub use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};

/// A connection that is made when it is first needed, and made anew when it breaks.
#[must_use]
pub fn channel(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}
