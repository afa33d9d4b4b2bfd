//! What is offered in a handshake: a policy and credentials in, rustls configurations out.
//!
//! TLS 1.3 first, AES-128-GCM first, the hybrid X25519MLKEM768 preferred with a share of X25519 beside it; no resumption
//! on either side, so that no right outlives a fresh handshake (attack case TL-13).
//! Source: istio-semantics B.2 (ALPN), B.3 (versions and ciphers), DESIGN section 5.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::verify::{CallerVerifier, ServiceVerifier};

/// What is selected of the protocols that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerAlpn {
    /// `h2`.
    Http2,
    /// `http/1.1`.
    Http11,
    /// Nothing, and nothing is refused.
    Nothing,
}

impl ServerAlpn {
    /// The first of what a filter chain speaks that the client offers. Without overlap nothing is selected, as with Envoy
    /// (B.2, attack case TL-15).
    pub(crate) fn select<'a, Offered: Iterator<Item = &'a [u8]>>(
        spoken: &[Self],
        offered: impl Fn() -> Offered,
    ) -> Self {
        let offers = |of: Self| of.name().is_some_and(|name| offered().any(|offer| offer == name));
        spoken.iter().copied().find(|of| offers(*of)).unwrap_or(Self::Nothing)
    }

    /// Its name in a ClientHello.
    pub(crate) fn name(self) -> Option<&'static [u8]> {
        match self {
            Self::Http2 => Some(b"h2"),
            Self::Http11 => Some(b"http/1.1"),
            Self::Nothing => None,
        }
    }
}

/// What the request or connection is, towards the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientAlpn {
    /// An HTTP/1.1 connection.
    Http11,
    /// An HTTP/2 connection.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl ClientAlpn {
    /// The list to offer (B.2).
    ///
    /// Deviation: Istio offers `istio-peer-exchange` before `istio` for TCP. A server that selects it writes its metadata
    /// into the stream before any data, a protocol we do not speak; `istio` alone picks the same filter chain.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::Http11 => &[b"istio-http/1.1", b"istio", b"http/1.1"],
            Self::Http2 => &[b"istio-h2", b"istio", b"h2"],
            Self::Tcp => &[b"istio"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }

    /// What is offered to a server that is no sidecar (B.5): HTTP/2 where that is spoken, else nothing.
    pub(crate) fn outside_the_mesh(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http11 | Self::Tcp => Vec::new(),
        }
    }
}

/// What every configuration made from one set of credentials shares.
#[derive(Clone)]
pub(crate) struct Base {
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) clock: Arc<dyn TimeProvider>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) min_version_13: bool,
}

impl Base {
    /// A configuration that selects `alpn` of a client that offers it; where that is nothing, it refuses nothing.
    pub(crate) fn server(&self, verifier: Arc<CallerVerifier>, alpn: ServerAlpn) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(self.versions())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from((*self.key).clone())));
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = alpn.name().into_iter().map(<[u8]>::to_vec).collect();
        Ok(Arc::new(config))
    }

    /// The ALPN list comes per connection.
    pub(crate) fn client(&self, verifier: ServiceVerifier) -> Result<Arc<ClientConfig>, Error> {
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(self.versions())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from((*self.key).clone())));
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        if self.min_version_13 { &VERSIONS[..1] } else { &VERSIONS }
    }
}

/// aws-lc-rs with Istio's cipher suites, in our order.
pub(crate) fn provider(post_quantum: bool) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = CIPHER_SUITES.to_vec();
    let hybrid = post_quantum.then_some(kx_group::X25519MLKEM768);
    provider.kx_groups = hybrid.into_iter().chain(CLASSIC_GROUPS.iter().copied()).collect();
    Arc::new(provider)
}

/// The newest first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

static CIPHER_SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

static CLASSIC_GROUPS: [&dyn SupportedKxGroup; 3] = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_chain_speaks_is_selected_in_its_order_of_what_is_offered() {
        use ServerAlpn::{Http2, Http11, Nothing};
        for (spoken, offered, selected) in [
            (&[Http2, Http11][..], &["istio-h2", "istio", "h2"][..], Http2),
            (&[Http2, Http11], &["http/1.1", "h2"], Http2),
            (&[Http2, Http11], &["istio-http/1.1", "istio", "http/1.1"], Http11),
            (&[Http2, Http11], &["istio"], Nothing),
            (&[Http11], &["h2"], Nothing),
            (&[], &["h2", "http/1.1"], Nothing),
        ] {
            let found = ServerAlpn::select(spoken, || offered.iter().map(|name| name.as_bytes()));
            assert_eq!(found, selected, "{spoken:?} {offered:?}");
        }
    }
}
