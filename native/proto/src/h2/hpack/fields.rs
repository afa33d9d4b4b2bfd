//! A reusable list of fields over one flat buffer: no allocation per field, none per block once it has grown.
//!
//! Limits: what [`DecodeLimits`] lets in; one field more while it is read.

use super::{DecodeLimits, FIELD_OVERHEAD};

/// Names and values for which memory is kept: nearly all heads are smaller.
const KEPT_BYTES: usize = 16 * 1024;

/// Fields for which memory is kept.
const KEPT_LINES: usize = 128;

/// The fields of one block in wire order. Reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct FieldList {
    /// Names and values; behind the last line's end what the decoder is reading.
    pub(super) bytes: Vec<u8>,
    lines: Vec<Line>,
    size: usize,
    too_large: bool,
}

/// One field: `bytes[start..middle]` is the name, `bytes[middle..end]` the value.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: u32,
    middle: u32,
    end: u32,
    sensitive: bool,
}

impl FieldList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the fields, keeps the memory of an ordinary head: an attack leaves nothing behind.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.lines.clear();
        self.lines.shrink_to(KEPT_LINES);
        self.size = 0;
        self.too_large = false;
    }

    /// Appends a field.
    pub fn push(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.size += self.bytes.len() - start + FIELD_OVERHEAD;
        self.line(start, middle, sensitive);
    }

    /// `(name, value)` in wire order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.lines.iter().map(|line| self.of(*line))
    }

    /// The field at `position`.
    pub fn get(&self, position: usize) -> Option<(&[u8], &[u8])> {
        self.lines.get(position).map(|line| self.of(*line))
    }

    /// Whether the field at `position` came as "never indexed" and must go on so (RFC 7541 6.2.3).
    pub fn is_sensitive(&self, position: usize) -> bool {
        self.lines.get(position).is_some_and(|line| line.sensitive)
    }

    /// How many fields are stored.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether no field is stored.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The size as `SETTINGS_MAX_HEADER_LIST_SIZE` counts it: names, values and 32 a field (RFC 9113 6.5.2), also of the
    /// fields that were not stored.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether the block was above a limit: the stored fields are then only its beginning.
    pub fn too_large(&self) -> bool {
        self.too_large
    }

    /// Appends a field of a table, unless it is above `limits`: then it costs nothing but its count.
    pub(super) fn admit(&mut self, name: &[u8], value: &[u8], limits: &DecodeLimits) {
        let start = self.bytes.len();
        if self.count(name.len() + value.len(), limits) {
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(value);
            self.line(start, start + name.len(), false);
        }
    }

    /// The field that lies behind the last line.
    pub(super) fn unfinished(&self, start: usize, middle: usize) -> (&[u8], &[u8]) {
        (&self.bytes[start..middle], &self.bytes[middle..])
    }

    /// Makes a line of the unfinished field, or forgets it when it is above `limits`.
    pub(super) fn finish(&mut self, start: usize, middle: usize, sensitive: bool, limits: &DecodeLimits) {
        if self.count(self.bytes.len() - start, limits) {
            self.line(start, middle, sensitive);
        } else {
            self.bytes.truncate(start);
        }
    }

    /// Counts a field of `length` octets; whether it is to be stored.
    fn count(&mut self, length: usize, limits: &DecodeLimits) -> bool {
        self.size += length + FIELD_OVERHEAD;
        self.too_large |= self.size > limits.size_bytes || self.lines.len() >= limits.fields;
        !self.too_large
    }

    fn line(&mut self, start: usize, middle: usize, sensitive: bool) {
        let end = self.bytes.len();
        self.lines.push(Line { start: start as u32, middle: middle as u32, end: end as u32, sensitive });
    }

    fn of(&self, line: Line) -> (&[u8], &[u8]) {
        let (start, middle, end) = (line.start as usize, line.middle as usize, line.end as usize);
        (&self.bytes[start..middle], &self.bytes[middle..end])
    }
}
