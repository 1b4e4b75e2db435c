//! Where this hub may connect to by itself: instances say where they answer, and must not make the hub
//! reach what only it can reach.
//!
//! Addresses of the public internet are open; loopback, link-local and private ones only where the
//! setting `egress.allow` names their network. A name is resolved once, and what was judged is what
//! is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::model::limits::CONNECT_ADDRESSES_MAX;
use crate::model::registry::Address;
use crate::model::rejection::{Reason, Rejection};
use crate::runtime::net::TcpStream;

/// The networks that are open beside the public ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress(Vec<IpNet>);

impl Egress {
    /// The networks of the setting.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether an address may be connected to.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = plain(ip);
        is_public(ip) || self.0.iter().any(|network| network.contains(&ip))
    }

    /// Refuses an address that is written as a number and may not be connected to. Names are judged
    /// when they are resolved.
    ///
    /// # Errors
    /// `ADDRESS_FORBIDDEN`.
    pub fn check(&self, address: &Address) -> Result<(), Rejection> {
        let host = address.split().and_then(|(host, _)| host.parse::<IpAddr>().ok());
        match host.filter(|ip| !self.allows(*ip)) {
            Some(ip) => Err(forbidden(&ip.to_string())),
            None => Ok(()),
        }
    }

    /// A connection to an address, and where it goes: those of its IP addresses that are allowed are tried one
    /// after the other.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn connect(&self, address: &Address) -> Result<(SocketAddr, TcpStream), String> {
        first_of(&self.resolve(address).await?).await
    }

    /// What to connect to for an address: its IP addresses that are allowed, in their order, up to a bound.
    async fn resolve(&self, address: &Address) -> Result<Vec<SocketAddr>, String> {
        let Some((host, port)) = address.split() else {
            return Err(format!("{} is not HOST:PORT", address.address));
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            let refuse = || forbidden(&ip.to_string()).message;
            return self.allows(ip).then(|| vec![SocketAddr::new(ip, port)]).ok_or_else(refuse);
        }
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|e| format!("{host} is not found: {e}"))?;
        let open = found.filter(|at| self.allows(at.ip())).take(CONNECT_ADDRESSES_MAX);
        let open: Vec<_> = open.collect();
        if open.is_empty() { Err(forbidden(host).message) } else { Ok(open) }
    }
}

/// A connection to the first that takes one. Who says nothing keeps the next one waiting for a moment only; the
/// last one has as long as the caller.
async fn first_of(places: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), String> {
    let mut failed = Vec::new();
    for (n, at) in places.iter().enumerate() {
        let connecting = TcpStream::connect(*at);
        let connected = if n + 1 < places.len() {
            let late = |_| Err(io::ErrorKind::TimedOut.into());
            tokio::time::timeout(CONNECT_NEXT, connecting).await.unwrap_or_else(late)
        } else {
            connecting.await
        };
        match connected {
            Ok(stream) => return Ok((*at, stream)),
            Err(error) => failed.push(format!("no connection to {at}: {error}")),
        }
    }
    Err(failed.join("; "))
}

/// When the next address is tried (RFC 8305, 5, which tries both at once then).
const CONNECT_NEXT: Duration = Duration::from_millis(250);

fn forbidden(what: &str) -> Rejection {
    let text = format!(
        "{what} is loopback, link-local, private or otherwise not public, and the hub may not connect there; allow its network with --set egress.allow=NETWORK"
    );
    Rejection::new(Reason::AddressForbidden, text).with("address", what)
}

/// An IPv4 address that is written as an IPv6 one, as it is.
fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Whether an address is one of the public internet: of none of the special registries of IANA (RFC
/// 6890) that are not.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let special = a == 0 || a >= 240 || (a == 198 && (b == 18 || b == 19));
            let protocol = (a, b, c) == (192, 0, 0);
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || ip.is_broadcast()
                || shared
                || special
                || protocol)
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            let documentation =
                (first, second) == (0x2001, 0xdb8) || (first == 0x3fff && second < 0x1000);
            // Teredo among others, which leads on to any IPv4 address, as 6to4 does.
            let protocol = first == 0x2001 && second < 0x200;
            let six_to_four = first == 0x2002;
            // Only 2000::/3 is given out.
            first & 0xe000 == 0x2000 && !documentation && !protocol && !six_to_four
        }
    }
}

/// What tests connect to.
#[cfg(test)]
pub(in crate::node) mod held {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::{Duration, SocketAddr};

    /// An address where the system takes no more connections, and refuses none.
    pub(in crate::node) struct Held {
        pub(in crate::node) at: SocketAddr,
        _listener: TcpListener,
        _taken: Vec<TcpStream>,
    }

    impl Held {
        /// Nobody accepts, so that the queue is full soon.
        pub(in crate::node) async fn new() -> Self {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(1).unwrap();
            let at = listener.local_addr().unwrap();
            let mut taken = Vec::new();
            let patience = Duration::from_millis(300);
            while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(at)).await {
                taken.push(stream.unwrap());
                assert!(taken.len() < 100, "the system takes any number");
            }
            Self { at, _listener: listener, _taken: taken }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::held::Held;
    use super::*;

    fn allows(egress: &Egress, ip: &str) -> bool {
        egress.allows(ip.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_closed_until_it_is_named() {
        let egress = Egress::default();
        for open in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "3ffe::1",
        ] {
            assert!(allows(&egress, open), "{open}");
        }
        for closed in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "64:ff9b::7f00:1",
            "2001::1",
            "2001:1ff::1",
            "2002:a00:1::1",
            "3fff:fff::1",
        ] {
            assert!(!allows(&egress, closed), "{closed}");
        }
        let some = ["127.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let egress = Egress::new(some.to_vec());
        for open in ["127.0.0.1", "::ffff:127.0.0.1", "fd12::1"] {
            assert!(allows(&egress, open), "{open}");
        }
        assert!(!allows(&egress, "10.0.0.1") && !allows(&egress, "::1"));
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_stand_for() {
        let at = |address: &str| Address { protocol: "http".into(), address: address.into() };
        let egress = Egress::default();
        assert!(egress.check(&at("127.0.0.1:80")).is_err());
        assert!(egress.check(&at("[::1]:80")).is_err());
        assert!(egress.check(&at("localhost:80")).is_ok());
        assert!(egress.resolve(&at("localhost:80")).await.unwrap_err().contains("egress.allow"));
        let loopback =
            Egress::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let found = loopback.resolve(&at("localhost:80")).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|at| at.ip().is_loopback()), "{found:?}");
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // Nobody listens there.
        let refused = SocketAddr::new("127.0.0.2".parse().unwrap(), open.port());
        assert_eq!(first_of(&[refused, open]).await.unwrap().0, open);
        let why = first_of(&[refused, refused]).await.unwrap_err();
        assert_eq!(why.matches(&format!("no connection to {refused}")).count(), 2, "{why}");
        let held = Held::new().await;
        assert_eq!(first_of(&[held.at, refused, open]).await.unwrap().0, open);
        // One that is forbidden is not.
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let address = format!("localhost:{}", open.port());
        let address = Address { protocol: "http".into(), address };
        let (at, _stream) = egress.connect(&address).await.unwrap();
        assert_eq!(at, open);
    }
}
