//! What may be told about credentials: numbers, names and times of public certificates; never a key.
//!
//! In: [`Credentials`]. Out: [`Facts`], for `GET /certs`, the feed and the log.

use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::verify::{Role, Root};
use crate::tls::credentials::Credentials;

/// What is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Our SPIFFE id.
    pub identity: String,
    /// The leaf's serial number, hexadecimal.
    pub serial: String,
    /// The first second in which the whole chain is valid.
    pub not_before_unix: u64,
    /// The last one.
    pub not_after_unix: u64,
    /// SHA-256 of the root that our own chain leads to.
    pub issuer: String,
    /// The bundle, in its order.
    pub roots: Vec<RootFacts>,
}

/// One root of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootFacts {
    /// SHA-256 of its certificate, hexadecimal.
    pub fingerprint: String,
    /// Its first second.
    pub not_before_unix: u64,
    /// Its last one.
    pub not_after_unix: u64,
}

impl Credentials {
    /// What may be told about them.
    pub fn facts(&self) -> Facts {
        let roots = self.trust.roots();
        Facts {
            identity: self.identity().to_owned(),
            serial: self.serial(),
            not_before_unix: self.not_before_unix(),
            not_after_unix: self.not_after_unix(),
            issuer: self.issuer(roots),
            roots: roots.iter().map(RootFacts::of).collect(),
        }
    }

    fn serial(&self) -> String {
        let leaf = self.base.key.cert.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        leaf.map_or_else(String::new, |(_, leaf)| hex(leaf.raw_serial()))
    }

    /// Empty when our own chain is no longer valid: then it leads nowhere.
    fn issuer(&self, roots: &[Root]) -> String {
        let Some((leaf, intermediates)) = self.base.key.cert.split_first() else { return String::new() };
        let Ok(id) = self.root_of(leaf, intermediates, Role::Server) else { return String::new() };
        roots.iter().find(|root| root.id == id).map_or_else(String::new, |root| hex(&root.fingerprint))
    }
}

impl RootFacts {
    fn of(root: &Root) -> Self {
        let (not_before_unix, not_after_unix) = (root.validity.from, root.validity.until);
        Self { fingerprint: hex(&root.fingerprint), not_before_unix, not_after_unix }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
