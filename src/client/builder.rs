//! Building events.

use bytes::Bytes;

use crate::proto::v1::Event;

/// Builds an event; its id is a new UUID unless one is given.
#[derive(Clone, Debug)]
pub struct EventBuilder(Event);

impl EventBuilder {
    /// An event with what every event must have.
    #[must_use]
    pub fn new(source: impl Into<String>, kind: impl Into<String>) -> Self {
        Self(Event {
            id: uuid::Uuid::now_v7().to_string(),
            source: source.into(),
            r#type: kind.into(),
            ..Event::default()
        })
    }

    /// Its id; unique with its source.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// The entity that it belongs to.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = key.into();
        self
    }

    /// Its payload.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.0.data = data.into();
        self
    }

    /// The media type of its payload.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
        self.0.datacontenttype = media_type.into();
        self
    }

    /// The event.
    #[must_use]
    pub fn build(self) -> Event {
        self.0
    }
}
