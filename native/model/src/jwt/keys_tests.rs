use serde_json::{Value, json};

use super::*;
use crate::jwt::fixtures::{Signer, claims, encode};

fn parse(keys: &Value) -> Result<usize, KeysError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).map(|set| set.len())
}

fn rsa_key(bits: usize, exponent: &[u8]) -> Value {
    let mut modulus = vec![0xff; bits / 8];
    modulus[bits / 8 - 1] |= 1;
    json!({"kty": "RSA", "n": encode(&modulus), "e": encode(exponent)})
}

#[test]
fn jw_12_keys_that_prove_nothing_are_not_taken() {
    assert_eq!(parse(&json!([rsa_key(2048, &[1, 0, 1])])), Ok(1));
    for bad in [rsa_key(1024, &[1, 0, 1]), rsa_key(2048, &[1]), rsa_key(2048, &[2]), rsa_key(16_384, &[1, 0, 1])] {
        assert_eq!(parse(&json!([bad])), Err(KeysError::NoUsable));
    }
    let mut wrong_curve = Signer::new("k").jwk();
    wrong_curve["crv"] = json!("P-384");
    assert_eq!(parse(&json!([wrong_curve])), Err(KeysError::NoUsable));
    let mut wrong_algorithm = Signer::new("k").jwk();
    wrong_algorithm["alg"] = json!("ES384");
    assert_eq!(
        parse(&json!([wrong_algorithm])),
        Err(KeysError::NoUsable),
        "a key must suit the algorithm that it names"
    );
}

#[test]
fn jw_12_signatures_of_another_form_prove_nothing() {
    let signer = Signer::new("k");
    let set = KeySet::parse(json!({"keys": [signer.jwk()]}).to_string().as_bytes()).unwrap();
    let token = signer.token(&claims());
    let compact = Compact::parse(token.as_bytes()).unwrap();
    let signature = compact.signature().unwrap();
    assert_eq!(set.prove(&compact, &signature), Ok(()));
    let der = [&[0x30, 0x44, 0x02, 0x20], &signature[..32], &[0x02, 0x20], &signature[32..]].concat();
    for bad in [vec![0; 64], vec![], der, signature[..63].to_vec(), [&signature[..], &[0]].concat()] {
        assert_eq!(set.prove(&compact, &bad), Err(TokenRefusal::BadSignature));
    }
}

#[test]
fn jw_16_key_sets_have_bounds_and_what_is_unknown_is_passed_over() {
    let good = Signer::new("k").jwk();
    let secret = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    assert_eq!(parse(&json!([secret, {"kty": "new"}, 7, good, good])), Ok(2), "the same name twice: both are tried");
    assert_eq!(parse(&json!([])), Err(KeysError::NoUsable));
    assert_eq!(parse(&json!({})), Err(KeysError::NoList));
    assert_eq!(parse(&json!(vec![good.clone(); MAX_KEYS])), Ok(MAX_KEYS));
    assert_eq!(parse(&json!(vec![json!({}); MAX_KEYS + 1])), Err(KeysError::TooMany));
    assert_eq!(KeySet::parse(&vec![b' '; MAX_JWKS_BYTES + 1]), Err(KeysError::TooLarge));
    for bad in [&b""[..], b"<html>", b"[]", b"{", b"\"x\""] {
        assert_eq!(KeySet::parse(bad), Err(KeysError::NotJson), "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(KeySet::parse("[".repeat(100_000).as_bytes()), Err(KeysError::NotJson));
    let mut private = good.clone();
    private["d"] = json!("AAAA");
    assert_eq!(parse(&json!([private])), Ok(1), "what is private is not read");
    for use_of in [json!({"use": "enc"}), json!({"key_ops": ["sign"]}), json!({"key_ops": "verify"})] {
        let mut key = good.clone();
        key.as_object_mut().unwrap().extend(use_of.as_object().unwrap().clone());
        assert_eq!(parse(&json!([key])), Err(KeysError::NoUsable), "{use_of}");
    }
}
