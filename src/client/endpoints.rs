//! The nodes that a client knows, and which of them leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::ClientOptions;
use crate::model::limits::{ANSWER_HEADERS_BYTES_MAX, ENDPOINTS_MAX};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::SERVICE_METADATA;

/// `HOST:PORT` of a node's client port.
pub(crate) type Address = Arc<str>;

/// A node to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) channel: Channel,
}

/// The nodes that a client knows. Channels connect when they are first used, and again after a
/// failure.
#[derive(Debug)]
pub(crate) struct Endpoints {
    options: ClientOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As the caller gave them; never empty.
    given: Vec<Address>,
    /// Given and learned ones.
    channels: BTreeMap<Address, Channel>,
    leader: Option<Address>,
    /// Index into `given` where the search for the leader goes on.
    toward_leader: usize,
    /// Index into `given` that reads go to.
    reader: usize,
}

impl Endpoints {
    /// # Errors
    /// `INVALID_REQUEST` when no endpoint is given, or one is not `HOST:PORT`.
    pub(crate) fn new(given: &[String], options: ClientOptions) -> Result<Self, Rejection> {
        let mut addresses: Vec<Address> = Vec::new();
        let mut channels = BTreeMap::new();
        for text in given.iter().flat_map(|list| list.split(',')) {
            if addresses.len() == ENDPOINTS_MAX {
                return Err(refuse(
                    text,
                    &format!("is one too many; give at most {ENDPOINTS_MAX}"),
                ));
            }
            let address = parse(text)?;
            channels.insert(address.clone(), open(&address, &options)?);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(refuse("", "is missing; give HOST:PORT of a node with --endpoint"));
        }
        let state = State { given: addresses, channels, leader: None, toward_leader: 0, reader: 0 };
        Ok(Self { options, state: Mutex::new(state) })
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Says in a request which service the client belongs to.
    pub(crate) fn declare_service<T>(&self, request: &mut tonic::Request<T>) {
        // The name was checked: it is plain text, so it can be sent.
        if let Ok(service) = self.options.service.parse()
            && !self.options.service.is_empty()
        {
            request.metadata_mut().insert(SERVICE_METADATA, service);
        }
    }

    /// How many endpoints the caller gave.
    pub(crate) fn given(&self) -> usize {
        self.lock().given.len()
    }

    /// The leader when it is known, else the endpoint whose turn it is to be asked.
    pub(crate) fn toward_leader(&self) -> Result<Target, Rejection> {
        let state = self.lock();
        let turn = &state.given[state.toward_leader % state.given.len()];
        let address = state.leader.as_ref().unwrap_or(turn).clone();
        self.target(state, address)
    }

    /// The endpoint that serves reads: the first given one until it fails.
    pub(crate) fn reader(&self) -> Result<Target, Rejection> {
        let state = self.lock();
        let address = state.given[state.reader % state.given.len()].clone();
        self.target(state, address)
    }

    /// Remembers that this node answered as the leader.
    pub(crate) fn leads(&self, address: &Address) {
        let mut state = self.lock();
        if state.leader.as_ref() != Some(address) {
            state.leader = Some(address.clone());
        }
    }

    /// Follows a node's hint, unless the caller wants the given endpoints and no others.
    pub(crate) fn redirect(&self, hint: &str) {
        let Ok(address) = parse(hint) else { return };
        if !self.options.pinned {
            self.lock().leader = Some(address);
        }
    }

    /// A node failed: the next one gets its turn.
    pub(crate) fn pass_over(&self, address: &Address) {
        self.not_leader(address);
        let mut state = self.lock();
        let count = state.given.len();
        if state.given[state.reader % count] == *address {
            state.reader = (state.reader + 1) % count;
        }
    }

    /// A node does not lead: the search for the leader goes on at the next one.
    pub(crate) fn not_leader(&self, address: &Address) {
        let mut state = self.lock();
        if state.leader.as_ref() == Some(address) {
            state.leader = None;
        }
        let count = state.given.len();
        if state.given[state.toward_leader % count] == *address {
            state.toward_leader = (state.toward_leader + 1) % count;
        }
    }

    fn target(
        &self,
        mut state: MutexGuard<'_, State>,
        address: Address,
    ) -> Result<Target, Rejection> {
        if let Some(channel) = state.channels.get(&address) {
            return Ok(Target { address, channel: channel.clone() });
        }
        if state.channels.len() >= 2 * ENDPOINTS_MAX {
            // Learned addresses of nodes long gone; given ones stay.
            let given = state.given.clone();
            state.channels.retain(|known, _| given.contains(known));
        }
        let channel = open(&address, &self.options)?;
        state.channels.insert(address.clone(), channel.clone());
        Ok(Target { address, channel })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(endpoint: &str, why: &str) -> Rejection {
    Rejection::new(Reason::InvalidRequest, format!("endpoint {endpoint:?} {why}"))
        .with("endpoint", endpoint)
}

/// `HOST:PORT`, with or without `http://`.
fn parse(text: &str) -> Result<Address, Rejection> {
    let text = text.trim();
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let well_formed = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !address.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !well_formed {
        return Err(refuse(text, "is not HOST:PORT; write it like 127.0.0.1:7400"));
    }
    Ok(address.into())
}

fn open(address: &Address, options: &ClientOptions) -> Result<Channel, Rejection> {
    /// Frames as large as a joined call: fewer headers and wake-ups.
    const FRAME_BYTES: u32 = 256 << 10;
    const STREAM_WINDOW_BYTES: u32 = 4 << 20;
    const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| refuse(address, &format!("is not HOST:PORT ({error}); correct it")))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_max_header_list_size(ANSWER_HEADERS_BYTES_MAX)
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["localhost:7400", "http://127.0.0.1:1/", "[::1]:7400", " a.b:65535 "] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", ":7400", "a:0", "a:65536", "a:b", "https://a:1/x", "a/b:1"] {
            assert_eq!(parse(bad).unwrap_err().reason, Reason::InvalidRequest, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_turn_goes_round_and_hints_come_first() {
        let given = ["a:1,b:1".to_owned(), "c:1".to_owned()];
        let endpoints = Endpoints::new(&given, ClientOptions::default()).unwrap();
        let at = || endpoints.toward_leader().unwrap().address;
        assert_eq!(&*at(), "a:1");
        endpoints.pass_over(&at());
        assert_eq!(&*at(), "b:1");
        assert_eq!(&*endpoints.reader().unwrap().address, "b:1");
        endpoints.redirect("d:1");
        assert_eq!(&*at(), "d:1");
        endpoints.pass_over(&at());
        assert_eq!(&*at(), "b:1");
        endpoints.pass_over(&at());
        endpoints.pass_over(&at());
        assert_eq!(&*at(), "a:1");
        assert!(Endpoints::new(&[], ClientOptions::default()).is_err());
    }
}
