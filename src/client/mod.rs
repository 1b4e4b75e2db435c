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

pub mod cloudevents;

mod admin;
mod builder;
mod link;
mod publisher;
mod publisher_task;
mod reader;
mod spawn;

use std::sync::Arc;
use std::time::Duration;

pub use self::builder::EventBuilder;
pub use self::link::Repeat;
pub use self::publisher::{Publisher, Receipt, receipts};
pub use self::reader::{ReadPart, Reader};

use self::link::Link;
use crate::model::rejection::Rejection;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long a call may take, repetitions included. Default 10 s.
    pub timeout: Duration,
    /// For a connection to a node. Default 2 s.
    pub connect_timeout: Duration,
    /// Stay with the given endpoints: do not follow the hub to its leader. For questions that are
    /// about one node.
    pub pinned: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            pinned: false,
        }
    }
}

/// A client of a hub. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
}

impl Client {
    /// A client of the nodes at these endpoints, HOST:PORT each. Connects when first used.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when there is no endpoint, or one is malformed.
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
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Ok(Self { link: Arc::new(Link::new(endpoints, options)?) })
    }

    /// A publisher with a stream of its own. Clones of it share that stream.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::start(Arc::clone(&self.link))
    }
}
