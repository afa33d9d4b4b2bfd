//! One whole field block becomes a list of fields, and the dynamic table keeps in step with the peer's encoder.
//!
//! In: whole blocks, in the connection's order. Out: [`FieldList`]. Limits: [`DecodeLimits`], the announced table size.
//! Fails: [`HpackFault`]; the connection is over then. Source: RFC 7541 3 and 6.

use super::FieldList;
use std::fmt;

/// What one block may become. A block above it is still read to its end, so that the next one decodes (RFC 9113 10.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Names, values and 32 a field.
    pub size_bytes: usize,
    /// How many fields.
    pub fields: usize,
}

/// Why a block cannot be decoded; every one is a connection error COMPRESSION_ERROR (RFC 7541 2.3, RFC 9113 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HpackFault {
    /// An indexed field with index 0 (6.1).
    IndexZero,
    /// An index beyond both tables (2.3.3).
    IndexBeyondTable,
    /// An integer above what any field needs (5.1).
    IntegerOverflow,
    /// The block ends inside a representation.
    Truncated,
    /// The EOS symbol inside a string (5.2).
    HuffmanEos,
    /// Padding of more than 7 bits, or bits other than ones (5.2).
    HuffmanPadding,
    /// A table size update after a field of the block (4.2).
    SizeUpdateLate,
    /// More than two table size updates in one block (4.2).
    SizeUpdateRepeated,
    /// A table size above what we announced (6.3).
    SizeUpdateTooLarge,
    /// No table size update although we lowered the limit below the table (4.2).
    SizeUpdateMissing,
}

impl HpackFault {
    /// The fault in words, for logs and GOAWAY debug data.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::IndexZero => "a field has index 0",
            Self::IndexBeyondTable => "a field has an index beyond the tables",
            Self::IntegerOverflow => "an integer of a field block is too large",
            Self::Truncated => "a field block ends inside a field",
            Self::HuffmanEos => "a Huffman string contains EOS",
            Self::HuffmanPadding => "a Huffman string is padded wrongly",
            Self::SizeUpdateLate => "a table size update comes after a field",
            Self::SizeUpdateRepeated => "a field block has more than two table size updates",
            Self::SizeUpdateTooLarge => "a table size update is above the announced size",
            Self::SizeUpdateMissing => "the table size update that the lowered setting requires is missing",
        }
    }
}

impl fmt::Display for HpackFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for HpackFault {}

/// The decoder of one connection's incoming blocks.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
}

impl Decoder {
    /// A decoder whose peer may use up to `max_table` bytes. The peer starts with 4,096 (or `max_table`, if that is less);
    /// a smaller announcement holds only once acknowledged: start with the default and call [`Self::set_limit`] then.
    pub fn new(max_table: usize) -> Self {
        Self { limit: max_table }
    }

    /// The peer acknowledged SETTINGS with this SETTINGS_HEADER_TABLE_SIZE: when it is below the table's present size, the
    /// next block must begin with a size update.
    pub fn set_limit(&mut self, max_table: usize) {
        self.limit = max_table;
    }

    /// Decodes one whole block into `fields` (cleared first). A block above `limits` is decoded to its end for the
    /// table's sake and marked [`FieldList::too_large`].
    pub fn decode(&mut self, block: &[u8], limits: &DecodeLimits, fields: &mut FieldList) -> Result<(), HpackFault> {
        let _ = (block, limits);
        fields.clear();
        todo!("skeleton")
    }
}
