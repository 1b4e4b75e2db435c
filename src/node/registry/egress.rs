//! Where this hub may connect to by itself: instances say where they answer, and must not make the hub
//! reach what only it can reach.
//!
//! Addresses of the public internet are open; loopback, link-local and private ones only where the
//! setting `egress.allow` names their network. A name is resolved once, and what was judged is what
//! is connected to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::model::registry::Address;
use crate::model::rejection::{Reason, Rejection};

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

    /// What to connect to for an address: the first of its IP addresses that is allowed.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn resolve(&self, address: &Address) -> Result<SocketAddr, String> {
        let Some((host, port)) = address.split() else {
            return Err(format!("{} is not HOST:PORT", address.address));
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            let refuse = || forbidden(&ip.to_string()).message;
            return self.allows(ip).then_some(SocketAddr::new(ip, port)).ok_or_else(refuse);
        }
        let found = tokio::net::lookup_host((host, port)).await;
        let found: Vec<_> = found.map_err(|e| format!("{host} is not found: {e}"))?.collect();
        let open = found.into_iter().find(|at| self.allows(at.ip()));
        open.ok_or_else(|| forbidden(host).message)
    }
}

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
            let first = ip.segments()[0];
            let documentation = first == 0x2001 && ip.segments()[1] == 0xdb8;
            let translated = ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            // Only 2000::/3 is given out.
            first & 0xe000 == 0x2000 && !documentation && !translated && ip != Ipv6Addr::UNSPECIFIED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(egress: &Egress, ip: &str) -> bool {
        egress.allows(ip.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_closed_until_it_is_named() {
        let egress = Egress::default();
        for open in ["1.1.1.1", "93.184.216.34", "2606:4700::1111"] {
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
        assert!(loopback.resolve(&at("localhost:80")).await.unwrap().ip().is_loopback());
    }
}
