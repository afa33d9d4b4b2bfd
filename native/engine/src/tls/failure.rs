//! Why a TLS connection was refused or broke: rustls and socket errors in, one sentence and one stable code out.
//!
//! Fails: never; an error that fits no row is `Protocol` with rustls' own words.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};

/// Why there is no TLS connection (any more). The sentence is for people, [`TlsFailure::code`] for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The peer sent no certificate; on a mesh connection it must.
    NoClientCertificate,
    /// No path from the peer's certificate to the trust bundle.
    UntrustedChain(String),
    /// A certificate of the peer's chain is past its end or before its start.
    Expired(String),
    /// The certificate is no X.509-SVID: how many URI names, which usage, which form.
    NotAnSvid(String),
    /// The peer belongs to a trust domain that this mesh does not accept.
    TrustDomain(String),
    /// The server is somebody else than the endpoint's service (secure naming).
    IdentityMismatch(String),
    /// The peer ended the handshake or connection with an alert.
    PeerAlert(String),
    /// The peer closed or reset the socket in the middle: of the handshake, or of the data (no `close_notify`).
    PeerClosed,
    /// The name to send as SNI is no DNS name.
    ServerName(String),
    /// The peer broke the protocol, or nothing that both speak is left.
    Protocol(String),
    /// The socket failed.
    Socket(String),
    /// What a `DestinationRule` names for TLS cannot be used; nothing was sent.
    Material(String),
}

impl TlsFailure {
    /// The stable reason code of this failure.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoClientCertificate => "tls_no_client_certificate",
            Self::UntrustedChain(_) => "tls_untrusted_chain",
            Self::Expired(_) => "tls_expired",
            Self::NotAnSvid(_) => "tls_not_an_svid",
            Self::TrustDomain(_) => "tls_trust_domain",
            Self::IdentityMismatch(_) => "tls_identity_mismatch",
            Self::PeerAlert(_) => "tls_peer_alert",
            Self::PeerClosed => "tls_peer_closed",
            Self::ServerName(_) => "tls_server_name",
            Self::Protocol(_) => "tls_protocol",
            Self::Socket(_) => "tls_socket",
            Self::Material(_) => "tls_material",
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClientCertificate => {
                f.write_str("the peer sent no certificate; call through a sidecar, or make this port PERMISSIVE")
            }
            Self::UntrustedChain(why) => {
                write!(
                    f,
                    "the peer's certificate does not lead to the trust bundle ({why}); check that both share a root"
                )
            }
            Self::Expired(why) => {
                write!(f, "the peer's certificate is not valid now ({why}); check renewal and clocks")
            }
            Self::NotAnSvid(why) => write!(f, "the peer's certificate is no workload certificate ({why})"),
            Self::TrustDomain(why) => {
                write!(f, "{why}; add the peer's trust domain to trustDomainAliases to accept it")
            }
            Self::IdentityMismatch(why) => write!(f, "{why}; the endpoint is not run by this service's account"),
            Self::PeerAlert(why) => write!(f, "the peer refused with the alert {why}"),
            Self::PeerClosed => f.write_str("the peer closed the socket without ending the TLS session"),
            Self::ServerName(name) => write!(f, "{name:?} cannot be sent as SNI; a DNS name of at most 253 bytes can"),
            Self::Protocol(why) => write!(f, "the TLS protocol was broken ({why})"),
            Self::Socket(why) => write!(f, "the socket failed under TLS ({why})"),
            Self::Material(why) => write!(f, "TLS that a DestinationRule asks for cannot begin: {why}"),
        }
    }
}

impl std::error::Error for TlsFailure {}

/// A verifier's verdict travels through rustls as `CertificateError::Other` and comes out here unchanged.
impl From<rustls::Error> for TlsFailure {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoClientCertificate,
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => {
                ours.downcast_ref::<TlsFailure>().cloned().unwrap_or_else(|| Self::UntrustedChain(ours.to_string()))
            }
            rustls::Error::InvalidCertificate(why) => Self::UntrustedChain(format!("{why:?}")),
            rustls::Error::AlertReceived(alert) => Self::PeerAlert(format!("{alert:?}")),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<TlsFailure> for rustls::Error {
    fn from(failure: TlsFailure) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(failure))))
    }
}

/// An I/O error under the handshake; one that already carries a [`TlsFailure`] gives it back.
impl From<io::Error> for TlsFailure {
    fn from(error: io::Error) -> Self {
        if let Some(failure) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFailure>()) {
            return failure.clone();
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::PeerClosed,
            _ => Self::Socket(error.to_string()),
        }
    }
}

impl From<TlsFailure> for io::Error {
    fn from(failure: TlsFailure) -> Self {
        let kind = match failure {
            TlsFailure::PeerClosed => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, failure)
    }
}
