//! Keys and tokens that tests sign by themselves.
//!
//! Out:     a signer with its JWK, tokens over any header and payload, sections of rules, requests.
//! Source:  RFC 7515 appendix A.3 for the shape of ES256.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::jwt::base64url::encode_standard;
use crate::jwt::{Authenticated, KeyTable, TokenRefusal, TokenRequest, TokenRules, VerifiedTokens, authenticate};

pub(crate) const ISSUER: &str = "https://issuer.example.com";
/// 2026-01-01.
pub(crate) const NOW_S: u64 = 1_767_225_600;

pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Signer {
    pub(crate) fn new(id: &'static str) -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), id }
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id, "x": encode(&point[1..33]), "y": encode(&point[33..])})
    }

    /// A token with this payload and a header that says what is true.
    pub(crate) fn token(&self, payload: &Value) -> String {
        self.token_with(&json!({"alg": "ES256", "kid": self.id}), payload)
    }

    pub(crate) fn token_with(&self, header: &Value, payload: &Value) -> String {
        self.raw(header.to_string().as_bytes(), payload.to_string().as_bytes())
    }

    pub(crate) fn raw(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    let text = String::from_utf8(encode_standard(bytes)).unwrap();
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

pub(crate) fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW_S + 600})
}

/// A rule for these keys; members of `other` replace its own.
pub(crate) fn rule(issuer: &str, keys: &[Value], other: Value) -> Value {
    let mut rule = json!({
        "namespace": "default", "name": "r", "where": "r.yaml:1", "issuer": issuer, "audiences": [],
        "jwks": json!({"keys": keys}).to_string(), "jwks_uri": "", "discovery": "", "timeout_ms": 5000,
        "headers": [{"name": "authorization", "prefix": "Bearer "}], "params": ["access_token"], "cookies": [],
        "forward": false, "payload_header": "", "claim_headers": [], "space_delimited": ["permission", "scope"],
    });
    let Value::Object(other) = other else { panic!("members are an object") };
    rule.as_object_mut().unwrap().extend(other);
    rule
}

pub(crate) fn compiled(rules: &[Value]) -> Arc<TokenRules> {
    let section = serde_json::from_value(json!({"rules": rules})).unwrap();
    Arc::new(TokenRules::compile(section).unwrap())
}

pub(crate) fn judge(rules: &Arc<TokenRules>, headers: &[(&str, &[u8])]) -> Result<Authenticated, TokenRefusal> {
    judge_at(rules, headers, NOW_S)
}

pub(crate) fn judge_at(
    rules: &Arc<TokenRules>,
    headers: &[(&str, &[u8])],
    now_s: u64,
) -> Result<Authenticated, TokenRefusal> {
    let request = TokenRequest { method: b"GET", query: b"", headers: &headers };
    authenticate(rules, &request, (&KeyTable::default(), now_s), &mut VerifiedTokens::default())
}

/// The verdict on one token in the usual place.
pub(crate) fn judge_bearer(rules: &Arc<TokenRules>, token: &str) -> Result<Authenticated, TokenRefusal> {
    judge(rules, &[("authorization", format!("Bearer {token}").as_bytes())])
}
