//! One key set from where a rule says it is: an address, or the address that an issuer's discovery document names.
//!
//! In: an address, a deadline.  Out: a `KeySet`.
//! Limits: the deadline is for everything, name resolution and slow drips included, but that a resolver which hangs is waited
//! for; `MAX_JWKS_BYTES`, `DISCOVERY_BYTES`; one GET each, no redirect, no proxy, no cookie.
//! Fails: a sentence. Addresses that are no place for an issuer are refused after resolution, and the connection goes to the
//! address that was looked at (attack cases JW-15, JW-16, JW-17).
//! Source: `OpenID` Connect Discovery 1.0 §4; RFC 9112; decision 0122.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshdp_model::jwt::KeySet;
use meshdp_model::jwt::keys::MAX_JWKS_BYTES;
use meshdp_model::jwt::rules::Wanted;
use meshdp_proto::http1_body::BodyDecoder;
use meshdp_proto::http1_fields::FieldTable;
use meshdp_proto::http1_head::Limits;
use meshdp_proto::http1_response::{RequestKind, parse_response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;
use crate::tls::origination::SYSTEM_BUNDLES;

/// Where fetches may go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    /// The mark of our own connections.
    pub(crate) mark: Option<NonZeroU32>,
    /// Loopback addresses too; for tests alone.
    pub(crate) loopback: bool,
}

/// Fetches the keys that a rule wants.
pub(crate) fn fetch_keys(wanted: &Wanted, reach: Reach) -> Result<KeySet, String> {
    let until = Instant::now() + Duration::from_millis(wanted.timeout_ms);
    let text = if wanted.discovery {
        let document = get(&wanted.address, DISCOVERY_BYTES, (reach, until))?;
        get(&discovered(&document, &wanted.issuer)?, MAX_JWKS_BYTES, (reach, until))?
    } else {
        get(&wanted.address, MAX_JWKS_BYTES, (reach, until))?
    };
    KeySet::parse(&text).map_err(|error| error.to_string())
}

/// The address of the keys, from a document that speaks of this issuer.
fn discovered(document: &[u8], issuer: &str) -> Result<String, String> {
    let document: serde_json::Value =
        serde_json::from_slice(document).map_err(|_| "the discovery document is no JSON".to_owned())?;
    let told = document["issuer"].as_str().unwrap_or_default();
    if told.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err("the discovery document is another issuer's".to_owned());
    }
    let uri = document["jwks_uri"].as_str().ok_or("the discovery document names no jwks_uri")?;
    Ok(uri.to_owned())
}

/// The body of a GET.
fn get(address: &str, limit: usize, (reach, until): (Reach, Instant)) -> Result<Vec<u8>, String> {
    let place = Place::parse(address)?;
    let stream = connect(&place, reach, until)?;
    let ask = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nUser-Agent: meshdp\r\nConnection: close\r\n\r\n",
        place.target, place.authority
    );
    if !place.tls {
        return exchange(&mut Timed { stream, until }, &ask, limit);
    }
    let name = ServerName::try_from(place.host.to_owned()).map_err(|_| "no name that a certificate has".to_owned())?;
    let client = ClientConnection::new(Arc::new(web_client()?), name).map_err(|error| error.to_string())?;
    exchange(&mut StreamOwned::new(client, Timed { stream, until }), &ask, limit)
}

fn exchange(stream: &mut (impl Read + Write), ask: &str, limit: usize) -> Result<Vec<u8>, String> {
    stream.write_all(ask.as_bytes()).and_then(|()| stream.flush()).map_err(|error| broken(&error))?;
    let mut received = Vec::new();
    let mut piece = [0; 8 << 10];
    let mut fields = FieldTable::new();
    let (mut body, mut text, mut head_len) = (None, Vec::new(), 0);
    loop {
        let count = match stream.read(&mut piece) {
            Ok(count) => count,
            // A peer that closes TLS without saying so has said all that its framing needs, or has not.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(broken(&error)),
        };
        received.extend_from_slice(&piece[..count]);
        if received.len() > limit + HEAD_BYTES {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        if body.is_none() {
            fields.resume(None);
            let head = parse_response(&received, &Limits::default(), RequestKind::Other, &mut fields)
                .map_err(|_| "the answer is no HTTP/1.1".to_owned())?;
            if let Some(head) = head {
                if head.status != 200 {
                    return Err(format!("the answer is {}, expected 200 (redirects are not followed)", head.status));
                }
                head_len = head.len;
                body = Some(BodyDecoder::bare(head.framing));
            }
        }
        if let Some(decoder) = &mut body {
            let mut at = head_len;
            while at < received.len() && !decoder.done() {
                match decoder.decode(&received[at..], &mut text) {
                    Ok(0) => break,
                    Ok(taken) => at += taken,
                    Err(_) => return Err("the answer breaks its framing".to_owned()),
                }
            }
            received.drain(head_len..at);
            if text.len() > limit {
                return Err(format!("the answer has more than {limit} bytes"));
            }
            if count == 0 && !decoder.done() {
                decoder.finish_on_eof().map_err(|_| "the answer is cut off".to_owned())?;
            }
            if decoder.done() {
                return Ok(text);
            }
        }
        if count == 0 {
            return Err("the connection ended before the answer".to_owned());
        }
    }
}

fn connect(place: &Place<'_>, reach: Reach, until: Instant) -> Result<TcpStream, String> {
    let resolved = (place.host, place.port).to_socket_addrs().map_err(|error| format!("{}: {error}", place.host))?;
    let mut why = format!("{} has no address", place.host);
    for address in resolved.take(MOST_ADDRESSES) {
        if !is_place_of_issuers(address.ip(), reach.loopback) {
            // One such answer is enough: a name that sometimes leads inside is not to be tried until it does.
            return Err(format!("{} is no address that keys are fetched from", address.ip()));
        }
        match dial(address, reach, until) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Err(why)
}

fn dial(address: SocketAddr, reach: Reach, until: Instant) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mark) = reach.mark {
        sys::set_mark(socket.as_fd(), mark)?; // without it the redirection would send this connection to us
    }
    socket.connect_timeout(&address.into(), left(until)?)?;
    Ok(socket.into())
}

/// Addresses of this machine and of no machine are none of an issuer; private networks are, for issuers in the mesh.
fn is_place_of_issuers(address: IpAddr, loopback: bool) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_unspecified() || address.is_multicast() || address.is_loopback() && !loopback)
}

/// A stream whose every wait ends with the deadline.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        self.stream.read(into)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.until)?))?;
        self.stream.write(from)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

fn left(until: Instant) -> std::io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(std::io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn broken(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

/// An http or https address taken apart.
struct Place<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
    authority: &'a str,
    target: String,
}

impl<'a> Place<'a> {
    fn parse(address: &'a str) -> Result<Self, String> {
        let wrong = || "expected an http or https address without user and password".to_owned();
        let (tls, rest) = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let plain = |text: &str| text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
        if !plain(authority) || !plain(&target) || authority.contains('@') {
            return Err(wrong());
        }
        let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        if host.is_empty() { Err(wrong()) } else { Ok(Self { tls, host, port, authority, target }) }
    }
}

/// A client that trusts what this machine trusts on the web; it shows no certificate.
fn web_client() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let named = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let files = named.into_iter().chain(SYSTEM_BUNDLES.iter().map(std::path::PathBuf::from));
    if let Some(file) = files.into_iter().find(|file| file.is_file()) {
        let certificates =
            CertificateDer::pem_file_iter(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        roots.add_parsable_certificates(certificates.flatten());
    }
    if roots.is_empty() {
        return Err(format!("no root certificates on this machine: expected {} or SSL_CERT_FILE", SYSTEM_BUNDLES[0]));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

const DISCOVERY_BYTES: usize = 64 << 10;
/// Room for the head of an answer and the framing of its body.
const HEAD_BYTES: usize = 128 << 10;
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
