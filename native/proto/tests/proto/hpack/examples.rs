//! The examples of RFC 7541 Appendix C, read and written.

use super::{Field, decode, encode, field, unhex};
use meshdp_proto::h2::hpack::{Decoder, Encoder, FieldList, Indexing};

fn requests() -> [Vec<Field>; 3] {
    let first = vec![
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":path", "/"),
        field(":authority", "www.example.com"),
    ];
    let mut second = first.clone();
    second.push(field("cache-control", "no-cache"));
    let third = vec![
        field(":method", "GET"),
        field(":scheme", "https"),
        field(":path", "/index.html"),
        field(":authority", "www.example.com"),
        field("custom-key", "custom-value"),
    ];
    [first, second, third]
}

fn responses() -> [Vec<Field>; 3] {
    let head = |status: &str, second: &str| {
        vec![
            field(":status", status),
            field("cache-control", "private"),
            field("date", &format!("Mon, 21 Oct 2013 20:13:{second} GMT")),
            field("location", "https://www.example.com"),
        ]
    };
    let mut third = head("200", "22");
    third.push(field("content-encoding", "gzip"));
    third.push(field("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"));
    [head("302", "21"), head("307", "21"), third]
}

fn read_all(table: usize, blocks: [&str; 3], expected: &[Vec<Field>; 3]) {
    let mut decoder = Decoder::new(table);
    for (block, fields) in blocks.iter().zip(expected) {
        assert_eq!(decode(&mut decoder, &unhex(block)).as_ref(), Ok(fields));
    }
}

fn written(encoder: &mut Encoder, lists: &[Vec<Field>; 3]) -> Vec<Vec<u8>> {
    lists.iter().map(|list| encode(encoder, list, Indexing::Add)).collect()
}

fn bytes(blocks: [&str; 3]) -> Vec<Vec<u8>> {
    blocks.map(unhex).to_vec()
}

const PLAIN_REQUESTS: [&str; 3] = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
];

const CODED_REQUESTS: [&str; 3] = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
];

const PLAIN_RESPONSES: [&str; 3] = [
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54
     6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970
     7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
];

const CODED_RESPONSES: [&str; 3] = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab
     77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
];

#[test]
fn c2_every_representation_alone() {
    let mut list = FieldList::new();
    for (block, name, value, sensitive) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", "custom-key", "custom-header", false),
        ("040c2f73616d706c652f70617468", ":path", "/sample/path", false),
        ("100870617373776f726406736563726574", "password", "secret", true),
        ("82", ":method", "GET", false),
    ] {
        Decoder::new(4096).decode(&unhex(block), &super::ROOMY, &mut list).unwrap();
        assert_eq!(list.get(0), Some((name.as_bytes(), value.as_bytes())));
        assert_eq!((list.len(), list.is_sensitive(0)), (1, sensitive));
        assert_eq!(list.size(), name.len() + value.len() + 32);
    }
    assert_eq!(list.get(1), None);
    let mut block = Vec::new();
    let mut encoder = Encoder::new();
    encoder.field(b":path", b"/sample/path", Indexing::Without, &mut block);
    encoder.field(b"password", b"secret", Indexing::Never, &mut block);
    encoder.field(b":method", b"GET", Indexing::Without, &mut block);
    assert_eq!(block, unhex("040c2f73616d706c652f7061746810087061737377 6f726406736563726574 82"));
}

#[test]
fn c3_and_c4_requests_read_and_written() {
    read_all(4096, PLAIN_REQUESTS, &requests());
    read_all(4096, CODED_REQUESTS, &requests());
    assert_eq!(written(&mut Encoder::new(), &requests()), bytes(PLAIN_REQUESTS));
    assert_eq!(written(&mut Encoder::new().with_huffman(true), &requests()), bytes(CODED_REQUESTS));
}

#[test]
fn c5_and_c6_responses_through_a_table_of_256_bytes_that_evicts() {
    read_all(256, PLAIN_RESPONSES, &responses());
    read_all(256, CODED_RESPONSES, &responses());
    let small = |huffman| {
        let mut encoder = Encoder::new().with_huffman(huffman);
        encoder.set_table_size(256);
        encoder
    };
    let mut plain = written(&mut small(false), &responses());
    assert_eq!(plain[0].drain(..3).as_slice(), [0x3f, 0xe1, 0x01], "the size update comes first");
    assert_eq!(plain, bytes(PLAIN_RESPONSES));
    let mut coded = written(&mut small(true), &responses());
    coded[0].drain(..3);
    // "307" is three octets either way, and we write it plainly.
    let mut expected = bytes(CODED_RESPONSES);
    expected[1] = unhex("4803333037c1c0bf");
    assert_eq!(coded, expected);
}

#[test]
fn a_name_in_the_dynamic_table_is_named_by_its_index_whatever_the_kind() {
    let mut encoder = Encoder::new();
    encode(&mut encoder, &[field("x-name", "1")], Indexing::Add);
    for (kind, block) in [(Indexing::Never, "1f2f0132"), (Indexing::Without, "0f2f0132"), (Indexing::Add, "7e0132")] {
        assert_eq!(encode(&mut encoder, &[field("x-name", "2")], kind), unhex(block), "{kind:?}");
    }
}

#[test]
fn a_secret_never_becomes_an_index_even_when_a_table_has_it() {
    let mut encoder = Encoder::new();
    let secret = [field("x-key", "secret"), field(":method", "GET")];
    encode(&mut encoder, &secret, Indexing::Add);
    assert_eq!(encode(&mut encoder, &secret, Indexing::Never), unhex("1f2f06736563726574 1203474554"));
}
