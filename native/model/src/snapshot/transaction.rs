//! Transactions: the bytes of a change into its parts, with the sections left as they stand for the digest.
//!
//! In:      bytes, from `snapshot`.      Out: `Transaction`.
//! Fails:   `SnapshotError`, for JSON of another shape, an unsupported schema, a name put twice or both put and
//!          dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::snapshot::SnapshotError;

/// A change of the snapshot.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transaction<'a> {
    schema: u32,
    /// Digest of the snapshot it starts from; empty starts from nothing.
    pub(crate) base: String,
    /// New and changed sections; each name once.
    #[serde(borrow, deserialize_with = "each_name_once")]
    pub(crate) put: BTreeMap<String, &'a RawValue>,
    /// Names of sections that go away.
    pub(crate) drop: Vec<String>,
    /// Digest of the result.
    pub(crate) digest: String,
}

impl<'a> Transaction<'a> {
    /// Takes a transaction apart.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let transaction: Self = serde_json::from_slice(bytes)
            .map_err(|error| SnapshotError::TransactionMalformed { reason: error.to_string() })?;
        if !SCHEMAS.contains(&transaction.schema) {
            return Err(SnapshotError::SchemaUnsupported { schema: transaction.schema });
        }
        match transaction.drop.iter().find(|name| transaction.put.contains_key(*name)) {
            Some(name) => {
                Err(SnapshotError::TransactionMalformed { reason: format!("{name:?} is both put and dropped") })
            }
            None => Ok(transaction),
        }
    }
}

/// A JSON object may hold a name twice, of which one would vanish without a word.
fn each_name_once<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, &'de RawValue>, D::Error> {
    from.deserialize_map(EachNameOnce)
}

struct EachNameOnce;

impl<'de> Visitor<'de> for EachNameOnce {
    type Value = BTreeMap<String, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of sections by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut sections = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if sections.contains_key(&name) {
                return Err(A::Error::custom(format!("{name:?} is put twice")));
            }
            sections.insert(name, value);
        }
        Ok(sections)
    }
}

/// Ours and the one before; what that lacks has a default in `sections`.
const SCHEMAS: RangeInclusive<u32> = 1..=2;
