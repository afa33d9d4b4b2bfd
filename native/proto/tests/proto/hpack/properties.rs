//! Properties: what our encoder writes our decoder reads, whatever the table sizes do; and no bytes at all make it panic.

use super::{Field, owned};
use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, Encoder, FieldList, Indexing};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    TableSize(usize),
    Block(Vec<(Field, Indexing)>),
}

/// Names and values that come again often, and some that do not.
fn fields() -> impl Strategy<Value = Field> {
    let names = prop_oneof![
        4 => prop::sample::select(vec![":method", ":path", ":status", "cookie", "accept", "x-a", "x-b", "x-request-id"])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(b'a'..=b'z', 0..40),
    ];
    let values = prop_oneof![
        4 => prop::sample::select(vec!["", "GET", "/", "200", "a", "gzip, deflate", "text/html; charset=utf-8"])
            .prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (0..3000_usize).prop_map(|length| vec![b'v'; length]),
    ];
    (names, values)
}

fn kinds() -> impl Strategy<Value = Indexing> {
    prop_oneof![4 => Just(Indexing::Add), 1 => Just(Indexing::Without), 1 => Just(Indexing::Never)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => prop_oneof![Just(0), 0..200_usize, 0..10_000_usize].prop_map(Step::TableSize),
        3 => prop::collection::vec((fields(), kinds()), 0..30).prop_map(Step::Block),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_we_write_we_read(steps in steps(), huffman in any::<bool>()) {
        let mut encoder = Encoder::new().with_huffman(huffman);
        let mut decoder = Decoder::new(4096);
        let roomy = DecodeLimits { size_bytes: 1 << 20, fields: 100 };
        let tight = DecodeLimits { size_bytes: 300, fields: 5 };
        let mut list = FieldList::new();
        for (number, step) in steps.into_iter().enumerate() {
            let fields = match step {
                Step::TableSize(size) => {
                    encoder.set_table_size(size);
                    decoder.set_limit(size);
                    continue;
                }
                Step::Block(fields) => fields,
            };
            let mut block = Vec::new();
            for ((name, value), kind) in &fields {
                encoder.field(name, value, *kind, &mut block);
            }
            let expected: Vec<Field> = fields.iter().map(|(field, _)| field.clone()).collect();
            if number % 4 == 3 {
                // Above the limit or not, the table keeps in step and the beginning is right.
                prop_assert_eq!(decoder.decode(&block, &tight, &mut list), Ok(()));
                prop_assert!(expected.starts_with(&owned(&list)));
                prop_assert_eq!(list.too_large(), list.len() < expected.len());
                continue;
            }
            prop_assert_eq!(decoder.decode(&block, &roomy, &mut list), Ok(()));
            prop_assert_eq!(owned(&list), expected);
            for (at, (_, kind)) in fields.iter().enumerate() {
                prop_assert_eq!(list.is_sensitive(at), *kind == Indexing::Never);
            }
        }
    }

    #[test]
    fn arbitrary_blocks_end_in_a_list_within_its_limits_or_a_fault(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
        size_bytes in 0..2000_usize,
        count in 0..20_usize,
    ) {
        let mut decoder = Decoder::new(256);
        let mut list = FieldList::new();
        for block in blocks {
            let outcome = decoder.decode(&block, &DecodeLimits { size_bytes, fields: count }, &mut list);
            let stored: usize = list.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
            prop_assert!(stored <= size_bytes && list.len() <= count);
            if outcome.is_err() {
                break;
            }
            prop_assert_eq!(list.too_large(), list.size() != stored);
        }
    }
}
