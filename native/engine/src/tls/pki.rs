//! A certificate authority, credentials and connected streams for tests; nothing of it is in the product.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::future::Future;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use tokio::net::{TcpListener, TcpStream};

use super::config::{Base, ClientAlpn, ServerAlpn, provider};
use super::leaf::Validity;
use super::verify::Trust;
use super::{ExpectedPeer, PeerCertificate, TlsFailure, TlsStream, accept, connect};
use crate::tls::credentials::{CredentialStore, Credentials, TrustPolicy};

/// The second in which all tests take place: 2026-06-15 00:00 UTC.
pub(crate) const NOW: u64 = 1_781_481_600;
pub(crate) const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
pub(crate) const BOB: &str = "spiffe://cluster.local/ns/default/sa/bob";

#[derive(Debug)]
pub(crate) struct Clock(pub(crate) u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
    }
}

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The intermediates between a leaf of this authority and the root.
    path: String,
}

pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(authority(name))
    }

    pub(crate) fn with(params: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, path: String::new() }
    }

    pub(crate) fn sub(&self, params: CertificateParams) -> Self {
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.issuer).unwrap();
        let path = format!("{}{}", issuer.pem(), self.path);
        Self { issuer, path }
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: format!("{}{}", leaf.pem(), self.path), key: key.serialize_pem() }
    }

    pub(crate) fn sign(&self, params: &CertificateParams, key: &impl rcgen::PublicKeyData) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem() + &self.path
    }

    pub(crate) fn bundle(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn credentials(&self, uri: &str) -> Arc<Credentials> {
        self.credentials_under(uri, &policy())
    }

    pub(crate) fn credentials_under(&self, uri: &str, policy: &TrustPolicy) -> Arc<Credentials> {
        let pair = self.issue(&svid(uri));
        let store = CredentialStore::with_clock(Arc::new(Clock(NOW)));
        let key = Some(pair.key.as_bytes());
        store.install(pair.chain.as_bytes(), self.bundle().as_bytes(), key, policy, NOW).unwrap()
    }

    /// Credentials that `install` would refuse: what an attacker holds.
    pub(crate) fn rogue(&self, pair: &Pair) -> Credentials {
        let base = base(pair, &policy());
        let trust = Trust::parse(self.bundle().as_bytes(), 1, base.provider.signature_verification_algorithms).unwrap();
        let own = (String::new(), Validity { from: 0, until: u64::MAX });
        Credentials::make(1, own, policy(), Arc::new(trust), base).unwrap()
    }
}

pub(crate) fn base(pair: &Pair, policy: &TrustPolicy) -> Base {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    Base {
        provider: provider(policy.post_quantum),
        clock: Arc::new(Clock(NOW)),
        key: Arc::new(CertifiedKey::new(chain(pair), any_supported_type(&key).unwrap())),
        min_version_13: policy.min_version_13,
    }
}

pub(crate) fn chain(pair: &Pair) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect()
}

pub(crate) fn policy() -> TrustPolicy {
    TrustPolicy {
        trust_domains: vec!["cluster.local".to_owned()],
        validate_trust_domain: true,
        min_version_13: false,
        post_quantum: true,
    }
}

pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut params = blank(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A certificate as istiod would issue it.
pub(crate) fn svid(uri: &str) -> CertificateParams {
    let mut params = blank("");
    params.subject_alt_names = vec![uri_name(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn blank(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = date_time_ymd(2026, 6, 1);
    params.not_after = date_time_ymd(2026, 7, 1);
    params
}

pub(crate) type Shaken = Result<(Box<TlsStream>, PeerCertificate), TlsFailure>;

/// A handshake over loopback: (server's view, client's view).
pub(crate) async fn shake(server: &Credentials, client: &Credentials, expected: &[String]) -> (Shaken, Shaken) {
    let (near, far) = sockets().await;
    let peer = ExpectedPeer { identities: expected };
    let dial = connect(near, client, "outbound_.9080_._.bob.default.svc.cluster.local", &peer, ClientAlpn::Http11);
    tokio::join!(accept(far, Vec::new(), server, ServerAlpn::Http11), dial)
}

/// Two streams after a handshake of Bob's server with Alice: (server, client).
pub(crate) async fn streams() -> (Box<TlsStream>, Box<TlsStream>) {
    let ca = Authority::new("root");
    let (server, client) = shake(&ca.credentials(BOB), &ca.credentials(ALICE), &[BOB.to_owned()]).await;
    (server.unwrap().0, client.unwrap().0)
}

/// (client, server)
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(dial, listener.accept());
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Runs `test` as a worker would: one thread, a local task set. A test that hangs fails after 20 s.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited =
        async { tokio::time::timeout(std::time::Duration::from_secs(20), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

/// A verifier for hand-made clients: anyone under the roots.
pub(crate) fn blank_verifier(ca: &Authority) -> Arc<super::verify::ServiceVerifier> {
    let algorithms = provider(true).signature_verification_algorithms;
    let trust = Trust::parse(ca.bundle().as_bytes(), 1, algorithms).unwrap();
    Arc::new(super::verify::ServiceVerifier { trust: Arc::new(trust), expected: Arc::new([]) })
}
