//! Field compression: one whole field block in, a flat list of fields out, and back.
//!
//! Reading order: `fields.rs` (what a block becomes), `decoder.rs` (a block, one representation after another),
//! `integer.rs` (numbers and lengths), `huffman.rs` with `huffman_code.rs` (strings), `table.rs` with `static_table.rs`
//! (what indices name), `encoder.rs` with `lookup.rs` (the way back).
//! In: whole field blocks. Out: [`FieldList`]; bytes of a block. Limits: [`DecodeLimits`], the table sizes agreed by SETTINGS.
//! Fails: [`HpackFault`], each a `COMPRESSION_ERROR` of the connection. Source: RFC 7541.

mod decoder;
mod encoder;
mod fields;
mod huffman;
mod huffman_code;
mod integer;
mod lookup;
mod static_table;
mod table;

pub use decoder::{DecodeLimits, Decoder, HpackFault};
pub use encoder::{Encoder, Indexing};
pub use fields::FieldList;

/// The dynamic table's size before anybody says otherwise (RFC 9113 6.5.2).
pub const DEFAULT_TABLE_BYTES: usize = 4096;

/// What a field counts beyond its name and value, in tables and in field lists (RFC 7541 4.1, RFC 9113 6.5.2).
pub const FIELD_OVERHEAD: usize = 32;
