//! Attack cases H2-12, H2-13 and H2-14 as far as they are the decoder's, and blocks that are cut off.

use super::{decode, encode, field, owned, unhex};
use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, Encoder, FieldList, HpackFault, Indexing};

const LIMITS: DecodeLimits = DecodeLimits { size_bytes: 60 * 1024, fields: 200 };

/// A decoder whose table holds one field that takes all of it, and the limits that a bomb meets.
fn loaded(name: &str, value_bytes: usize) -> (Decoder, FieldList) {
    let mut decoder = Decoder::new(4096);
    let mut list = FieldList::new();
    let mut block = vec![0x40, name.len() as u8];
    block.extend_from_slice(name.as_bytes());
    block.extend_from_slice(&[0x7f, (value_bytes - 127) as u8 & 0x7f | 0x80, ((value_bytes - 127) >> 7) as u8]);
    block.resize(block.len() + value_bytes, b'v');
    decoder.decode(&block, &LIMITS, &mut list).unwrap();
    assert_eq!(list.get(0), Some((name.as_bytes(), &*vec![b'v'; value_bytes])));
    (decoder, list)
}

fn stored(list: &FieldList) -> usize {
    list.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
}

#[test]
fn h2_12_sixteen_thousand_references_to_a_large_field_store_no_more_than_the_limit() {
    let (mut decoder, mut list) = loaded("bomb", 4000);
    decoder.decode(&[0xbe; 16_000], &LIMITS, &mut list).unwrap();
    assert!(list.too_large());
    assert_eq!(list.size(), 16_000 * 4036, "every repeat counts whole");
    assert_eq!(list.len(), 60 * 1024 / 4036);
    assert!(stored(&list) <= LIMITS.size_bytes);
}

#[test]
fn h2_12_sixteen_thousand_cookie_crumbs_count_their_overhead_and_their_number() {
    let mut decoder = Decoder::new(4096);
    let mut list = FieldList::new();
    decoder.decode(&unhex("6003613d62"), &LIMITS, &mut list).unwrap();
    assert_eq!(list.get(0), Some((&b"cookie"[..], &b"a=b"[..])));
    decoder.decode(&[0xbe; 16_000], &LIMITS, &mut list).unwrap();
    assert!(list.too_large() && list.len() == LIMITS.fields);
    assert_eq!(list.size(), 16_000 * 41);
}

#[test]
fn h2_12_a_large_name_inserted_again_and_again_is_stored_once_and_no_more() {
    let (mut decoder, mut list) = loaded(&"n".repeat(100), 3900);
    // A literal with the indexed name, added: each time the table is filled anew.
    decoder.decode(&b"\x7e\x01x".repeat(5_000), &LIMITS, &mut list).unwrap();
    assert!(list.too_large() && stored(&list) <= LIMITS.size_bytes);
}

#[test]
fn h2_13_faults_of_the_compression() {
    use HpackFault::*;
    for (block, fault) in [
        ("3fe21f", SizeUpdateTooLarge),        // 4097
        ("8220", SizeUpdateLate),              // after a field
        ("202020", SizeUpdateRepeated),        // three in a row
        ("80", IndexZero),                     // indexed field 0
        ("ff8080808000", IndexBeyondTable),    // 127 with leading zeros
        ("be", IndexBeyondTable),              // the dynamic table is empty
        ("7e0161", IndexBeyondTable),          // a name of it
        ("ffffffffff7f", IntegerOverflow),     // 35 bits
        ("ff80808080808000", IntegerOverflow), // zeros without end
        ("3fffffffffff", IntegerOverflow),     // of a size update
        ("007fffffffffff", IntegerOverflow),   // of a length
        ("0085ffffffffff00", HuffmanEos),      // EOS and more
        ("0001618207ff", HuffmanPadding),      // "0", then 11 ones
        ("0001618106", HuffmanPadding),        // "0", then 110
        ("00016181ff", HuffmanPadding),        // eight ones
        ("0a", Truncated),                     // no value
        ("0003616263", Truncated),             // no value after a literal name
        ("00036162", Truncated),               // a name of three octets, two of them here
        ("ff", Truncated),                     // an integer that does not end
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), &unhex(block)), Err(fault), "{block}");
    }
}

#[test]
fn h2_13_a_lowered_table_must_be_followed_by_an_update_before_the_next_field() {
    let lowered = |limits: &[usize]| {
        let mut decoder = Decoder::new(4096);
        for limit in limits {
            decoder.set_limit(*limit);
        }
        decoder
    };
    assert_eq!(decode(&mut lowered(&[100]), &[0x82]), Err(HpackFault::SizeUpdateMissing));
    assert_eq!(decode(&mut lowered(&[100]), &unhex("3fe11f82")), Err(HpackFault::SizeUpdateTooLarge), "4096");
    assert_eq!(decode(&mut lowered(&[10]), &unhex("2a82")), Ok(vec![field(":method", "GET")]));
    // Lowered and raised again: the lowest must be named, then the last.
    assert_eq!(decode(&mut lowered(&[0, 4096]), &unhex("3fe11f82")), Err(HpackFault::SizeUpdateMissing));
    assert_eq!(decode(&mut lowered(&[0, 4096]), &unhex("203fe11f82")), Ok(vec![field(":method", "GET")]));
    // Raised only: nothing is demanded; and a block without fields demands nothing, but the next one does.
    assert_eq!(decode(&mut lowered(&[8192]), &[0x82]), Ok(vec![field(":method", "GET")]));
    let mut decoder = lowered(&[0]);
    assert_eq!(decode(&mut decoder, &[]), Ok(vec![]));
    assert_eq!(decode(&mut decoder, &[0x82]), Err(HpackFault::SizeUpdateMissing));
}

#[test]
fn h2_14_after_a_block_above_the_limit_the_next_one_decodes() {
    let tight = DecodeLimits { size_bytes: 200, fields: 3 };
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let mut list = FieldList::new();
    let many: Vec<_> = (0..20).map(|number| field(&format!("x-{number}"), "value")).collect();
    decoder.decode(&encode(&mut encoder, &many, Indexing::Add), &tight, &mut list).unwrap();
    assert!(list.too_large());
    assert_eq!(owned(&list), many[..3], "the beginning is kept, for logs");
    let good = [field(":method", "GET"), many[17].clone(), field("x-new", "1")];
    decoder.decode(&encode(&mut encoder, &good, Indexing::Add), &tight, &mut list).unwrap();
    assert!(!list.too_large(), "the mark does not stay");
    assert_eq!(owned(&list), good);
}

#[test]
fn a_small_field_after_one_above_the_limit_is_not_stored() {
    let mut list = FieldList::new();
    let fields = [field("a", "1"), field("b", &"x".repeat(500)), field("c", "3")];
    let block = encode(&mut Encoder::new(), &fields, Indexing::Without);
    Decoder::new(4096).decode(&block, &DecodeLimits { size_bytes: 400, fields: 9 }, &mut list).unwrap();
    assert_eq!(owned(&list), fields[..1]);
    assert!(list.too_large());
}

#[test]
fn a_block_cut_at_any_octet_is_a_fault_or_a_shorter_list() {
    let fields = [
        field(":method", "GET"),
        field(":path", "/a/path?with=a&query"),
        field("x-large", &"0123456789".repeat(40)),
        field("authorization", "Bearer abc"),
        field("x-large", &"0123456789".repeat(40)),
    ];
    for huffman in [false, true] {
        let mut encoder = Encoder::new().with_huffman(huffman);
        encoder.set_table_size(0);
        encoder.set_table_size(3000);
        let block = encode(&mut encoder, &fields, Indexing::Add);
        for cut in 0..block.len() {
            match decode(&mut Decoder::new(4096), &block[..cut]) {
                Ok(shorter) => assert!(shorter.len() < fields.len() && fields.starts_with(&shorter)),
                Err(fault) => assert_eq!(fault, HpackFault::Truncated),
            }
        }
        assert_eq!(decode(&mut Decoder::new(4096), &block).as_deref(), Ok(&fields[..]));
    }
}

#[test]
fn every_fault_says_its_own_sentence() {
    use HpackFault::*;
    let all = [
        IndexZero,
        IndexBeyondTable,
        IntegerOverflow,
        Truncated,
        HuffmanEos,
        HuffmanPadding,
        SizeUpdateLate,
        SizeUpdateRepeated,
        SizeUpdateTooLarge,
        SizeUpdateMissing,
    ];
    let mut sentences: Vec<String> = all.iter().map(ToString::to_string).collect();
    sentences.sort();
    sentences.dedup();
    assert_eq!(sentences.len(), all.len());
}
