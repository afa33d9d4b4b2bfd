//! SPIFFE identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` into its parts, and back.
//!
//! In:      text of a snapshot, or the URI SAN of a verified peer certificate.
//! Out:     `Identity` (exactly Istio's five parts) and `Peer` (any SPIFFE URI; policy compares its text).
//! Limits:  `MAX_IDENTITY_BYTES`.      Fails: `IdentityError`; for a peer that is the peer's fault.
//! Source:  SPIFFE-ID specification sections 2.1 to 2.4; istio-semantics C.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A workload identity in Istio's form. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    /// Parses the strict form: exactly five parts, the literals `ns` and `sa`, no part empty.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        check_uri(text)?;
        let parts: Vec<&str> = text[SCHEME.len()..].split('/').collect();
        let [_, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(IdentityError::NotIstioForm);
        };
        if namespace.is_empty() || service_account.is_empty() {
            return Err(IdentityError::EmptyPart);
        }
        Ok(Self(text.into()))
    }

    /// The trust domain: the authority of the URI.
    pub fn trust_domain(&self) -> &str {
        self.part(0)
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        self.part(2)
    }

    /// The name of the service account.
    pub fn service_account(&self) -> &str {
        self.part(4)
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URI without `spiffe://`, as policies write it.
    pub fn principal(&self) -> &str {
        &self.0[SCHEME.len()..]
    }

    fn part(&self, index: usize) -> &str {
        self.principal().split('/').nth(index).unwrap_or_default()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An authenticated peer: the one URI SAN of its verified certificate. The path may have any shape. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    uri: Arc<str>,
    trust_domain: Range<usize>,
}

impl Peer {
    /// Takes a peer's URI SAN: any SPIFFE URI with a trust domain.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        check_uri(uri)?;
        let end = uri[SCHEME.len()..].find('/').map_or(uri.len(), |slash| SCHEME.len() + slash);
        Ok(Self { uri: uri.into(), trust_domain: SCHEME.len()..end })
    }

    /// The whole URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The whole URI, shared.
    pub fn shared_uri(&self) -> Arc<str> {
        Arc::clone(&self.uri)
    }

    /// The URI without `spiffe://`, as policies write it.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The trust domain: the authority of the URI.
    pub fn trust_domain(&self) -> &str {
        &self.uri[self.trust_domain.clone()]
    }

    /// The identity, when the path has Istio's form.
    pub fn identity(&self) -> Option<Identity> {
        Identity::parse(&self.uri).ok()
    }
}

impl From<&Identity> for Peer {
    fn from(identity: &Identity) -> Self {
        let end = SCHEME.len() + identity.trust_domain().len();
        Self { uri: Arc::clone(&identity.0), trust_domain: SCHEME.len()..end }
    }
}

/// Why a text is not a SPIFFE identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// The text does not start with `spiffe://` (in lower case).
    NotSpiffe,
    /// The trust domain is empty or holds a byte outside of `a-z 0-9 . - _`.
    BadTrustDomain,
    /// The path does not have the form `/ns/<namespace>/sa/<service account>`.
    NotIstioForm,
    /// The namespace or the service account is empty.
    EmptyPart,
    /// The text is longer than `MAX_IDENTITY_BYTES`.
    TooLong,
    /// The path holds a byte that a SPIFFE ID must not hold: white space, a control byte, `?`, `#` or one above 0x7e.
    BadByte,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSpiffe => "an identity starts with spiffe://",
            Self::BadTrustDomain => {
                "the trust domain of an identity is made of a-z, 0-9, '.', '-' and '_' and is not empty"
            }
            Self::NotIstioForm => {
                "an identity has the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
            }
            Self::EmptyPart => "the namespace and the service account of an identity are not empty",
            Self::TooLong => "an identity has at most 2048 bytes",
            Self::BadByte => "an identity holds no white space, control byte, query, fragment or byte above 0x7e",
        })
    }
}

impl std::error::Error for IdentityError {}

/// Checks what holds for every SPIFFE URI. Deviation from SPIFFE-ID 2.2: path segments may be empty, or hold `%` and
/// other printable bytes, because policies compare a peer's path as text and Envoy takes any.
fn check_uri(text: &str) -> Result<(), IdentityError> {
    if text.len() > MAX_IDENTITY_BYTES {
        return Err(IdentityError::TooLong);
    }
    let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::NotSpiffe)?;
    let trust_domain = rest.split('/').next().unwrap_or_default();
    if trust_domain.is_empty() || !trust_domain.bytes().all(is_trust_domain_byte) {
        return Err(IdentityError::BadTrustDomain);
    }
    if rest.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'?' || byte == b'#') {
        return Err(IdentityError::BadByte);
    }
    Ok(())
}

/// SPIFFE-ID 2.1: letters in lower case, digits, dots, dashes and underscores.
fn is_trust_domain_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

const SCHEME: &str = "spiffe://";

/// SPIFFE-ID 2.3: implementations take identities of up to 2048 bytes.
pub const MAX_IDENTITY_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_exactly_five_parts() {
        let identity = Identity::parse("spiffe://td.example/ns/default/sa/web").unwrap();
        assert_eq!(identity.trust_domain(), "td.example");
        assert_eq!(identity.namespace(), "default");
        assert_eq!(identity.service_account(), "web");
        assert_eq!(identity.principal(), "td.example/ns/default/sa/web");
        for (text, error) in [
            ("td.example/ns/default/sa/web", IdentityError::NotSpiffe),
            ("SPIFFE://td/ns/a/sa/b", IdentityError::NotSpiffe),
            ("spiffe:///ns/a/sa/b", IdentityError::BadTrustDomain),
            ("spiffe://TD/ns/a/sa/b", IdentityError::BadTrustDomain),
            ("spiffe://user@td/ns/a/sa/b", IdentityError::BadTrustDomain),
            ("spiffe://td:443/ns/a/sa/b", IdentityError::BadTrustDomain),
            ("spiffe://td/ns/a/sa", IdentityError::NotIstioForm),
            ("spiffe://td/ns/a/sa/b/c", IdentityError::NotIstioForm),
            ("spiffe://td/NS/a/sa/b", IdentityError::NotIstioForm),
            ("spiffe://td/ns//sa/b", IdentityError::EmptyPart),
            ("spiffe://td/ns/a/sa/", IdentityError::EmptyPart),
            ("spiffe://td/ns/a/sa/b?x", IdentityError::BadByte),
            ("spiffe://td/ns/a/sa/b c", IdentityError::BadByte),
            ("spiffe://td/ns/a/sa/b\0", IdentityError::BadByte),
        ] {
            assert_eq!(Identity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_peer_keeps_any_path_and_its_identity_only_istios() {
        let odd = Peer::parse("spiffe://td/ns/a/ns/b/sa/c").unwrap();
        assert_eq!((odd.trust_domain(), odd.principal()), ("td", "td/ns/a/ns/b/sa/c"));
        assert_eq!(odd.identity(), None);
        assert_eq!(Peer::parse("spiffe://td").unwrap().trust_domain(), "td");
        let identity = Identity::parse("spiffe://td/ns/a/sa/b").unwrap();
        let peer = Peer::parse(identity.as_str()).unwrap();
        assert_eq!(peer.identity().as_ref(), Some(&identity));
        assert_eq!(peer, Peer::from(&identity));
    }

    #[test]
    fn an_identity_is_bounded() {
        let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(MAX_IDENTITY_BYTES));
        assert_eq!(Peer::parse(&long), Err(IdentityError::TooLong));
    }
}
