//! Who the peer is: certificate chains in, verdicts out, under our SPIFFE rules on top of webpki's path building.
//!
//! In: a chain, the side that the peer plays, the time. Out: nothing, or the [`TlsFailure`] that refuses the handshake.
//! Limits: `CHAIN_CERTIFICATES` per chain; `VERIFIED_CHAINS` verified chains remembered per trust bundle, each only
//! within its validity. What was remembered is the chain alone: identity and trust domain are checked every time.
//! Source: istio-semantics section C; X509-SVID section 5; attack cases TL-01 to TL-09.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::failure::TlsFailure;
use super::leaf::{Leaf, Validity, sha256};
use super::recent::Recent;

/// A trust bundle, and the chains that lately led to it.
pub(crate) struct Trust {
    /// Changes with the bundle: part of every cache key.
    pub(crate) epoch: u64,
    bundle_hash: [u8; 32],
    anchors: Vec<TrustAnchor<'static>>,
    /// Parallel to `anchors`.
    roots: Vec<Root>,
    algorithms: WebPkiSupportedAlgorithms,
    verified: Mutex<Recent<[u8; 32], (Validity, RootId)>>,
}

/// A root of a bundle. Bundles may hold a root twice, before and after its renewal with the same key: one id, two roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) id: RootId,
    /// SHA-256 of the certificate: what people compare.
    pub(crate) fingerprint: [u8; 32],
    /// webpki ignores when a root ends, we do not.
    pub(crate) validity: Validity,
}

/// Hash of a root's name and key: what chains lead to.
pub(crate) type RootId = [u8; 32];

/// The side that the certificate's holder plays in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Trust {
    /// Reads a PEM bundle of roots; `Err` is a part of a sentence.
    pub(crate) fn parse(bundle: &[u8], epoch: u64, algorithms: WebPkiSupportedAlgorithms) -> Result<Self, String> {
        let mut anchors = Vec::new();
        let mut roots = Vec::new();
        for root in CertificateDer::pem_slice_iter(bundle) {
            let root = root.map_err(|error| error.to_string())?;
            let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|error| error.to_string())?;
            let validity = Validity::parse(&root).map_err(|failure| failure.to_string())?;
            roots.push(Root { id: id_of(&anchor), fingerprint: sha256(&root), validity });
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let verified = Mutex::new(Recent::new(VERIFIED_CHAINS));
        Ok(Self { epoch, bundle_hash: sha256(bundle), anchors, roots, algorithms, verified })
    }

    pub(crate) fn is_of(&self, bundle: &[u8]) -> bool {
        self.bundle_hash == sha256(bundle)
    }

    /// The roots, in the bundle's order.
    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether chains that lead to this root are accepted.
    pub(crate) fn holds(&self, root: &RootId) -> bool {
        self.roots.iter().any(|held| held.id == *root)
    }

    /// Verifies that a path leads from the leaf to a root, valid now, usable in this role; says to which.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now_unix: u64,
    ) -> Result<RootId, TlsFailure> {
        if intermediates.len() >= CHAIN_CERTIFICATES {
            return Err(TlsFailure::UntrustedChain(format!("it has more than {CHAIN_CERTIFICATES} certificates")));
        }
        let key = self.chain_key(leaf, intermediates, role);
        let known = self.lock().find(&key).copied();
        if let Some((validity, root)) = known
            && validity.contains(now_unix)
        {
            return Ok(root);
        }
        let (validity, root) = self.verify_path(leaf, intermediates, role, now_unix)?;
        self.lock().put(key, (validity, root));
        Ok(root)
    }

    /// The full verification; the answer is the time in which all certificates of the path are valid, and its root.
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now_unix: u64,
    ) -> Result<(Validity, RootId), TlsFailure> {
        let end = EndEntityCert::try_from(leaf).map_err(|error| refused(&error))?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix));
        let path = end
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(|error| refused(&error))?;
        // Our own parser sees only what webpki has verified.
        let mut validity = Validity::parse(leaf)?;
        for certificate in path.intermediate_certificates() {
            validity = validity.and(Validity::parse(&certificate.der())?);
        }
        let id = id_of(path.anchor());
        let root = self.root_validity(&id, now_unix);
        root.check(now_unix)?;
        Ok((validity.and(root), id))
    }

    /// The bundle may hold a root twice, before and after its renewal with the same key: the valid one counts.
    fn root_validity(&self, id: &RootId, now_unix: u64) -> Validity {
        let all = self.roots.iter().filter(|held| held.id == *id).map(|held| held.validity);
        let last = Validity { from: 0, until: 0 };
        all.fold(last, |best, next| if best.contains(now_unix) { best } else { next })
    }

    fn chain_key(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], role: Role) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.epoch.to_be_bytes());
        context.update(&[u8::from(role == Role::Server)]);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        key
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recent<[u8; 32], (Validity, RootId)>> {
        // The map is whole between calls, so a panic elsewhere left nothing half done.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id_of(anchor: &TrustAnchor<'_>) -> RootId {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&anchor.subject, &anchor.subject_public_key_info] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut id = [0; 32];
    id.copy_from_slice(context.finish().as_ref());
    id
}

/// How a chain failed: by its time, or by what it leads to.
pub(super) fn refused(error: &webpki::Error) -> TlsFailure {
    match error {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            TlsFailure::Expired(format!("{error}"))
        }
        _ => TlsFailure::UntrustedChain(format!("{error}")),
    }
}

/// Checks callers: any identity of the accepted trust domains, by a certificate that they must present.
pub(crate) struct CallerVerifier {
    pub(crate) trust: Arc<Trust>,
    /// `None` accepts every domain under the roots (`PILOT_SKIP_VALIDATE_TRUST_DOMAIN`).
    pub(crate) trust_domains: Option<Vec<String>>,
}

/// Checks servers: exactly the identities of the service, or with none given any identity under the roots.
pub(crate) struct ServiceVerifier {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expected: Arc<[String]>,
}

impl CallerVerifier {
    fn check(&self, leaf: &Leaf) -> Result<(), TlsFailure> {
        match &self.trust_domains {
            Some(domains) if !domains.iter().any(|domain| domain == leaf.trust_domain()) => Err(
                TlsFailure::TrustDomain(format!("{} is of a trust domain that this mesh does not accept", leaf.uri)),
            ),
            _ => Ok(()),
        }
    }
}

impl ServiceVerifier {
    fn check(&self, leaf: &Leaf) -> Result<(), TlsFailure> {
        if self.expected.is_empty() || self.expected.contains(&leaf.uri) {
            return Ok(());
        }
        let first = &self.expected[0];
        let more = self.expected.len() - 1;
        Err(TlsFailure::IdentityMismatch(format!("the server is {} where {first} (and {more} more) may be", leaf.uri)))
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(leaf, intermediates, Role::Client, now.as_secs())?;
        self.check(&Leaf::parse(leaf)?)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for ServiceVerifier {
    /// The name is only what was sent as SNI; who may answer is a matter of SPIFFE identities.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.verify(leaf, intermediates, Role::Server, now.as_secs())?;
        self.check(&Leaf::parse(leaf)?)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.trust.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

impl fmt::Debug for CallerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerVerifier").field("trust_domains", &self.trust_domains).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServiceVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// The longest chain that is looked at, leaf included.
const CHAIN_CERTIFICATES: usize = 8;
/// Verified chains remembered per trust bundle.
const VERIFIED_CHAINS: usize = 1024;

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
