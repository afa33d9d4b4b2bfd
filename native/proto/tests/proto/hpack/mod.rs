//! Field compression: the public vectors, the RFC's examples, attack cases, properties, and what it costs.

mod attacks;
mod cost;
mod examples;
mod properties;
mod vectors;

use meshdp_proto::h2::hpack::{DecodeLimits, Decoder, Encoder, FieldList, HpackFault, Indexing};

/// Limits that no test vector reaches.
const ROOMY: DecodeLimits = DecodeLimits { size_bytes: 1 << 20, fields: 1000 };

type Field = (Vec<u8>, Vec<u8>);

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn field(name: &str, value: &str) -> Field {
    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn owned(list: &FieldList) -> Vec<Field> {
    list.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackFault> {
    let mut list = FieldList::new();
    decoder.decode(block, &ROOMY, &mut list)?;
    assert!(!list.too_large());
    Ok(owned(&list))
}

fn encode(encoder: &mut Encoder, fields: &[Field], kind: Indexing) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encoder.field(name, value, kind, &mut block);
    }
    block
}
