//! Listeners: a destination, and what sniffing found there, into a filter chain (inbound) or a service (outbound).
//!
//! In:      ports, addresses and `Detected`, from the engine.      Out: `Inbound`, `FilterChain`, `Outbound`.
//! Fails:   no filter chain (`None`): the connection is closed without an answer.
//! Source:  istio-semantics B.3 and F.1; docs/snapshot.md, `inbound/*` and `service/*`.

use std::net::SocketAddr;

use crate::facts::Detected;
use crate::sections::{Chain, ChainTransport, Inbound, PortProtocol, Service};
use crate::snapshot::Snapshot;

/// What a destination outside our workload is.
#[derive(Clone, Copy, Debug)]
pub enum Outbound<'a> {
    /// HTTP; the Host header decides on this port.
    Http {
        /// The port.
        port: u16,
    },
    /// An opaque service.
    Service(&'a Service),
    /// A service whose protocol has to be sniffed: HTTP requests are routed with `restrict`, other bytes as `Service`.
    Auto(&'a Service),
    /// Nothing the registry knows.
    Unknown,
}

impl Snapshot {
    /// How connections to a port of our workload are treated: its own section, or the passthrough section. `None`
    /// before there is a configuration.
    pub fn inbound(&self, port: u16) -> Option<&Inbound> {
        self.inbound_ports().get(&port).or(self.inbound_passthrough()).map(AsRef::as_ref)
    }

    /// What lies at a destination. A virtual address of an opaque or sniffed service counts first; then any address on
    /// a port of the HTTP family is routed by Host; then opaque services without an address take whatever comes to
    /// their port.
    pub fn outbound(&self, destination: SocketAddr) -> Outbound<'_> {
        self.services().outbound(destination)
    }

    /// What was declared of the service at a destination; `Auto` where there is none.
    pub fn declared(&self, destination: SocketAddr) -> PortProtocol {
        self.services().declared(destination)
    }
}

impl Inbound {
    /// Chooses the first filter chain that fits. What an inspector that does not run here would have found is not
    /// looked at.
    pub fn filter_chain(&self, detected: &Detected<'_>) -> Option<&Chain> {
        self.filter_chain_where(detected.tls, |wanted| detected.application.contains(&wanted))
    }

    /// The same for a caller that keeps the detected application protocols in a form of its own.
    pub fn filter_chain_where(&self, tls: bool, detected: impl Fn(&[u8]) -> bool) -> Option<&Chain> {
        let inspected = if tls { self.inspect_tls } else { self.inspect_http };
        let tls = tls && inspected;
        self.chains.iter().find(|chain| {
            let transport = match chain.transport {
                ChainTransport::Tls => tls,
                ChainTransport::Raw => !tls,
                ChainTransport::Any => true,
            };
            let application = || chain.application.iter().any(|wanted| detected(wanted.as_bytes()));
            transport && (chain.application.is_empty() || (inspected && application()))
        })
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
