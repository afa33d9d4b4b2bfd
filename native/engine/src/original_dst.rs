//! Where a captured connection was going before redirection.
//!
//! In: an accepted socket.  Out: the original destination, or why the connection must be refused.
//! Fails: `NotRedirected` (somebody connected to the capture port itself) and `Loop` (A.5 case 7), both refused.
//! Source: istio-semantics A.5; netfilter `SO_ORIGINAL_DST`.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use tokio::net::TcpStream;

use crate::sys;

/// Why a connection has no usable original destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// The client connected to a capture port directly: there is nothing to forward to.
    NotRedirected,
    /// The original destination is a capture port: forwarding would come back here for ever.
    Loop,
}

/// Reads the original destination and refuses what would loop.
///
/// `source`: the client. `capture_ports`: the ports of our own capture listeners.
pub(crate) fn original_destination(
    tcp: &TcpStream,
    source: SocketAddr,
    capture_ports: [u16; 2],
) -> Result<SocketAddr, Unusable> {
    let local = tcp.local_addr().map_err(|_| Unusable::NotRedirected)?;
    let original = sys::original_destination(tcp.as_fd(), local.is_ipv6()).map_err(|_| Unusable::NotRedirected)?;
    judge((source, local), original, capture_ports)
}

fn judge(
    (source, local): (SocketAddr, SocketAddr),
    original: SocketAddr,
    capture_ports: [u16; 2],
) -> Result<SocketAddr, Unusable> {
    // Connection tracking that first sees our side of a connection takes the client for its destination.
    if original == source {
        return Err(Unusable::NotRedirected);
    }
    if capture_ports.contains(&original.port()) {
        return Err(if original == local { Unusable::NotRedirected } else { Unusable::Loop });
    }
    Ok(SocketAddr::new(original.ip().to_canonical(), original.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)), 40_000);

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal address")
    }

    #[test]
    fn a_redirected_connection_keeps_its_destination() {
        let judged = judge((CLIENT, address("10.0.0.1:15006")), address("10.0.0.1:9080"), [15001, 15006]);
        assert_eq!(judged, Ok(address("10.0.0.1:9080")));
    }

    #[test]
    fn a_direct_connection_to_a_capture_port_is_refused() {
        let judged = judge((CLIENT, address("10.0.0.1:15006")), address("10.0.0.1:15006"), [15001, 15006]);
        assert_eq!(judged, Err(Unusable::NotRedirected));
    }

    #[test]
    fn a_destination_that_is_a_capture_port_would_loop() {
        let judged = judge((CLIENT, address("127.0.0.1:15001")), address("10.9.9.9:15006"), [15001, 15006]);
        assert_eq!(judged, Err(Unusable::Loop));
    }

    #[test]
    fn a_client_is_not_its_own_destination() {
        let judged = judge((CLIENT, address("127.0.0.1:15001")), CLIENT, [15001, 15006]);
        assert_eq!(judged, Err(Unusable::NotRedirected));
    }
}
