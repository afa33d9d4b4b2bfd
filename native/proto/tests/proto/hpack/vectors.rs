//! The public vectors: stories of blocks by four encoders, decoded in order; then the same fields through our encoder.

use super::{Field, decode, encode, field, unhex};
use crate::verdicts::{read, shared};
use meshdp_proto::h2::hpack::{DEFAULT_TABLE_BYTES, Decoder, Encoder, Indexing};
use serde_json::Value;

/// A block of a story: the table size in force from here on, the bytes and the fields.
type Block = (Option<usize>, Vec<u8>, Vec<Field>);

fn stories(folder: &str) -> Vec<Vec<Block>> {
    let Some(folder) = shared(&format!("hpack/{folder}")) else { return Vec::new() };
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|path| read(path)["cases"].as_array().unwrap().iter().map(case).collect()).collect()
}

fn case(case: &Value) -> Block {
    let fields = case["headers"].as_array().unwrap().iter().flat_map(|one| one.as_object().unwrap());
    let size = case["header_table_size"].as_u64().map(|size| size as usize);
    let fields = fields.map(|(name, value)| field(name, value.as_str().unwrap())).collect();
    (size, unhex(case["wire"].as_str().unwrap()), fields)
}

fn check(folder: &str) {
    for (number, story) in stories(folder).iter().enumerate() {
        let mut decoder = Decoder::new(DEFAULT_TABLE_BYTES);
        for (block, (size, wire, fields)) in story.iter().enumerate() {
            if let Some(size) = size {
                decoder.set_limit(*size);
            }
            assert_eq!(decode(&mut decoder, wire).as_ref(), Ok(fields), "{folder} story {number} block {block}");
        }
        for huffman in [false, true] {
            for kind in [Indexing::Add, Indexing::Without, Indexing::Never] {
                again(story, huffman, kind);
            }
        }
    }
}

fn again(story: &[Block], huffman: bool, kind: Indexing) {
    let mut encoder = Encoder::new().with_huffman(huffman);
    let mut decoder = Decoder::new(DEFAULT_TABLE_BYTES);
    for (size, _, fields) in story {
        if let Some(size) = size {
            encoder.set_table_size(*size);
            decoder.set_limit(*size);
        }
        let block = encode(&mut encoder, fields, kind);
        assert_eq!(decode(&mut decoder, &block).as_ref(), Ok(fields));
    }
}

#[test]
fn stories_of_nghttp2() {
    check("nghttp2");
}

#[test]
fn stories_of_nghttp2_with_changing_table_sizes() {
    check("nghttp2-change-table-size");
}

#[test]
fn stories_of_go_hpack() {
    check("go-hpack");
}

#[test]
fn stories_of_haskell_http2() {
    check("haskell-http2-linear-huffman");
}

/// Our encoder with everything indexed and Huffman coded is about as tight as nghttp2: the lookup loses nothing.
#[test]
fn our_blocks_are_as_small_as_those_of_nghttp2() {
    let (mut ours, mut theirs) = (0, 0);
    for story in stories("nghttp2") {
        let mut encoder = Encoder::new().with_huffman(true);
        for (_, wire, fields) in &story {
            ours += encode(&mut encoder, fields, Indexing::Add).len();
            theirs += wire.len();
        }
    }
    assert!(ours * 100 <= theirs * 105, "{ours} bytes against {theirs}");
}
