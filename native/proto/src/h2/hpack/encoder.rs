//! Fields become representations, and the dynamic table of the peer's decoder is kept in step.
//!
//! In: one field after another, names in lower case. Out: bytes appended to the block. Limits: the peer's table size, and
//! ours. Source: RFC 7541 4.2 and 6; decision 0080 for what is spent on compression.

use super::integer::put_integer;
use super::lookup::{Lookup, hash, pair_hash};
use super::static_table::{STATIC_LENGTH, static_name, static_value};
use super::table::Table;
use super::{DEFAULT_TABLE_BYTES, FIELD_OVERHEAD, huffman};

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
    table: Table,
    fields: Lookup<64>,
    names: Lookup<16>,
    /// The most our side uses, whatever the peer allows.
    own_limit: usize,
    /// The lowest and the last table size since the last block.
    resized: Option<(usize, usize)>,
    huffman: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with the default table, strings without Huffman code.
    pub fn new() -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE_BYTES),
            fields: Lookup::new(),
            names: Lookup::new(),
            own_limit: DEFAULT_TABLE_BYTES,
            resized: None,
            huffman: false,
        }
    }

    /// Whether long strings are Huffman coded (fewer bytes, more CPU: decision 0080).
    #[must_use]
    pub fn with_huffman(mut self, on: bool) -> Self {
        self.huffman = on;
        self
    }

    /// The peer's `SETTINGS_HEADER_TABLE_SIZE`; the size updates go out with the next field. Not in the middle of a block.
    pub fn set_table_size(&mut self, peer_limit: usize) {
        let size = peer_limit.min(self.own_limit);
        let (lowest, last) = self.resized.unwrap_or((self.table.capacity(), self.table.capacity()));
        if size != last {
            self.resized = Some((lowest.min(size), size));
        }
    }

    /// Appends one field to the block in `out`. `name` is in lower case already.
    pub fn field(&mut self, name: &[u8], value: &[u8], kind: Indexing, out: &mut Vec<u8>) {
        if let Some((lowest, last)) = self.resized.take() {
            self.resize(lowest, last, out);
        }
        let hashed = hash(name);
        let first = static_name(name, hashed);
        if kind == Indexing::Never {
            return self.literal(first.or_else(|| self.named(name, hashed)), name, value, NEVER, out);
        }
        if let Some(index) = first.and_then(|first| static_value(first, value)) {
            return put_integer(index, INDEXED, 0x7f, out);
        }
        if kind == Indexing::Without
            || name.len() + value.len() + FIELD_OVERHEAD > self.table.capacity() / LARGEST_SHARE
        {
            return self.literal(first.or_else(|| self.named(name, hashed)), name, value, WITHOUT, out);
        }
        let both = pair_hash(hashed, hash(value));
        if let Some(index) = self.whole(name, value, both) {
            return put_integer(index, INDEXED, 0x7f, out);
        }
        self.literal(first.or_else(|| self.named(name, hashed)), name, value, ADD, out);
        let number = self.table.inserted();
        self.table.insert(name, value);
        self.fields.note(both, number);
        if first.is_none() {
            self.names.note(hashed, number);
        }
    }

    /// One update, or two when the size was lower in between: the peer's table must have shrunk as ours (4.2).
    fn resize(&mut self, lowest: usize, last: usize, out: &mut Vec<u8>) {
        if lowest < last {
            self.table.resize(lowest);
            put_integer(lowest, SIZE_UPDATE, 0x1f, out);
        }
        self.table.resize(last);
        put_integer(last, SIZE_UPDATE, 0x1f, out);
    }

    fn whole(&self, name: &[u8], value: &[u8], both: u32) -> Option<usize> {
        let mut positions = self.fields.guesses(both).filter_map(|number| self.table.position(number));
        positions.find(|at| self.table.field(*at) == Some((name, value))).map(|at| STATIC_LENGTH + 1 + at)
    }

    fn named(&self, name: &[u8], hashed: u32) -> Option<usize> {
        let mut positions = self.names.guesses(hashed).filter_map(|number| self.table.position(number));
        let found = positions.find(|at| self.table.field(*at).is_some_and(|(found, _)| found == name));
        found.map(|at| STATIC_LENGTH + 1 + at)
    }

    fn literal(&self, index: Option<usize>, name: &[u8], value: &[u8], form: Form, out: &mut Vec<u8>) {
        if let Some(index) = index {
            put_integer(index, form.pattern, form.mask, out);
        } else {
            out.push(form.pattern);
            self.string(name, out);
        }
        self.string(value, out);
    }

    fn string(&self, plain: &[u8], out: &mut Vec<u8>) {
        if self.huffman {
            let length = huffman::coded_length(plain);
            if length < plain.len() {
                put_integer(length, HUFFMAN, 0x7f, out);
                return huffman::encode(plain, out);
            }
        }
        put_integer(plain.len(), 0, 0x7f, out);
        out.extend_from_slice(plain);
    }
}

/// First octet of a literal, and the bits of its index.
#[derive(Clone, Copy)]
struct Form {
    pattern: u8,
    mask: u8,
}

const ADD: Form = Form { pattern: 0x40, mask: 0x3f };
const WITHOUT: Form = Form { pattern: 0x00, mask: 0x0f };
const NEVER: Form = Form { pattern: 0x10, mask: 0x0f };
const INDEXED: u8 = 0x80;
const SIZE_UPDATE: u8 = 0x20;
const HUFFMAN: u8 = 0x80;

/// A field above this share of the table would push out half of what the table is for.
const LARGEST_SHARE: usize = 2;
