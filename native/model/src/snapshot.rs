//! The snapshot: transactions into an immutable, checked set of sections that share what did not change.
//!
//! In:      transactions (docs/snapshot.md), from the boundary or the feed.
//! Out:     `Snapshot`, pinned by every connection and request.
//! Limits:  `MAX_TRANSACTION_BYTES`.      Fails: `SnapshotError`, the sender's fault; what was in force stays in force.

mod decode;
pub(crate) mod link;
mod peers;
pub(crate) mod services;
mod set;
mod transaction;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::authz::compile::Policies;
use crate::balance::EndpointSet;
use crate::jwt::TokenRules;
use crate::sections::{Cluster, Inbound, Mesh, PeerEntry, Telemetry, Workload};
use crate::snapshot::link::Linked;
use crate::snapshot::services::ServiceIndex;
use crate::snapshot::set::{Section, SectionSet};
use crate::snapshot::transaction::Transaction;
use crate::wordhash::WordMap;

/// One version of a workload's configuration. Immutable; put it in an `Arc` to share it.
#[derive(Debug)]
pub struct Snapshot {
    digest: Arc<str>,
    sections: SectionSet,
    linked: Linked,
}

impl Snapshot {
    /// What is in force before the first transaction: nothing is served, everything is denied.
    pub fn empty() -> Self {
        Self { digest: "".into(), sections: SectionSet::default(), linked: Linked::closed() }
    }

    /// Makes the snapshot that a transaction leads to. All or nothing: on an error `self` is what stays in force. A
    /// transaction whose base is empty is a whole snapshot and may follow on anything; sections that are the same in
    /// both are shared all the same.
    pub fn apply(&self, transaction: &[u8]) -> Result<Self, SnapshotError> {
        if transaction.len() > MAX_TRANSACTION_BYTES {
            return Err(SnapshotError::TransactionTooLarge { size_bytes: transaction.len() });
        }
        let transaction = Transaction::parse(transaction)?;
        let sections = self.changed_sections(&transaction)?;
        let digest = sections.digest();
        if digest != transaction.digest {
            return Err(SnapshotError::DigestDiffers { stated: transaction.digest, found: digest });
        }
        let linked = match self.linked.with_endpoints(&transaction, &sections) {
            Some(linked) => linked,
            None => Linked::link(&sections, &self.linked)?,
        };
        Ok(Self { digest: digest.into(), sections, linked })
    }

    /// The digest: 64 hex digits, or nothing before there is a configuration.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether there is a configuration.
    pub fn is_configured(&self) -> bool {
        !self.digest.is_empty()
    }

    /// The names of the sections, sorted.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|section| &*section.name)
    }

    /// The bytes of a section as they came.
    pub fn section_bytes(&self, name: &str) -> Option<&[u8]> {
        self.sections.get(name).map(|section| &section.bytes[..])
    }

    /// What holds for the whole mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.linked.mesh
    }

    /// Whom this snapshot is for; none before there is a configuration.
    pub fn workload(&self) -> Option<&Workload> {
        self.linked.workload.as_deref()
    }

    /// What is observed; none before there is a configuration.
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.linked.telemetry.as_deref()
    }

    /// Names a caller by its address and the identity it proved. Without an identity the address alone names it.
    pub fn peer_at(&self, address: IpAddr, identity: Option<&str>) -> Option<&PeerEntry> {
        self.linked.peers.at(address, identity)
    }

    /// A cluster and its endpoints.
    pub fn cluster(&self, key: &str) -> Option<(&Arc<Cluster>, &Arc<EndpointSet>)> {
        self.linked.clusters.get(key).map(|(cluster, endpoints)| (cluster, endpoints))
    }

    /// The rules for tokens; none where no token is asked for.
    pub fn token_rules(&self) -> Option<&Arc<TokenRules>> {
        self.linked.tokens.as_ref()
    }

    pub(crate) fn policies(&self) -> &Arc<Policies> {
        &self.linked.policies
    }

    pub(crate) fn inbound_ports(&self) -> &WordMap<u16, Arc<Inbound>> {
        &self.linked.inbound
    }

    pub(crate) fn inbound_passthrough(&self) -> Option<&Arc<Inbound>> {
        self.linked.passthrough.as_ref()
    }

    pub(crate) fn services(&self) -> &ServiceIndex {
        &self.linked.services
    }

    fn changed_sections(&self, transaction: &Transaction<'_>) -> Result<SectionSet, SnapshotError> {
        let mut sections = match &transaction.base[..] {
            "" => SectionSet::default(),
            base if *base == *self.digest => self.sections.clone(),
            base => return Err(SnapshotError::BaseNotInForce { base: base.into(), in_force: self.digest.to_string() }),
        };
        for name in &transaction.drop {
            if !sections.remove(name) {
                return Err(SnapshotError::DropOfAbsent { name: name.clone() });
            }
        }
        for (name, value) in &transaction.put {
            sections.put(match self.sections.get(name) {
                Some(same) if *same.bytes == *value.get().as_bytes() => Arc::clone(same),
                _ => Arc::new(Section::decode(name, value.get())?),
            });
        }
        Ok(sections)
    }
}

/// Why a transaction is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// The transaction is larger than `MAX_TRANSACTION_BYTES`.
    TransactionTooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// The transaction is not JSON of the expected shape.
    TransactionMalformed {
        /// What was expected, and where.
        reason: String,
    },
    /// The schema is not one this engine reads.
    SchemaUnsupported {
        /// The schema stated.
        schema: u32,
    },
    /// The transaction starts from another snapshot.
    BaseNotInForce {
        /// Where it starts.
        base: String,
        /// What is in force.
        in_force: String,
    },
    /// A section is dropped that is not there.
    DropOfAbsent {
        /// Its name.
        name: String,
    },
    /// A name that the schema does not know.
    SectionUnknown {
        /// The name.
        name: String,
    },
    /// A section does not have the shape of its kind, or holds a value that cannot be honoured.
    SectionMalformed {
        /// Its name.
        name: String,
        /// What was expected, and where.
        reason: String,
    },
    /// A section that always exists is missing.
    SectionMissing {
        /// Its name.
        name: String,
    },
    /// A section refers to one that is not there.
    ReferenceDangling {
        /// Who refers.
        from: String,
        /// To what.
        to: String,
    },
    /// The result has another digest than stated.
    DigestDiffers {
        /// The digest stated.
        stated: String,
        /// The digest of the result.
        found: String,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TransactionTooLarge { size_bytes } => {
                write!(f, "a transaction has at most {MAX_TRANSACTION_BYTES} bytes, this one has {size_bytes}")
            }
            Self::TransactionMalformed { reason } => write!(f, "the transaction is malformed: {reason}"),
            Self::SchemaUnsupported { schema } => write!(f, "schema {schema} is not supported, expected 1 or 2"),
            Self::BaseNotInForce { base, in_force } => {
                write!(f, "the transaction starts from {base:?}, in force is {in_force:?}: send a whole snapshot")
            }
            Self::DropOfAbsent { name } => write!(f, "section {name:?} is dropped and is not there"),
            Self::SectionUnknown { name } => write!(f, "section {name:?} is not one that the schema knows"),
            Self::SectionMalformed { name, reason } => write!(f, "section {name:?} is malformed: {reason}"),
            Self::SectionMissing { name } => write!(f, "section {name:?} is missing"),
            Self::ReferenceDangling { from, to } => write!(f, "section {from:?} refers to {to:?}, which is not there"),
            Self::DigestDiffers { stated, found } => {
                write!(f, "the transaction states the digest {stated:?}, its result has {found:?}")
            }
        }
    }
}

impl std::error::Error for SnapshotError {}

/// As large as one message of the feed may be (docs/feed.md).
pub const MAX_TRANSACTION_BYTES: usize = 64 << 20;

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
