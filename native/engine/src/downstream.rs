//! The downstream side of a connection up to a known peer: which port it came for, what it speaks, who it is.
//!
//! In: `Accepted`.  Out: `Port` (the configuration of the place it came for), `Sniffed`, `Secured`.
//! Limits: a ClientHello or request line is sniffed up to `SNIFF_BYTES`; silence may last as long as any idleness (a server
//! may speak first, B.3), half of a first message as long as a handshake; detection and handshake time-outs.
//! Fails: no configuration, no filter chain (closed without an answer, B.3), TLS refused.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use meshdp_model::facts::{ConnectionFacts, Direction};
use meshdp_model::identity::Peer;
use meshdp_model::listener::Outbound;
use meshdp_model::sections::{ChainProtocol, Inbound, MtlsMode};
use meshdp_proto::http1_head::HttpVersion;
use meshdp_proto::sniff::{Sniff, Wanted, sniff as sniff_bytes};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{Chain, Detection, Failure, Link, Names, Secured};
use crate::listener::Accepted;
use crate::observe::outcome::Reason;
use crate::stream::{Stream, uninterrupted};
use crate::tls::{self, ServerAlpn, TlsFailure};
use crate::worker::registry::Entry;
use crate::worker::{Pinned, Worker};

/// The configuration of the place a connection came for.
pub(crate) enum Port<'a> {
    /// A port of our workload, declared or not.
    Inbound(&'a Inbound),
    /// A destination of our workload.
    Outbound(Outbound<'a>),
}

/// Finds the configuration of the place an accepted connection came for.
///
/// # Errors
/// `NoConfiguration` before the first snapshot: nothing is forwarded unchecked.
pub(crate) fn port<'a>(pinned: &'a Pinned, accepted: &Accepted) -> Result<Port<'a>, Failure> {
    port_of(pinned, accepted.direction, accepted.original_destination)
}

/// As `port`, for a connection that is known already.
pub(crate) fn port_of(pinned: &Pinned, direction: Direction, destination: SocketAddr) -> Result<Port<'_>, Failure> {
    if !pinned.snapshot.is_configured() {
        return Err(Reason::NoConfiguration.into());
    }
    match direction {
        Direction::Inbound => {
            let inbound = pinned.snapshot.inbound(destination.port()).ok_or(Reason::NoConfiguration)?;
            Ok(Port::Inbound(inbound))
        }
        Direction::Outbound => Ok(Port::Outbound(pinned.snapshot.outbound(destination))),
    }
}

impl Port<'_> {
    fn wanted(&self) -> Wanted {
        match self {
            Self::Inbound(inbound) => Wanted { tls: inbound.inspect_tls, http: inbound.inspect_http },
            Self::Outbound(Outbound::Auto(_)) => Wanted { tls: true, http: true },
            Self::Outbound(_) => Wanted { tls: false, http: false },
        }
    }

    /// The chain that takes what was sniffed.
    ///
    /// # Errors
    /// `FilterChainNotFound`: the connection is closed without an answer.
    pub(crate) fn filter_chain(&self, sniffed: &Sniffed) -> Result<Chain, Failure> {
        self.filter_chain_for(&sniffed.detection)
    }

    /// As `filter_chain`, for a connection sniffed earlier.
    pub(crate) fn filter_chain_for(&self, detection: &Detection) -> Result<Chain, Failure> {
        match self {
            Self::Inbound(inbound) => inbound_chain(inbound, detection),
            Self::Outbound(outbound) => {
                Ok(Chain { terminate: false, protocol: outbound_protocol(outbound, detection) })
            }
        }
    }
}

fn inbound_chain(inbound: &Inbound, detection: &Detection) -> Result<Chain, Failure> {
    let detected = |wanted: &[u8]| detection.application.iter().any(|name| name == wanted);
    let Some(chain) = inbound.filter_chain_where(detection.tls, detected) else {
        let kind = if detection.tls { "TLS without a mesh ALPN" } else { "plaintext" };
        let detail = format!("{kind} on port {} under {}", inbound.port, mode_word(inbound.mode));
        return Err(Failure::new(Reason::FilterChainNotFound, detail));
    };
    Ok(Chain { terminate: chain.terminate, protocol: chain.protocol })
}

fn mode_word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Disable => "DISABLE",
    }
}

fn outbound_protocol(outbound: &Outbound<'_>, detection: &Detection) -> ChainProtocol {
    let http = detection.application.iter().any(|name| matches!(name, b"http/1.0" | b"http/1.1" | b"h2c"));
    match outbound {
        Outbound::Http { .. } => ChainProtocol::Http,
        Outbound::Auto(_) if http && !detection.tls => ChainProtocol::Http,
        Outbound::Auto(_) | Outbound::Service(_) | Outbound::Unknown => ChainProtocol::Tcp,
    }
}

/// A connection whose first bytes have been looked at, and kept.
pub(crate) struct Sniffed {
    accepted: Box<Accepted>,
    prefix: Vec<u8>,
    pub(crate) detection: Detection,
    sni: Option<Box<str>>,
}

/// Looks at the first bytes, where the port needs it, without taking them from the stream's reader.
///
/// # Errors
/// `DownstreamClosed` when nothing came, `IdleTimeout` and `SniffTimeout` when too little came in time.
pub(crate) async fn sniff(mut accepted: Box<Accepted>, port: &Port<'_>, worker: &Worker) -> Result<Sniffed, Failure> {
    let wanted = port.wanted();
    let mut prefix = Vec::new();
    let mut found = Found::default();
    if wanted.tls || wanted.http {
        prefix = worker.buffers.lend();
        let limit_ms = worker.pin().snapshot.mesh().protocol_detection_timeout_ms;
        let reading = read_prefix(&mut accepted.tcp, &mut prefix, wanted, worker);
        found = if limit_ms == 0 {
            reading.await?
        } else {
            // On time-out the connection goes on as plain bytes (B.3).
            timeout(Duration::from_millis(limit_ms), reading).await.unwrap_or_else(|_| Ok(Found::default()))?
        };
    }
    Ok(Sniffed { accepted, prefix, detection: found.detection, sni: found.sni })
}

#[derive(Default)]
struct Found {
    detection: Detection,
    sni: Option<Box<str>>,
}

async fn read_prefix(
    tcp: &mut TcpStream,
    prefix: &mut Vec<u8>,
    wanted: Wanted,
    worker: &Worker,
) -> Result<Found, Failure> {
    let silence = Duration::from_millis(worker.settings.limits.idle_ms);
    prefix.reserve(FIRST_READ);
    match timeout(silence, read_some(tcp, prefix)).await {
        Ok(Ok(count)) if count > 0 => {}
        Ok(_) => return Err(Reason::DownstreamClosed.into()),
        Err(_) => return Err(Reason::IdleTimeout.into()),
    }
    let rest = read_on(tcp, prefix, wanted);
    timeout(worker.settings.handshake(), rest).await.unwrap_or_else(|_| Err(Reason::SniffTimeout.into()))
}

async fn read_on(tcp: &mut TcpStream, prefix: &mut Vec<u8>, wanted: Wanted) -> Result<Found, Failure> {
    loop {
        if let Some(found) = judge(prefix, wanted) {
            return Ok(found);
        }
        if prefix.len() >= SNIFF_BYTES {
            return Ok(Found::default());
        }
        prefix.reserve(FIRST_READ);
        match read_some(tcp, prefix).await {
            Ok(0) => return Ok(Found::default()),
            Ok(_) => {}
            Err(_) => return Err(Reason::DownstreamClosed.into()),
        }
    }
}

async fn read_some(tcp: &mut TcpStream, prefix: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|context| uninterrupted(|| pin!(tcp.read_buf(prefix)).poll(context))).await
}

fn judge(prefix: &[u8], wanted: Wanted) -> Option<Found> {
    let plain = |name: &[u8]| Found {
        detection: Detection { tls: false, application: Names::of([name].into_iter()) },
        sni: None,
    };
    match sniff_bytes(prefix, wanted) {
        Sniff::NeedMore => None,
        Sniff::Tls(hello) => Some(Found {
            detection: Detection { tls: true, application: Names::of(hello.alpn()) },
            sni: hello.sni().map(|name| name.to_ascii_lowercase().into_boxed_str()),
        }),
        Sniff::Http1(HttpVersion::Http10) => Some(plain(b"http/1.0")),
        Sniff::Http1(HttpVersion::Http11) => Some(plain(b"http/1.1")),
        Sniff::Http2Preface => Some(plain(b"h2c")),
        Sniff::Raw => Some(Found::default()),
    }
}

/// Ends TLS where the chain says so and learns who the peer is.
///
/// # Errors
/// The handshake's failure; `NotReady` without a certificate of our own.
pub(crate) async fn secure(
    sniffed: Sniffed,
    chain: &Chain,
    worker: &Worker,
    entry: &Rc<Entry>,
) -> Result<Box<Secured>, Failure> {
    let Sniffed { accepted, prefix, detection, sni } = sniffed;
    let accepted = *accepted;
    let mut facts = ConnectionFacts {
        direction: accepted.direction,
        peer: None,
        source: accepted.source,
        destination: accepted.original_destination,
        sni,
    };
    let mut peer_hash = None;
    let (stream, received) = if chain.terminate {
        let (stream, peer) = terminate(accepted.tcp, prefix, &detection, chain.protocol, worker).await?;
        *entry.peer.borrow_mut() = Some(peer.uri.as_str().into());
        entry.tls.set(Some(describe(&stream)));
        peer_hash = Some(peer.hash);
        let identity = Peer::parse(&peer.uri);
        facts.peer = Some(identity.map_err(|error| Failure::new(Reason::DownstreamTlsUntrusted, error.to_string()))?);
        (Stream::Tls(stream), Vec::new())
    } else {
        (Stream::Plain(accepted.tcp), prefix)
    };
    entry.protocol.set(match chain.protocol {
        ChainProtocol::Http => "http/1.1",
        ChainProtocol::Tcp => "tcp",
    });
    let peer_root = stream.proof().map(|(root, _)| *root);
    let entry = Rc::clone(entry);
    let link = Link { facts, sniffed: detection, chain: *chain, peer_hash, peer_root, entry };
    Ok(Box::new(Secured { stream, received, link }))
}

async fn terminate(
    tcp: TcpStream,
    prefix: Vec<u8>,
    detection: &Detection,
    protocol: ChainProtocol,
    worker: &Worker,
) -> Result<(Box<tls::TlsStream>, tls::PeerCertificate), Failure> {
    let credentials = worker.own_credentials()?;
    let spoken: &[ServerAlpn] = match protocol {
        ChainProtocol::Http => &[ServerAlpn::Http2, ServerAlpn::Http11],
        ChainProtocol::Tcp => &[],
    };
    let alpn = ServerAlpn::select(spoken, || detection.application.iter());
    let hello = prefix.as_slice().into();
    worker.buffers.give(prefix);
    let handshake = tls::accept(tcp, hello, &credentials, alpn);
    match timeout(worker.settings.handshake(), handshake).await {
        Err(_) => Err(Reason::DownstreamTlsTimeout.into()),
        Ok(Err(failure)) => {
            let reason = reason_of(&failure);
            worker.telemetry.borrow().tls_failed(reason);
            Err(Failure::new(reason, failure.to_string()))
        }
        Ok(Ok(secured)) => Ok(secured),
    }
}

/// TLS version and cipher suite, in rustls' words.
fn describe(stream: &tls::TlsStream) -> [&'static str; 2] {
    let common = stream.session().common();
    let version = common.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown");
    let suite = common.negotiated_cipher_suite().map(|suite| suite.suite());
    [version, suite.and_then(|suite| suite.as_str()).unwrap_or("unknown")]
}

fn reason_of(failure: &TlsFailure) -> Reason {
    match failure.code() {
        "tls_no_client_certificate" => Reason::DownstreamTlsNoCertificate,
        "tls_untrusted_chain" | "tls_expired" | "tls_trust_domain" | "tls_identity" => Reason::DownstreamTlsUntrusted,
        _ => Reason::DownstreamTlsFailed,
    }
}

const FIRST_READ: usize = 4 * 1024;
/// A ClientHello may span records; anything longer is not worth waiting for.
const SNIFF_BYTES: usize = 64 * 1024;
