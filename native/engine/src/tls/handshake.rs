//! A socket becomes a mutual TLS connection to a known peer: accept on the server side, connect on the client side.
//!
//! In: a connected socket, credentials, what may be spoken, who may answer. Out: the stream and the peer's certificate.
//! Limits: no time limit of its own; the caller sets one around the whole handshake.
//! Fails: with the [`TlsFailure`] that ended the handshake; the peer was told by an alert where it still listens.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};
use tokio::net::TcpStream;

use super::config::{ClientAlpn, ServerAlpn};
use super::failure::TlsFailure;
use super::leaf::Leaf;
use super::session::Session;
use super::stream::TlsStream;
use super::verify::Role;
use crate::tls::credentials::Credentials;

/// The peer of a finished handshake, as its verified certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The one URI name, a SPIFFE id.
    pub(crate) uri: String,
    /// SHA-256 of the certificate; its hex goes into `x-forwarded-client-cert`.
    pub(crate) hash: [u8; 32],
    /// The last second of its validity.
    pub(crate) not_after_unix: u64,
}

/// Who may answer: the identities of the service, or anyone under the roots when there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedPeer<'a> {
    pub(crate) identities: &'a [String],
}

/// Serves the handshake on a socket whose first bytes, `prefix`, the sniffer has read; `alpn` is among what the client offers.
pub(crate) async fn accept(
    tcp: TcpStream,
    prefix: Vec<u8>,
    credentials: &Credentials,
    alpn: ServerAlpn,
) -> Result<(Box<TlsStream>, PeerCertificate), TlsFailure> {
    let session = Session::server(credentials.server_config(alpn))?;
    shake(TlsStream::new(tcp, session, prefix), credentials, Role::Client).await
}

/// Opens a handshake towards an endpoint. An empty `sni` sends none.
pub(crate) async fn connect(
    tcp: TcpStream,
    credentials: &Credentials,
    sni: &str,
    expected: &ExpectedPeer<'_>,
    alpn: ClientAlpn,
) -> Result<(Box<TlsStream>, PeerCertificate), TlsFailure> {
    let name = server_name(sni, &tcp)?;
    let session = Session::client(credentials.client_config(expected.identities)?, name, alpn.protocols())?;
    shake(TlsStream::new(tcp, session, Vec::new()), credentials, Role::Server).await
}

/// Opens a handshake for an application: what the server proves is for the configuration's verifier to judge, and is no
/// identity of the mesh.
pub(crate) async fn originate(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    sni: &str,
    alpn: ClientAlpn,
) -> Result<Box<TlsStream>, TlsFailure> {
    let name = server_name(sni, &tcp)?;
    let mut stream = TlsStream::new(tcp, Session::client(config, name, alpn.outside_the_mesh())?, Vec::new());
    stream.handshake().await?;
    Ok(stream)
}

async fn shake(
    mut stream: Box<TlsStream>,
    credentials: &Credentials,
    peer: Role,
) -> Result<(Box<TlsStream>, PeerCertificate), TlsFailure> {
    stream.handshake().await?;
    let chain = stream.session().peer_chain();
    let (leaf, intermediates) = chain.split_first().ok_or(TlsFailure::NoClientCertificate)?;
    let Leaf { uri, hash, validity } = Leaf::parse(leaf)?;
    let root = credentials.root_of(leaf, intermediates, peer)?;
    stream.proven(root, validity.until);
    Ok((stream, PeerCertificate { uri, hash, not_after_unix: validity.until }))
}

/// Istio's SNI (`outbound_.9080_._.host`) is no host name, but a DNS name of underscored labels, which rustls takes.
fn server_name(sni: &str, tcp: &TcpStream) -> Result<ServerName<'static>, TlsFailure> {
    if sni.is_empty() {
        // rustls sends no SNI for an address (RFC 6066 section 3).
        return Ok(ServerName::IpAddress(tcp.peer_addr()?.ip().into()));
    }
    match DnsName::try_from(sni.to_owned()) {
        Ok(name) => Ok(ServerName::DnsName(name)),
        Err(_) => Err(TlsFailure::ServerName(sni.to_owned())),
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
