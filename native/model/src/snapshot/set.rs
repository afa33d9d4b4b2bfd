//! The sections of a snapshot, sorted by name, as snapshots share them.
//!
//! In:      decoded sections, from `snapshot`.      Out: `SectionSet`, read by `link`; the digest over all of them.
//! Cheap to clone: a change of few sections among thousands must not cost what all of them did.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::snapshot::SnapshotError;
use crate::snapshot::decode::{Decoded, decode_section};

/// One section.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) name: Box<str>,
    pub(super) bytes: Box<[u8]>,
    digest: [u8; 32],
    pub(crate) decoded: Decoded,
}

impl Section {
    /// Decodes a section by its name.
    pub(super) fn decode(name: &str, text: &str) -> Result<Self, SnapshotError> {
        let decoded = decode_section(name, text)?;
        Ok(Self { name: name.into(), bytes: text.as_bytes().into(), digest: Sha256::digest(text).into(), decoded })
    }
}

/// Sections, each name once.
#[derive(Clone, Debug, Default)]
pub(crate) struct SectionSet {
    sorted: Vec<Arc<Section>>,
}

impl SectionSet {
    /// All of them by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Section>> {
        self.sorted.iter()
    }

    /// The section of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Section>> {
        self.find(name).ok().map(|place| &self.sorted[place])
    }

    /// Puts a section in, for the one of its name if there is one. Sections that come in order are appended.
    pub(super) fn put(&mut self, section: Arc<Section>) {
        if self.sorted.last().is_none_or(|last| last.name < section.name) {
            return self.sorted.push(section);
        }
        match self.find(&section.name) {
            Ok(place) => self.sorted[place] = section,
            Err(place) => self.sorted.insert(place, section),
        }
    }

    /// Takes a section out; false when there was none.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.find(name).map(|place| self.sorted.remove(place)).is_ok()
    }

    /// SHA-256 over `name "\0" section-digest-hex "\n"` for every section.
    pub(super) fn digest(&self) -> String {
        let (mut hasher, mut line) = (Sha256::new(), Vec::new());
        for section in &self.sorted {
            line.extend_from_slice(section.name.as_bytes());
            line.push(b'\0');
            line.extend(section.digest.iter().flat_map(|byte| hex_of(*byte)));
            line.push(b'\n');
            if line.len() >= PIECE {
                hasher.update(&line);
                line.clear();
            }
        }
        hasher.update(&line);
        hex::encode(hasher.finalize())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.sorted.binary_search_by(|section| (*section.name).cmp(name))
    }
}

fn hex_of(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// What is hashed at once: short calls cost more than their bytes.
const PIECE: usize = 4 << 10;
