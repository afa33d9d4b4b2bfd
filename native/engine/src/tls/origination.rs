//! TLS that a sidecar begins for its application: what a `DestinationRule` asks for, and files, into client configurations.
//!
//! In: `Origination` of a cluster; the files that it names.  Out: a `ClientConfig` that accepts exactly the servers asked for.
//! Limits: `CONFIGURATIONS` kept per worker; files of `FILE_BYTES` at most, looked at again whenever their stamp is another.
//! Fails: a file that is missing, no file, too large or of another kind, and a key that is not the certificate's: nothing is
//! sent then. Without authorities of its own a rule takes those of the operating system, and fails where there are none.
//! Source: istio-semantics B.5; attack cases TL-04, TL-13 (no resumption).

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use meshdp_model::sections::Origination;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, sign::any_supported_type};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::failure::TlsFailure;
use super::recent::Recent;
use super::verify::refused;

/// The configurations of one worker.
pub(crate) struct Originations {
    made: Recent<Origination, Made>,
    system: &'static [&'static str],
}

struct Made {
    stamps: Vec<Stamp>,
    config: Arc<ClientConfig>,
}

impl Originations {
    /// The configuration for what is asked, made anew when one of its files has changed.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub(crate) fn config(&mut self, asked: &Origination) -> Result<Arc<ClientConfig>, TlsFailure> {
        if !asked.refused.is_empty() {
            return Err(TlsFailure::Material(asked.refused.to_string()));
        }
        let files = self.files(asked)?;
        let stamps = files.iter().map(|path| Stamp::of(path)).collect::<Result<Vec<_>, _>>()?;
        if let Some(made) = self.made.find(asked).filter(|made| made.stamps == stamps) {
            return Ok(Arc::clone(&made.config));
        }
        let config = configuration(asked, &files)?;
        self.made.put(asked.clone(), Made { stamps, config: Arc::clone(&config) });
        Ok(config)
    }

    /// The files that matter: of authorities unless nothing is verified, then certificate and key where there are any.
    fn files<'a>(&self, asked: &'a Origination) -> Result<Vec<&'a str>, TlsFailure> {
        let mut files = Vec::with_capacity(3);
        if asked.verify {
            files.push(if asked.authorities.is_empty() { self.system_bundle()? } else { &*asked.authorities });
        }
        if !asked.certificate.is_empty() {
            files.extend([&*asked.certificate, &*asked.key]);
        }
        Ok(files)
    }

    fn system_bundle(&self) -> Result<&'static str, TlsFailure> {
        let found = self.system.iter().copied().find(|path| std::path::Path::new(path).is_file());
        found.ok_or_else(|| {
            let places = self.system.join(", ");
            TlsFailure::Material(format!("the operating system has no bundle of authorities (none of {places})"))
        })
    }
}

impl Default for Originations {
    fn default() -> Self {
        Self { made: Recent::new(CONFIGURATIONS), system: &SYSTEM_BUNDLES }
    }
}

impl fmt::Debug for Originations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Originations").finish_non_exhaustive()
    }
}

fn configuration(asked: &Origination, files: &[&str]) -> Result<Arc<ClientConfig>, TlsFailure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let anchors = if asked.verify { anchors(files[0])? } else { Vec::new() };
    let names = Arc::clone(&asked.names);
    let verifier = ServerVerifier { verify: asked.verify, anchors, names, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = if asked.certificate.is_empty() {
        builder.with_no_client_auth()
    } else {
        let own = own_certificate(&asked.certificate, &asked.key)?;
        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Roots of a bundle. Public bundles hold some that webpki does not read: those are passed over, an empty rest is not.
fn anchors(path: &str) -> Result<Vec<TrustAnchor<'static>>, TlsFailure> {
    let text = read(path)?;
    let mut anchors = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|why| unusable(path, &why.to_string()))?;
        if let Ok(anchor) = webpki::anchor_from_trusted_cert(&certificate) {
            anchors.push(anchor.to_owned());
        }
    }
    if anchors.is_empty() { Err(unusable(path, "it holds no authority")) } else { Ok(anchors) }
}

fn own_certificate(certificate: &str, key: &str) -> Result<CertifiedKey, TlsFailure> {
    let text = read(certificate)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|why| unusable(certificate, &why.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(certificate, "it holds no certificate"));
    }
    let der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|why| unusable(key, &why.to_string()))?;
    let signing = any_supported_type(&der).map_err(|why| unusable(key, &why.to_string()))?;
    let own = CertifiedKey::new(chain, signing);
    own.keys_match().map_err(|_| unusable(key, &format!("it is not the key of {certificate}")))?;
    Ok(own)
}

/// What tells that a file is another than before.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &str) -> Result<Self, TlsFailure> {
        let found = std::fs::metadata(path).map_err(|why| unusable(path, &why.to_string()))?;
        if !found.is_file() {
            return Err(unusable(path, "it is no file"));
        }
        Ok(Self { inode: found.ino(), size_bytes: found.len(), modified: (found.mtime(), found.mtime_nsec()) })
    }
}

/// A pipe in the place of a file must not stop the worker, nor a huge file fill its memory.
fn read(path: &str) -> Result<Vec<u8>, TlsFailure> {
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut bytes = Vec::new();
    let read = opened.and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(why) => Err(unusable(path, &why.to_string())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES => Err(unusable(path, &format!("it is above {FILE_BYTES} bytes"))),
        Ok(_) => Ok(bytes),
    }
}

fn unusable(path: &str, why: &str) -> TlsFailure {
    TlsFailure::Material(format!("{path}: {why}"))
}

/// Accepts servers under the authorities that prove one of the names; without names, the one that was asked for.
struct ServerVerifier {
    verify: bool,
    anchors: Vec<TrustAnchor<'static>>,
    names: Arc<[Arc<str>]>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), TlsFailure> {
        let end = EndEntityCert::try_from(leaf).map_err(|why| refused(&why))?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        end.verify_for_usage(algorithms, &self.anchors, intermediates, now, KeyUsage::server_auth(), None, None)
            .map_err(|why| refused(&why))?;
        let proves = |name: &ServerName<'_>| end.verify_is_valid_for_subject_name(name).is_ok();
        if self.names.is_empty() {
            return if proves(asked) { Ok(()) } else { Err(mismatch(&asked.to_str())) };
        }
        let one = |name: &Arc<str>| match ServerName::try_from(&**name) {
            Ok(name) => proves(&name),
            Err(_) => end.valid_uri_names().any(|uri| *uri == **name),
        };
        if self.names.iter().any(one) { Ok(()) } else { Err(mismatch(&self.names.join(", "))) }
    }
}

fn mismatch(wanted: &str) -> TlsFailure {
    TlsFailure::IdentityMismatch(format!("the server's certificate is not for {wanted}"))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify {
            self.check(leaf, intermediates, name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Where Debian, Fedora, SUSE and Alpine keep their bundles: the first that exists counts, as for Istio's agent.
pub(crate) const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A public bundle has about 250 KiB.
const FILE_BYTES: u64 = 1 << 20;
/// One for each different wish of a snapshot's clusters.
const CONFIGURATIONS: usize = 256;

#[cfg(test)]
#[path = "origination_tests.rs"]
mod tests;
