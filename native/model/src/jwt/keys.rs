//! Public keys: a JSON Web Key Set into keys that prove signatures.
//!
//! In: the text of a JWKS, inline or fetched.  Out: `KeySet`; `KeyTable`, what was fetched, by where it comes from.
//! Limits: `MAX_JWKS_BYTES`, `MAX_KEYS`; RSA of 2048 to 8192 bits with an odd exponent of 3 to 33 bits.
//! Fails: `KeysError`. A key that we cannot use (another type, a secret, too short) is left out, as is one that is not for
//! signatures; a text that is no key set is an error, and so is one of which no key is left (istio-observed 16).
//! Source: RFC 7517, RFC 7518 §6, RFC 8037; attack cases JW-02, JW-12, JW-15, JW-16; decision 0120.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};

use crate::jwt::jws::{Algorithm, Compact};
use crate::jwt::{TokenRefusal, base64url, json};

/// The longest text of a key set.
pub const MAX_JWKS_BYTES: usize = 1 << 20;

/// The most keys of a set.
pub const MAX_KEYS: usize = 1_000;

/// The keys of one issuer.
#[derive(Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Reads a key set.
    ///
    /// # Errors
    /// It is too large, no key set, or has no key that could prove anything.
    pub fn parse(text: &[u8]) -> Result<Self, KeysError> {
        if text.len() > MAX_JWKS_BYTES {
            return Err(KeysError::TooLarge);
        }
        let set = json::parse_object(text).ok_or(KeysError::NotJson)?;
        let Some(Value::Array(listed)) = set.get("keys") else { return Err(KeysError::NoList) };
        if listed.len() > MAX_KEYS {
            return Err(KeysError::TooMany);
        }
        let keys: Vec<Key> = listed.iter().filter_map(|key| key.as_object().and_then(Key::read)).collect();
        if keys.is_empty() { Err(KeysError::NoUsable) } else { Ok(Self { keys }) }
    }

    /// How many keys are usable.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none; `parse` gives no such set.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Proves the signature of a token.
    ///
    /// # Errors
    /// No key is for it, or none of those that are proves it.
    pub fn prove(&self, token: &Compact<'_>, signature: &[u8]) -> Result<(), TokenRefusal> {
        let mut tried = false;
        for key in self.keys.iter().filter(|key| key.is_for(token)) {
            if let Some(algorithm) = key.kind.with(token.algorithm) {
                tried = true;
                let public = UnparsedPublicKey::new(algorithm, &key.material);
                if public.verify(token.signed, signature).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(if tried { TokenRefusal::BadSignature } else { TokenRefusal::NoMatchingKey })
    }
}

/// One key.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    id: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    kind: Kind,
    /// PKCS #1 DER, an uncompressed point, or 32 bytes.
    material: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

impl Key {
    fn read(members: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let bytes = |name: &str| base64url::decode(text(name)?.as_bytes()).ok();
        if !is_for_signatures(members) {
            return None;
        }
        let algorithm = match members.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::named(name.as_str()?)?),
        };
        let id = match members.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.into()),
        };
        let (kind, material) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (Kind::Rsa, rsa(&bytes("n")?, &bytes("e")?)?),
            ("EC", Some("P-256")) => (Kind::P256, point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => (Kind::P384, point(&bytes("x")?, &bytes("y")?, 48)?),
            ("EC", Some("P-521")) => (Kind::P521, point(&bytes("x")?, &bytes("y")?, 66)?),
            ("OKP", Some("Ed25519")) => (Kind::Ed25519, bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let suits = algorithm.is_none_or(|algorithm| kind.with(algorithm).is_some());
        suits.then_some(Self { id, algorithm, kind, material })
    }

    fn is_for(&self, token: &Compact<'_>) -> bool {
        let named = self.id.is_none() || token.key_id.is_none() || self.id == token.key_id;
        named && self.algorithm.is_none_or(|algorithm| algorithm == token.algorithm)
    }
}

impl Kind {
    /// How a key of this kind proves what an algorithm has signed; none when the two do not belong together.
    fn with(self, algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (self, algorithm) {
            (Self::Rsa, Algorithm::Rs256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa, Algorithm::Rs384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa, Algorithm::Rs512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::Rsa, Algorithm::Ps256) => &signature::RSA_PSS_2048_8192_SHA256,
            (Self::Rsa, Algorithm::Ps384) => &signature::RSA_PSS_2048_8192_SHA384,
            (Self::Rsa, Algorithm::Ps512) => &signature::RSA_PSS_2048_8192_SHA512,
            (Self::P256, Algorithm::Es256) => &signature::ECDSA_P256_SHA256_FIXED,
            (Self::P384, Algorithm::Es384) => &signature::ECDSA_P384_SHA384_FIXED,
            (Self::P521, Algorithm::Es512) => &signature::ECDSA_P521_SHA512_FIXED,
            (Self::Ed25519, Algorithm::EdDsa) => &signature::ED25519,
            _ => return None,
        })
    }
}

/// A key that says what it is for says that it is for this.
fn is_for_signatures(members: &Map<String, Value>) -> bool {
    let by_use = members.get("use").is_none_or(|purpose| purpose == "sig");
    let by_operation = members.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    by_use && by_operation
}

/// `RSAPublicKey` of PKCS #1.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let (modulus, exponent) = (significant(modulus), significant(exponent));
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    let exponent_bits = exponent.len() * 8 - exponent.first()?.leading_zeros() as usize;
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !RSA_BITS.contains(&bits) || !EXPONENT_BITS.contains(&exponent_bits) || !odd(modulus) || !odd(exponent) {
        return None;
    }
    let mut numbers = Vec::with_capacity(modulus.len() + 32);
    push_integer(&mut numbers, modulus);
    push_integer(&mut numbers, exponent);
    let mut der = vec![SEQUENCE];
    push_length(&mut der, numbers.len());
    der.extend_from_slice(&numbers);
    Some(der)
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn push_integer(der: &mut Vec<u8>, number: &[u8]) {
    let sign = usize::from(number.first().is_some_and(|first| first & 0x80 != 0));
    der.push(INTEGER);
    push_length(der, number.len() + sign);
    der.extend(std::iter::repeat_n(0, sign));
    der.extend_from_slice(number);
}

fn push_length(der: &mut Vec<u8>, length: usize) {
    if length < 0x80 {
        return der.push(length as u8);
    }
    let bytes = length.to_be_bytes();
    let bytes = significant(&bytes);
    der.push(0x80 | bytes.len() as u8);
    der.extend_from_slice(bytes);
}

/// An uncompressed point; whether it is on the curve is looked at when it is used.
fn point(x: &[u8], y: &[u8], size: usize) -> Option<Vec<u8>> {
    (x.len() == size && y.len() == size).then(|| [&[UNCOMPRESSED], x, y].concat())
}

/// What has been fetched; one of these is in force at a time.
#[derive(Debug, Default)]
pub struct KeyTable {
    /// Another number whenever anything in it is another.
    pub generation: u64,
    /// The keys by the address that they come from, as rules name it.
    pub sets: HashMap<Arc<str>, Arc<KeySet>>,
}

/// Why a text is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysError {
    /// More than `MAX_JWKS_BYTES`.
    TooLarge,
    /// Not an object, or one with a member twice, or too deep.
    NotJson,
    /// There is no list `keys`.
    NoList,
    /// More than `MAX_KEYS`.
    TooMany,
    /// No key in it is one that we use.
    NoUsable,
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "a key set has at most {MAX_JWKS_BYTES} bytes"),
            Self::NotJson => f.write_str("a key set is a JSON object without repeated members"),
            Self::NoList => f.write_str("a key set has a list `keys`"),
            Self::TooMany => write!(f, "a key set has at most {MAX_KEYS} keys"),
            Self::NoUsable => f.write_str(
                "no key in the set can be used: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519, for signatures",
            ),
        }
    }
}

impl std::error::Error for KeysError {}

const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
const EXPONENT_BITS: std::ops::RangeInclusive<usize> = 2..=33;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UNCOMPRESSED: u8 = 0x04;

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
