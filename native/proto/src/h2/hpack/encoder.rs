//! Fields become representations, and the dynamic table of the peer's decoder is kept in step.
//!
//! In: one field after another, names in lower case. Out: bytes appended to the block. Limits: the peer's table size, and
//! ours. Source: RFC 7541 4.2 and 6; decision 0080 for what is spent on compression.

use super::DEFAULT_TABLE_BYTES;

/// How a field may be represented (RFC 7541 6.2). A static entry that matches whole is used for `Add` and `Without`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// The dynamic table may take it and may answer for it: values that come again.
    Add,
    /// Not entered in the table: values that do not come again (paths, request ids, dates, lengths).
    Without,
    /// Never in any table, here and on all later hops: secrets, and fields that came so.
    Never,
}

/// The encoder of one connection's outgoing blocks.
#[derive(Debug)]
pub struct Encoder {
    limit: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with the default table, strings without Huffman code.
    pub fn new() -> Self {
        Self { limit: DEFAULT_TABLE_BYTES }
    }

    /// Whether long strings are Huffman coded (fewer bytes, more CPU: decision 0080).
    #[must_use]
    pub fn with_huffman(self, on: bool) -> Self {
        let _ = on;
        self
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE; the size updates go out with the next field. Not in the middle of a block.
    pub fn set_table_size(&mut self, peer_limit: usize) {
        self.limit = peer_limit;
    }

    /// Appends one field to the block in `out`. `name` is in lower case already.
    pub fn field(&mut self, name: &[u8], value: &[u8], kind: Indexing, out: &mut Vec<u8>) {
        let _ = (name, value, kind, out);
        todo!("skeleton")
    }
}
