//! The workload's own certificate: signing requests out, verified credentials in, published to all workers at once.
//!
//! In: PEM chain and bundle from the feed (docs/feed.md, frames `C` and `K`). Out: immutable [`Credentials`].
//! Limits: one pending key; `CLIENT_CONFIGS` client configurations kept per credentials.
//! Fails: with a [`CredentialError`]; the credentials in use stay (attack cases CA-04, CA-05).
//! Source: istio-semantics section C. The private key is made here and leaves by no door.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ServerConfig};

use crate::tls::config::{Base, ServerAlpn, provider};
use crate::tls::failure::TlsFailure;
use crate::tls::leaf::{Leaf, Validity};
use crate::tls::recent::Recent;
use crate::tls::verify::{CallerVerifier, Role, RootId, ServiceVerifier, Trust};

/// Where the newest [`Credentials`] are found; one per process.
pub struct CredentialStore {
    current: ArcSwapOption<Credentials>,
    waiting: Mutex<Waiting>,
    epochs: AtomicU64,
    clock: Arc<dyn TimeProvider>,
}

/// What was asked for and is not installed yet.
#[derive(Default)]
struct Waiting {
    identity: Option<String>,
    key: Option<Arc<dyn SigningKey>>,
}

/// Which peers and which parameters handshakes accept; from the snapshot's `mesh` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Our trust domain and its aliases.
    pub trust_domains: Vec<String>,
    /// Whether callers must be of one of `trust_domains`.
    pub validate_trust_domain: bool,
    /// Whether TLS 1.2 is refused.
    pub min_version_13: bool,
    /// Whether the hybrid key exchange is offered first.
    pub post_quantum: bool,
}

/// Our certificate, its key, the roots, and what handshakes offer with them. Immutable; a rotation makes another.
pub struct Credentials {
    /// Grows with every installation and rebuild: part of pool keys.
    pub epoch: u64,
    identity: String,
    validity: Validity,
    policy: TrustPolicy,
    pub(super) trust: Arc<Trust>,
    pub(super) base: Base,
    server_h2: Arc<ServerConfig>,
    server_http11: Arc<ServerConfig>,
    server_nothing: Arc<ServerConfig>,
    clients: Mutex<Recent<Arc<[String]>, Arc<ClientConfig>>>,
}

impl CredentialStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(DefaultTimeProvider))
    }

    /// An empty store whose handshakes take the time from `clock`.
    pub fn with_clock(clock: Arc<dyn TimeProvider>) -> Self {
        Self { current: ArcSwapOption::empty(), waiting: Mutex::default(), epochs: AtomicU64::new(1), clock }
    }

    /// The newest credentials, if any were installed.
    pub fn load(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Makes a key and a PEM certificate request for `identity`; without one the authority alone names it (the feed knows
    /// whom a socket belongs to). The key waits here for its certificate; a later request
    /// replaces it.
    pub fn csr(&self, identity: Option<&str>) -> Result<Vec<u8>, CredentialError> {
        let refused = |error: rcgen::Error| CredentialError::Request(error.to_string());
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(identity) = identity {
            params.subject_alt_names = vec![SanType::URI(identity.try_into().map_err(refused)?)];
        }
        let request = params.serialize_request(&pair).and_then(|request| request.pem()).map_err(refused)?;
        let der = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|why| CredentialError::Key(why.to_owned()))?;
        let mut waiting = self.waiting();
        waiting.identity = identity.map(str::to_owned);
        waiting.key = Some(signing_key(&der)?);
        Ok(request.into_bytes())
    }

    /// Checks and publishes a chain (leaf first) with the bundle that replaces the old one. Without `key_pem` the key is
    /// the one of the last request, or the one in use where the certificate is its own.
    pub fn install(
        &self,
        chain_pem: &[u8],
        bundle_pem: &[u8],
        key_pem: Option<&[u8]>,
        policy: &TrustPolicy,
        now_unix: u64,
    ) -> Result<Arc<Credentials>, CredentialError> {
        let mut waiting = self.waiting();
        let chain = read_chain(chain_pem)?;
        let key = self.key_of(&chain, key_pem, waiting.key.as_ref())?;
        let base = Base {
            provider: provider(policy.post_quantum),
            clock: self.clock.clone(),
            key: Arc::new(CertifiedKey::new(chain, key)),
            min_version_13: policy.min_version_13,
        };
        let trust = self.trust_of(bundle_pem, &base)?;
        let checked = check_own(&base.key.cert, &trust, waiting.identity.as_deref(), now_unix)?;
        let made = Arc::new(Credentials::make(self.next_epoch(), checked, policy.clone(), trust, base)?);
        waiting.key = None;
        self.current.store(Some(made.clone()));
        Ok(made)
    }

    /// Publishes the chain in use again under another trust bundle.
    pub fn trust(&self, bundle_pem: &[u8], now_unix: u64) -> Result<Arc<Credentials>, CredentialError> {
        let _one_writer = self.waiting();
        let old = self.load().ok_or(CredentialError::NoKey)?;
        let trust = self.trust_of(bundle_pem, &old.base)?;
        if Arc::ptr_eq(&trust, &old.trust) {
            return Ok(old);
        }
        let own = check_own(&old.base.key.cert, &trust, Some(&old.identity), now_unix)?;
        let made = Credentials::make(self.next_epoch(), own, old.policy.clone(), trust, old.base.clone())?;
        let made = Arc::new(made);
        self.current.store(Some(made.clone()));
        Ok(made)
    }

    /// Publishes the credentials in use again under another policy. Nothing changes where there are none, or where the
    /// policy is the same.
    pub fn rebuild(&self, policy: &TrustPolicy) -> Result<Option<Arc<Credentials>>, CredentialError> {
        let _one_writer = self.waiting();
        let Some(old) = self.load() else { return Ok(None) };
        if old.policy == *policy {
            return Ok(Some(old));
        }
        let mut base = old.base.clone();
        base.provider = provider(policy.post_quantum);
        base.min_version_13 = policy.min_version_13;
        let own = (old.identity.clone(), old.validity);
        let made = Arc::new(Credentials::make(self.next_epoch(), own, policy.clone(), old.trust.clone(), base)?);
        self.current.store(Some(made.clone()));
        Ok(Some(made))
    }

    /// The same bundle keeps its verified chains over a rotation; another starts anew.
    fn trust_of(&self, bundle_pem: &[u8], base: &Base) -> Result<Arc<Trust>, CredentialError> {
        match self.load() {
            Some(current) if current.trust.is_of(bundle_pem) => Ok(current.trust.clone()),
            _ => Trust::parse(bundle_pem, self.next_epoch(), base.provider.signature_verification_algorithms)
                .map(Arc::new)
                .map_err(CredentialError::Bundle),
        }
    }

    fn key_of(
        &self,
        chain: &[CertificateDer<'static>],
        key_pem: Option<&[u8]>,
        waiting: Option<&Arc<dyn SigningKey>>,
    ) -> Result<Arc<dyn SigningKey>, CredentialError> {
        let given = match key_pem {
            Some(pem) => {
                let der =
                    PrivateKeyDer::from_pem_slice(pem).map_err(|error| CredentialError::Key(error.to_string()))?;
                vec![signing_key(&der)?]
            }
            None => waiting.cloned().into_iter().chain(self.load().map(|used| used.base.key.key.clone())).collect(),
        };
        if given.is_empty() {
            return Err(CredentialError::NoKey);
        }
        let fits = |key: &Arc<dyn SigningKey>| CertifiedKey::new(chain.to_vec(), key.clone()).keys_match().is_ok();
        given.into_iter().find(fits).ok_or(CredentialError::KeyMismatch)
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Both fields are replaced whole, so a panic elsewhere left nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for CredentialStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Credentials {
    pub(crate) fn make(
        epoch: u64,
        own: (String, Validity),
        policy: TrustPolicy,
        trust: Arc<Trust>,
        base: Base,
    ) -> Result<Self, CredentialError> {
        let refused = |error: rustls::Error| CredentialError::Refused(error.to_string());
        // A trust domain spells `@` as `.` in identities (istio-semantics section C).
        let domains = policy.trust_domains.iter().map(|domain| domain.replace('@', ".")).collect();
        let trust_domains = policy.validate_trust_domain.then_some(domains);
        let callers = Arc::new(CallerVerifier { trust: trust.clone(), trust_domains });
        let serving = |alpn| base.server(callers.clone(), alpn).map_err(refused);
        let server_h2 = serving(ServerAlpn::Http2)?;
        let server_http11 = serving(ServerAlpn::Http11)?;
        let server_nothing = serving(ServerAlpn::Nothing)?;
        let (identity, validity) = own;
        let clients = Mutex::new(Recent::new(CLIENT_CONFIGS));
        Ok(Self { epoch, identity, validity, policy, trust, base, server_h2, server_http11, server_nothing, clients })
    }

    /// Our SPIFFE id.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether our own certificate is no longer valid.
    pub fn have_expired(&self) -> bool {
        self.not_after_unix() <= self.now_unix()
    }

    fn now_unix(&self) -> u64 {
        self.base.clock.current_time().map_or(0, |now| now.as_secs())
    }

    /// Whether chains that lead to this root are still accepted.
    pub(crate) fn trusts(&self, root: &RootId) -> bool {
        self.trust.holds(root)
    }

    /// The root that the peer's chain leads to. After a handshake this is remembered, not verified anew.
    pub(crate) fn root_of(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        peer: Role,
    ) -> Result<RootId, TlsFailure> {
        self.trust.verify(leaf, intermediates, peer, self.now_unix())
    }

    /// The first second in which the whole chain is valid.
    pub fn not_before_unix(&self) -> u64 {
        self.validity.from
    }

    /// The last second in which the whole chain is valid.
    pub fn not_after_unix(&self) -> u64 {
        self.validity.until
    }

    /// Changes exactly when the trust bundle does.
    pub fn trust_epoch(&self) -> u64 {
        self.trust.epoch
    }

    /// The policy that they were built for.
    pub fn policy(&self) -> &TrustPolicy {
        &self.policy
    }

    /// What is offered to a client of whose protocols this one is selected: rustls would refuse where lists do not overlap.
    pub(crate) fn server_config(&self, alpn: ServerAlpn) -> Arc<ServerConfig> {
        let config = match alpn {
            ServerAlpn::Http2 => &self.server_h2,
            ServerAlpn::Http11 => &self.server_http11,
            ServerAlpn::Nothing => &self.server_nothing,
        };
        Arc::clone(config)
    }

    /// The configuration that accepts exactly `expected`, made once.
    pub(crate) fn client_config(&self, expected: &[String]) -> Result<Arc<ClientConfig>, TlsFailure> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.find(expected) {
            return Ok(config.clone());
        }
        let expected: Arc<[String]> = expected.into();
        let verifier = ServiceVerifier { trust: self.trust.clone(), expected: expected.clone() };
        let config = self.base.client(verifier)?;
        clients.put(expected, config.clone());
        Ok(config)
    }
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(CredentialError::Chain("it holds no certificate".to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(CredentialError::Chain(error.to_string())),
    }
}

fn signing_key(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, CredentialError> {
    any_supported_type(der).map_err(|error| CredentialError::Key(error.to_string()))
}

/// Our own certificate must pass what our peers will ask of it, in both roles.
fn check_own(
    chain: &[CertificateDer<'static>],
    trust: &Trust,
    expected: Option<&str>,
    now_unix: u64,
) -> Result<(String, Validity), CredentialError> {
    let (first, rest) = chain.split_first().ok_or(CredentialError::NoKey)?;
    let leaf = Leaf::parse(first).map_err(|failure| CredentialError::NotAnSvid(failure.to_string()))?;
    if now_unix < leaf.validity.from {
        return Err(CredentialError::Lifetime(Lifetime::Begins { seconds: leaf.validity.from - now_unix }));
    }
    if now_unix > leaf.validity.until {
        return Err(CredentialError::Lifetime(Lifetime::Ended { seconds: now_unix - leaf.validity.until }));
    }
    let days = leaf.validity.until.saturating_sub(leaf.validity.from) / DAY_S;
    if days > LONGEST_LIFE_DAYS {
        return Err(CredentialError::Lifetime(Lifetime::TooLong { days }));
    }
    if let Some(expected) = expected
        && expected != leaf.uri
    {
        return Err(CredentialError::Identity { expected: expected.to_owned(), found: leaf.uri });
    }
    for role in [Role::Client, Role::Server] {
        trust.verify(first, rest, role, now_unix).map_err(|failure| CredentialError::Untrusted(failure.to_string()))?;
    }
    let mut validity = leaf.validity;
    for certificate in rest {
        validity =
            validity.and(Validity::parse(certificate).map_err(|failure| CredentialError::Chain(failure.to_string()))?);
    }
    Ok((leaf.uri, validity))
}

/// Why credentials were not installed. Those in use stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// The chain is no PEM list of certificates.
    Chain(String),
    /// The bundle is no PEM list of certificates.
    Bundle(String),
    /// The key is no PEM key of a supported kind.
    Key(String),
    /// No key was given, requested or in use.
    NoKey,
    /// The leaf certifies another key.
    KeyMismatch,
    /// The leaf is no X.509-SVID, for instance because it has not exactly one SPIFFE URI name.
    NotAnSvid(String),
    /// The leaf is not valid now, or for too long.
    Lifetime(Lifetime),
    /// The chain does not lead to the bundle.
    Untrusted(String),
    /// The certificate is somebody else's.
    Identity {
        /// Who we asked to be.
        expected: String,
        /// Who the certificate names.
        found: String,
    },
    /// A certificate request could not be made.
    Request(String),
    /// The TLS library refused the parameters.
    Refused(String),
}

/// What is wrong with a leaf's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It has ended.
    Ended {
        /// How long ago.
        seconds: u64,
    },
    /// It has not begun.
    Begins {
        /// How long until then.
        seconds: u64,
    },
    /// Nothing takes it back for so long.
    TooLong {
        /// How long it lives.
        days: u64,
    },
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(why) => write!(f, "the certificate chain cannot be read ({why}); send PEM, leaf first"),
            Self::Bundle(why) => write!(f, "the trust bundle cannot be read ({why}); send the roots as PEM"),
            Self::Key(why) => write!(f, "the private key cannot be used ({why}); give a PEM key, ECDSA or RSA"),
            Self::NoKey => f.write_str("there is no key for this certificate; make a request first, or give the key"),
            Self::KeyMismatch => {
                f.write_str("the certificate is for another key; sign the newest request, or give the matching pair")
            }
            Self::NotAnSvid(why) => write!(f, "{why}; issue it with one spiffe:// URI name and no CA rights"),
            Self::Lifetime(Lifetime::Ended { seconds }) => {
                write!(f, "the certificate ended {seconds} s ago; issue a new one, or set the clock")
            }
            Self::Lifetime(Lifetime::Begins { seconds }) => {
                write!(f, "the certificate starts in {seconds} s; set the clock, or backdate by a minute")
            }
            Self::Lifetime(Lifetime::TooLong { days }) => {
                write!(
                    f,
                    "the certificate lives {days} days; issue one of at most {LONGEST_LIFE_DAYS}, better of hours"
                )
            }
            Self::Untrusted(why) => {
                write!(f, "our own certificate would be refused: {why}; send the bundle of its issuer")
            }
            Self::Identity { expected, found } => {
                write!(f, "the certificate names {found} where {expected} was asked for; ask the CA what proved that")
            }
            Self::Request(why) => write!(f, "no certificate request could be made ({why}); check the identity"),
            Self::Refused(why) => {
                write!(f, "the TLS library refused the settings ({why}); report this with its settings")
            }
        }
    }
}

impl std::error::Error for CredentialError {}

/// What public authorities may issue at most; a workload's certificate cannot be revoked (attack case CA-05).
const LONGEST_LIFE_DAYS: u64 = 398;
const DAY_S: u64 = 86_400;

/// Client configurations kept per credentials, one per list of expected identities.
const CLIENT_CONFIGS: usize = 1024;

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
