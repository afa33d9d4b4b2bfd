//! One whole field block becomes a list of fields, and the dynamic table keeps in step with the peer's encoder.
//!
//! In: whole blocks, in the connection's order. Out: [`FieldList`]. Limits: [`DecodeLimits`], the announced table size.
//! Fails: [`HpackFault`]; the connection is over then. Source: RFC 7541 3 and 6.

use super::integer::Input;
use super::static_table::{STATIC_LENGTH, static_field};
use super::table::Table;
use super::{DEFAULT_TABLE_BYTES, FieldList, huffman};
use std::fmt;

/// What one block may become. A block above it is still read to its end, so that the next one decodes (RFC 9113 10.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Names, values and 32 a field.
    pub size_bytes: usize,
    /// How many fields.
    pub fields: usize,
}

/// Why a block cannot be decoded; every one is a connection error `COMPRESSION_ERROR` (RFC 7541 2.3, RFC 9113 4.3).
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
    table: Table,
    /// What the peer may set the table's size to.
    limit: usize,
    /// The lowest limit since the last block, when it was below the table's size: the next block must follow it.
    lowered: Option<usize>,
}

impl Decoder {
    /// A decoder whose peer may use up to `max_table` bytes. The peer starts with 4,096 (or `max_table`, if that is less);
    /// a smaller announcement holds only once acknowledged: start with the default and call [`Self::set_limit`] then.
    pub fn new(max_table: usize) -> Self {
        Self { table: Table::new(max_table.min(DEFAULT_TABLE_BYTES)), limit: max_table, lowered: None }
    }

    /// The peer acknowledged SETTINGS with this `SETTINGS_HEADER_TABLE_SIZE`: when it is below the table's present size, the
    /// next block must begin with a size update.
    pub fn set_limit(&mut self, max_table: usize) {
        self.limit = max_table;
        if max_table < self.table.capacity() {
            self.lowered = Some(self.lowered.map_or(max_table, |before| before.min(max_table)));
        }
    }

    /// Decodes one whole block into `fields` (cleared first). A block above `limits` is decoded to its end for the
    /// table's sake and marked [`FieldList::too_large`].
    pub fn decode(&mut self, block: &[u8], limits: &DecodeLimits, fields: &mut FieldList) -> Result<(), HpackFault> {
        fields.clear();
        let mut input = Input::new(block);
        self.size_updates(&mut input)?;
        while let Some(first) = input.octet() {
            match first {
                0x80.. => self.indexed(first, &mut input, limits, fields)?,
                0x40..0x80 => {
                    let (start, middle) = self.literal(first, 0x3f, &mut input, fields)?;
                    let (name, value) = fields.unfinished(start, middle);
                    self.table.insert(name, value);
                    fields.finish(start, middle, false, limits);
                }
                0x20..0x40 => return Err(HpackFault::SizeUpdateLate),
                0x00..0x20 => {
                    let (start, middle) = self.literal(first, 0x0f, &mut input, fields)?;
                    fields.finish(start, middle, first & NEVER_INDEXED != 0, limits);
                }
            }
        }
        Ok(())
    }

    /// The size updates at a block's beginning (4.2). A block without fields uses no table, so it need not have one.
    fn size_updates(&mut self, input: &mut Input<'_>) -> Result<(), HpackFault> {
        let mut updates = 0;
        while let Some(first @ 0x20..0x40) = input.peek() {
            input.octet();
            let size = input.integer(first, 0x1f)?;
            updates += 1;
            if updates > MOST_SIZE_UPDATES {
                return Err(HpackFault::SizeUpdateRepeated);
            }
            if size > self.limit {
                return Err(HpackFault::SizeUpdateTooLarge);
            }
            self.lowered = self.lowered.filter(|lowered| size > *lowered);
            self.table.resize(size);
        }
        match self.lowered {
            Some(_) if input.peek().is_some() => Err(HpackFault::SizeUpdateMissing),
            _ => Ok(()),
        }
    }

    /// A field of a table (6.1).
    fn indexed(
        &self,
        first: u8,
        input: &mut Input<'_>,
        limits: &DecodeLimits,
        fields: &mut FieldList,
    ) -> Result<(), HpackFault> {
        let index = input.integer(first, 0x7f)?;
        let (name, value) = self.field(index)?;
        fields.admit(name, value, limits);
        Ok(())
    }

    /// Name and value of a literal (6.2), left unfinished at the end of `fields`.
    fn literal(
        &self,
        first: u8,
        mask: u8,
        input: &mut Input<'_>,
        fields: &mut FieldList,
    ) -> Result<(usize, usize), HpackFault> {
        let start = fields.bytes.len();
        match input.integer(first, mask)? {
            0 => string(input, &mut fields.bytes)?,
            index => fields.bytes.extend_from_slice(self.field(index)?.0),
        }
        let middle = fields.bytes.len();
        string(input, &mut fields.bytes)?;
        Ok((start, middle))
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), HpackFault> {
        if let Some(found) = static_field(index) {
            return Ok(found);
        }
        let position = index.checked_sub(STATIC_LENGTH + 1).ok_or(HpackFault::IndexZero)?;
        self.table.field(position).ok_or(HpackFault::IndexBeyondTable)
    }
}

/// Appends one string literal (5.2).
fn string(input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), HpackFault> {
    let first = input.octet().ok_or(HpackFault::Truncated)?;
    let length = input.integer(first, 0x7f)?;
    let octets = input.take(length)?;
    if first & HUFFMAN == 0 {
        out.extend_from_slice(octets);
        return Ok(());
    }
    huffman::decode(octets, out)
}

/// In the first octet of a literal that is not added (6.2.3).
const NEVER_INDEXED: u8 = 0x10;

/// In the first octet of a string (5.2).
const HUFFMAN: u8 = 0x80;

/// The lowest size in between and the final one (4.2).
const MOST_SIZE_UPDATES: usize = 2;
