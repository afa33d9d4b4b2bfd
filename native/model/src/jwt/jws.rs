//! A compact JSON Web Signature taken apart: what is signed, by which algorithm, with which key's name.
//!
//! In: the text of a token.  Out: `Compact`, whose payload nobody has vouched for yet.
//! Limits: `MAX_TOKEN_BYTES`; `json::MAX_DEPTH`.  Fails: `TokenRefusal`, in Envoy's order of looking.
//! Nothing of a header but `alg` and `kid` is used: keys that a token brings along (`jwk`, `jku`, `x5c`) are not even read.
//! Source: RFC 7515 §3.1, §4; RFC 8725; attack cases JW-01, JW-03, JW-10, JW-11; decision 0121.

use serde_json::{Map, Value};

use crate::jwt::{MAX_TOKEN_BYTES, TokenRefusal, base64url, json};

/// The algorithms that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the name of RFC 7518 and RFC 8037
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    /// HS256 and its kin: known, and never matched by a key, as no key of ours is a secret (attack case JW-02).
    Symmetric,
}

impl Algorithm {
    /// The algorithm of a name; case counts.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            "HS256" | "HS384" | "HS512" => Self::Symmetric,
            _ => return None,
        })
    }
}

/// A token taken apart.
#[derive(Debug)]
pub struct Compact<'t> {
    /// How it says it is signed.
    pub algorithm: Algorithm,
    /// Which key it says.
    pub key_id: Option<Box<str>>,
    /// What the signature is over.
    pub signed: &'t [u8],
    /// The payload as it stands in the token.
    pub payload_text: &'t [u8],
    /// The payload.
    pub payload: Vec<u8>,
    signature_text: &'t [u8],
}

impl<'t> Compact<'t> {
    /// Takes a token apart; the signature is decoded by `signature`, after the payload has been looked at.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(token: &'t [u8]) -> Result<Self, TokenRefusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenRefusal::NotInForm);
        }
        let mut sections = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload_text), Some(signature_text), None) =
            (sections.next(), sections.next(), sections.next(), sections.next())
        else {
            return Err(TokenRefusal::NotInForm);
        };
        if header.is_empty() || payload_text.is_empty() || signature_text.is_empty() {
            return Err(TokenRefusal::NotInForm);
        }
        let decoded = base64url::decode(header).map_err(|_| TokenRefusal::HeaderBase64)?;
        let members = json::parse_object(&decoded).ok_or(TokenRefusal::HeaderJson)?;
        let (algorithm, key_id) = read_header(&members)?;
        let payload = base64url::decode(payload_text).map_err(|_| TokenRefusal::PayloadBase64)?;
        let signed = &token[..header.len() + 1 + payload_text.len()];
        Ok(Self { algorithm, key_id, signed, payload_text, payload, signature_text })
    }

    /// The signature.
    ///
    /// # Errors
    /// It is not base64url.
    pub fn signature(&self) -> Result<Vec<u8>, TokenRefusal> {
        base64url::decode(self.signature_text).map_err(|_| TokenRefusal::SignatureBase64)
    }
}

fn read_header(members: &Map<String, Value>) -> Result<(Algorithm, Option<Box<str>>), TokenRefusal> {
    let Some(Value::String(name)) = members.get("alg") else { return Err(TokenRefusal::AlgorithmMissing) };
    let algorithm = Algorithm::named(name).ok_or(TokenRefusal::AlgorithmUnsupported)?;
    // `b64` has a meaning only with `crit`, and `zip` none in a JWS; whoever sends them expects another reading than ours.
    if ["crit", "b64", "zip"].iter().any(|name| members.contains_key(*name)) {
        return Err(TokenRefusal::CriticalHeader);
    }
    match members.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(key_id)) => Ok((algorithm, Some(key_id.as_str().into()))),
        Some(_) => Err(TokenRefusal::KeyIdNotText),
    }
}
