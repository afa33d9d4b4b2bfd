//! Tokens: a request that carries JSON Web Tokens into the claims that policy sees, or a refusal with Istio's words.
//!
//! In:      the `authn` section (`rules`), the places of a request (`request`), key sets (`keys`), the time.
//! Out:     `Authenticated`, whose claims `authz` compares and whose headers the engine sends; or `TokenRefusal`.
//! Stages:  `request` finds tokens, `jws` takes one apart (`base64url`, `json`), `claims` reads it, `keys` proves it,
//!          `verify` puts the verdicts of the rules together and remembers what was proven (`cache`).
//! Limits:  `MAX_TOKEN_BYTES`, `MAX_TOKENS`, `keys::MAX_JWKS_BYTES`, `keys::MAX_KEYS`, `json::MAX_DEPTH`, those of `cache`.
//! Fails:   closed: what cannot be read, proven or bounded is a refusal; no socket, clock or randomness here.
//! Source:  istio-semantics E; istio-observed 3, 4, 15, 16; attack-cases 2.7; RFC 7515, 7517, 7519; decisions 0120, 0121.

pub mod base64url;
mod cache;
pub mod claims;
mod json;
pub mod jws;
pub mod keys;
mod outputs;
mod refusal;
mod request;
pub mod rules;
mod verify;

pub use cache::VerifiedTokens;
pub use claims::Claims;
pub use keys::{KeySet, KeyTable};
pub use refusal::TokenRefusal;
pub use request::TokenRequest;
pub use rules::TokenRules;
pub use verify::{Authenticated, Verified, authenticate};

/// The longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 32 << 10;

/// How many tokens one request may carry in the places of one rule.
pub const MAX_TOKENS: usize = 4;

/// How far clocks may be apart (Envoy's default).
pub const CLOCK_SKEW_S: u64 = 60;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod verify_tests;
#[cfg(test)]
mod wycheproof_tests;
