//! The Rust client: it finds the leader, follows it, and repeats what is safe to repeat.
//!
//! ```no_run
//! # async fn example() -> Result<(), message_hub::model::rejection::Rejection> {
//! use message_hub::client::{Client, EventBuilder};
//!
//! let client = Client::new(["127.0.0.1:7400"])?;
//! let publisher = client.publisher();
//! let event = EventBuilder::new("/shop", "order.created").key("order-42").data("{}").build();
//! let receipt = publisher.publish("orders", event).await?;
//! println!("offset {}", receipt.offset);
//! # Ok(()) }
//! ```

pub mod filter_json;

mod admin;
mod builder;
mod causes;
mod consumer;
mod endpoints;
mod exchange;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_services;
#[cfg(test)]
mod fake_transactions;
mod probes;
mod publisher;
mod reader;
mod renewing;
mod replay;
mod resolver;
mod retry;
mod services;
mod spawn;
mod watching;

use std::sync::Arc;
use std::time::Duration;

pub use self::builder::EventBuilder;
pub use self::causes::{Branch, causes};
pub use self::consumer::{Consumer, ConsumerOptions, DeliveredEvent, Delivery, Settling};
pub use self::publisher::{Pending, Publisher, Receipt, receipts};
pub use self::reader::{ReadPart, Reader};
pub use self::replay::{Cursor, Pace, Replay, ReplayOptions, Selection, Until};
pub use self::resolver::{Chosen, Resolver, ResolverOptions};
pub use self::services::{ServiceHandle, ServiceNews};
pub use self::watching::{ServiceWatch, Watched};
pub use crate::proto::batch::recorded_events;
pub use crate::proto::cloudevents;

use self::endpoints::Endpoints;
use self::exchange::Exchange;
use crate::model::quota::check_service;
use crate::model::rejection::Rejection;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long a call may take, repetitions included. Default 10 s.
    pub timeout: Duration,
    /// For a connection to a node. Default 2 s.
    pub connect_timeout: Duration,
    /// How long one node may stay silent before a call that is safe to repeat goes to another one.
    /// Default 3 s.
    pub attempt_timeout: Duration,
    /// Joined calls that one publisher keeps on their way. More of them are smaller ones. Default 4.
    pub joined_calls_max: usize,
    /// Stay with the given endpoints: do not follow the hub to its leader, and do not wait for
    /// nodes that cannot be reached. For questions that are about one node.
    pub pinned: bool,
    /// The service whose quotas publishing counts for; empty: the hub's `default`.
    pub service: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(3),
            joined_calls_max: 4,
            pinned: false,
            service: String::new(),
        }
    }
}

/// A client of a hub. Clones share their connections, and the stream that their transactions go over.
#[derive(Clone, Debug)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    exchange: Arc<Exchange>,
}

impl Client {
    /// A client of the nodes at these endpoints, HOST:PORT each. Connects when first
    /// used. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when there is no endpoint, or one is malformed; `INVALID_NAME` for a
    /// service that cannot be.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Result<Self, Rejection> {
        Self::with_options(endpoints, ClientOptions::default())
    }

    /// The same, with options.
    ///
    /// # Errors
    /// See [`Client::new`].
    pub fn with_options<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: ClientOptions,
    ) -> Result<Self, Rejection> {
        if !options.service.is_empty() {
            check_service(&options.service)?;
        }
        let given: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let endpoints = Arc::new(Endpoints::new(&given, options)?);
        Ok(Self { endpoints, exchange: Arc::default() })
    }

    /// A publisher with a stream of its own. Clones of it share that stream.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::start(Arc::clone(&self.endpoints))
    }
}
