//! Facts: everything a decision may see of a connection or a request, copied by the engine from the wire.
//!
//! In:      the engine (or the command line, which makes them up).      Out: `listener`, `authz`, `route`.
//! Limits:  none of its own; the engine bounds what it copies.

use std::net::{IpAddr, SocketAddr};

use crate::identity::Peer;
use crate::jwt::Claims;

/// Which way a connection goes, relative to our workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards our workload.
    Inbound,
    /// From our workload.
    Outbound,
}

impl Direction {
    /// The word used in labels, logs and admin answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is known of a connection once its filter chain is chosen and TLS, if any, is established.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// Which way it goes.
    pub direction: Direction,
    /// The authenticated peer; none in plaintext.
    pub peer: Option<Peer>,
    /// The TCP peer.
    pub source: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// The server name of the `ClientHello`, in lower case.
    pub sni: Option<Box<str>>,
}

/// What is known of one HTTP request. Byte strings, because policy compares bytes.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The path, normalised as the mesh says, without query and fragment.
    pub path: &'a [u8],
    /// `:authority`, or the Host header with its port; several Host headers joined with a comma.
    pub authority: &'a [u8],
    /// The client as the trusted proxies name it; the TCP peer when there is none.
    pub remote_ip: IpAddr,
    /// The headers.
    pub headers: &'a dyn HeaderValues,
    /// The claims of its token, once proven; none without one.
    pub claims: Option<&'a Claims>,
}

/// Reads header values by name.
pub trait HeaderValues {
    /// Calls `each` with every value of the header in order, until it returns true. A repeated header is visited value
    /// by value, never joined. The name is in lower case and may be a pseudo header (`:authority`, `:method`, `:path`)
    /// or `host`, which is `:authority`.
    fn visit(&self, name_lower: &str, each: &mut dyn FnMut(&[u8]) -> bool);
}

/// A list of name and value pairs, names in lower case: for tests, the command line and the pytest plugin.
impl HeaderValues for &[(&str, &[u8])] {
    fn visit(&self, name_lower: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        for (name, value) in *self {
            if *name == name_lower && each(value) {
                return;
            }
        }
    }
}

/// What sniffing found, for the choice of a filter chain.
#[derive(Clone, Copy, Debug)]
pub struct Detected<'a> {
    /// A `ClientHello` was seen.
    pub tls: bool,
    /// Its ALPN protocols; or `http/1.0`, `http/1.1`, `h2c` found in plain bytes; or nothing.
    pub application: &'a [&'a [u8]],
}
