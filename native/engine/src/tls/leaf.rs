//! What a workload certificate says about itself: DER in, SPIFFE identity and validity out.
//!
//! Fails: with `NotAnSvid` unless the leaf is an X.509-SVID: exactly one URI name, a SPIFFE id with a path, no CA rights.
//! Source: SPIFFE-ID section 2, X509-SVID sections 2, 4 and 5.2; attack cases TL-05, TL-06, TL-07.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::failure::TlsFailure;

/// The parts of a workload certificate that decisions use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The one URI name, a valid SPIFFE id.
    pub(crate) uri: String,
    /// SHA-256 of the certificate.
    pub(crate) hash: [u8; 32],
    pub(crate) validity: Validity,
}

/// Seconds since 1970, both ends included (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Leaf {
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, TlsFailure> {
        let certificate = certificate(der)?;
        check_rights(&certificate)?;
        let uri = one_uri(&certificate)?;
        check_spiffe_id(&uri).map_err(|why| TlsFailure::NotAnSvid(format!("its URI name {uri:?} has {why}")))?;
        Ok(Self { uri, hash: sha256(der), validity: Validity::of(&certificate) })
    }

    /// The trust domain of the identity.
    pub(crate) fn trust_domain(&self) -> &str {
        let id = self.uri.strip_prefix(SCHEME).unwrap_or_default();
        id.split_once('/').map_or(id, |(domain, _)| domain)
    }
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        // A time before 1970 is as past as 1970.
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        Self { from: seconds(validity.not_before.timestamp()), until: seconds(validity.not_after.timestamp()) }
    }

    /// The validity of any certificate, CA or not.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, TlsFailure> {
        Ok(Self::of(&certificate(der)?))
    }

    /// The time in which both are valid.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    pub(crate) fn contains(self, now_unix: u64) -> bool {
        (self.from..=self.until).contains(&now_unix)
    }

    /// A sentence part when `now_unix` is outside.
    pub(crate) fn check(self, now_unix: u64) -> Result<(), TlsFailure> {
        if now_unix < self.from {
            return Err(TlsFailure::Expired(format!("it starts in {} s", self.from - now_unix)));
        }
        if now_unix > self.until {
            return Err(TlsFailure::Expired(format!("it ended {} s ago", now_unix - self.until)));
        }
        Ok(())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TlsFailure> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(TlsFailure::NotAnSvid("bytes follow the certificate".to_owned())),
        Err(error) => Err(TlsFailure::NotAnSvid(format!("it cannot be read: {error}"))),
    }
}

/// X509-SVID section 4.3 and 5.2: a leaf signs handshakes, never certificates. A certificate without the key usage
/// extension restricts nothing (RFC 5280 section 4.2.1.3) and passes, as with Envoy.
fn check_rights(certificate: &X509Certificate<'_>) -> Result<(), TlsFailure> {
    let refuse = |why: &str| Err(TlsFailure::NotAnSvid(why.to_owned()));
    match certificate.basic_constraints() {
        Ok(constraints) if constraints.as_ref().is_some_and(|found| found.value.ca) => return refuse("it is a CA"),
        Ok(_) => {}
        Err(_) => return refuse("its basic constraints cannot be read"),
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => refuse("it may sign certificates"),
        Ok(Some(usage)) if usage.value.crl_sign() => refuse("it may sign revocation lists"),
        Ok(Some(usage)) if !usage.value.digital_signature() => refuse("it may not sign handshakes"),
        Ok(_) => Ok(()),
        Err(_) => refuse("its key usage cannot be read"),
    }
}

fn one_uri(certificate: &X509Certificate<'_>) -> Result<String, TlsFailure> {
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.as_slice(),
        Ok(None) => &[],
        Err(_) => return Err(TlsFailure::NotAnSvid("its alternative names cannot be read".to_owned())),
    };
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        (None, _) => Err(TlsFailure::NotAnSvid("it has no URI name, exactly one is needed".to_owned())),
        (Some(_), Some(_)) => Err(TlsFailure::NotAnSvid("it has several URI names, exactly one is needed".to_owned())),
    }
}

/// SPIFFE-ID section 2.1 and 2.2, with the path that X509-SVID section 2 wants of a leaf.
fn check_spiffe_id(uri: &str) -> Result<(), &'static str> {
    if uri.len() > SPIFFE_ID_BYTES {
        return Err("more than 2048 bytes");
    }
    let id = uri.strip_prefix(SCHEME).ok_or("another scheme than spiffe")?;
    let (domain, path) = id.split_once('/').ok_or("no path")?;
    let domain_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if domain.is_empty() || domain.len() > TRUST_DOMAIN_BYTES || !domain.bytes().all(domain_byte) {
        return Err("no valid trust domain");
    }
    let path_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(path_byte) {
            return Err("an invalid path");
        }
    }
    Ok(())
}

const SCHEME: &str = "spiffe://";
const SPIFFE_ID_BYTES: usize = 2048;
const TRUST_DOMAIN_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::check_spiffe_id;

    #[test]
    fn tl_05_spiffe_ids_that_are_none() {
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        let none = [
            "",
            "http://cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe:///ns/a",
            "spiffe://Cluster.local/ns/a",
            "spiffe://user@cluster.local/ns/a",
            "spiffe://cluster.local:80/ns/a",
            "spiffe://cluster.local/ns/%61",
            "spiffe://cluster.local/ns/../a",
            "spiffe://cluster.local/ns/./a",
            "spiffe://cluster.local/ns//a",
            "spiffe://cluster.local/ns/a/",
            "spiffe://cluster.local/ns/a?b",
            "spiffe://cluster.local/ns/a#b",
            "spiffe://cluster.local/ns/a\0",
            long.as_str(),
        ];
        for uri in none {
            assert!(check_spiffe_id(uri).is_err(), "{uri:?} was taken");
        }
    }

    #[test]
    fn spiffe_ids_that_are_some() {
        for uri in ["spiffe://cluster.local/ns/default/sa/reviews", "spiffe://td-1_x/a", "spiffe://td/A.b-c_d/..."] {
            assert_eq!(check_spiffe_id(uri), Ok(()), "{uri}");
        }
    }
}
