//! The service index: addresses and Host headers into services, without allocating.
//!
//! In:      the services of a snapshot, from `link`.      Out: `ServiceIndex`, read by `listener` and `route`.
//! Source:  istio-semantics F.1.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::bytemap::ByteMap;
use crate::listener::Outbound;
use crate::sections::{PortProtocol, Service};
use crate::wordhash::WordMap;

/// Services by what names them. Where two claim the same name or address, the first in the order of section names has
/// it.
#[derive(Debug, Default)]
pub(crate) struct ServiceIndex {
    services: Vec<Arc<Service>>,
    by_address: WordMap<(IpAddr, u16), usize>,
    /// Opaque and sniffed services without an address.
    by_port: WordMap<u16, usize>,
    http_ports: HashSet<u16>,
    domains: WordMap<u16, Domains>,
}

/// The Host names of one port.
#[derive(Debug)]
struct Domains {
    exact: ByteMap<usize>,
    /// What follows the `*` of a wildcard; the longest wins.
    suffixes: ByteMap<usize>,
}

impl ServiceIndex {
    /// This index if it is of these very services, else a new one.
    pub(crate) fn unless_changed(self: &Arc<Self>, services: Vec<Arc<Service>>) -> Arc<Self> {
        let same = |(a, b): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(a, b);
        if services.len() == self.services.len() && services.iter().zip(&self.services).all(same) {
            return Arc::clone(self);
        }
        Arc::new(Self::new(services))
    }

    /// Indexes services, given in the order of their section names.
    pub(crate) fn new(services: Vec<Arc<Service>>) -> Self {
        let mut index = Self::default();
        for (position, service) in services.iter().enumerate() {
            index.add(position, service);
        }
        index.services = services;
        index
    }

    fn add(&mut self, position: usize, service: &Service) {
        for address in &service.addresses {
            self.by_address.entry((*address, service.port)).or_insert(position);
        }
        match service.protocol {
            PortProtocol::Http | PortProtocol::Http2 => drop(self.http_ports.insert(service.port)),
            PortProtocol::Tcp | PortProtocol::Auto if service.addresses.is_empty() => {
                self.by_port.entry(service.port).or_insert(position);
            }
            PortProtocol::Tcp | PortProtocol::Auto => {}
        }
        if service.protocol != PortProtocol::Tcp {
            self.domains.entry(service.port).or_insert_with(Domains::new).add(position, service);
        }
    }

    /// What lies at a destination.
    pub(crate) fn outbound(&self, destination: SocketAddr) -> Outbound<'_> {
        let port = destination.port();
        let at_address = self.by_address.get(&(destination.ip(), port)).map(|&position| &*self.services[position]);
        match at_address {
            Some(service) if !service.protocol.is_http() => by_protocol(service),
            _ if self.http_ports.contains(&port) => Outbound::Http { port },
            _ => self.by_port.get(&port).map_or(Outbound::Unknown, |&position| by_protocol(&self.services[position])),
        }
    }

    /// What was declared of the service at a destination; `Auto` where there is none.
    pub(crate) fn declared(&self, destination: SocketAddr) -> PortProtocol {
        let position = self.by_address.get(&(destination.ip(), destination.port()));
        position.map_or(PortProtocol::Auto, |&position| self.services[position].protocol)
    }

    /// The service that a Host header names on a port. The header's own port, if it has one, must be the same.
    pub(crate) fn by_authority(&self, port: u16, authority: &[u8]) -> Option<&Service> {
        let host = host_on_port(authority, port)?;
        let domains = self.domains.get(&port)?;
        let position = domains.exact.get(host).or_else(|| domains.suffixes.affixes_of(host).last())?;
        Some(&self.services[*position])
    }
}

impl Domains {
    fn new() -> Self {
        Self { exact: ByteMap::of_prefixes(true), suffixes: ByteMap::of_suffixes(true) }
    }

    fn add(&mut self, position: usize, service: &Service) {
        for domain in &service.domains {
            match domain.strip_prefix('*') {
                Some(suffix) => self.suffixes.entry(suffix.as_bytes(), || position),
                None => self.exact.entry(without_brackets(domain.as_bytes()), || position),
            };
        }
    }
}

fn by_protocol(service: &Service) -> Outbound<'_> {
    match service.protocol {
        PortProtocol::Auto => Outbound::Auto(service),
        PortProtocol::Http | PortProtocol::Http2 | PortProtocol::Tcp => Outbound::Service(service),
    }
}

/// The host of an authority whose port is absent or equal to `port`. RFC 3986 3.2: `[` starts an IPv6 literal, whose
/// colons are not the port's.
fn host_on_port(authority: &[u8], port: u16) -> Option<&[u8]> {
    let after_literal = authority.iter().rposition(|&byte| byte == b']').map_or(0, |end| end + 1);
    let Some(colon) = authority[after_literal..].iter().position(|&byte| byte == b':') else {
        return Some(without_brackets(authority));
    };
    let (host, digits) = authority.split_at(after_literal + colon);
    let digits =
        std::str::from_utf8(&digits[1..]).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    (digits.parse() == Ok(port)).then_some(without_brackets(host))
}

fn without_brackets(host: &[u8]) -> &[u8] {
    host.strip_prefix(b"[").and_then(|inner| inner.strip_suffix(b"]")).unwrap_or(host)
}
