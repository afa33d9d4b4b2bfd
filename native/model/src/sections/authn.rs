//! The `authn` section: the tokens that requests to our workload may carry, as docs/snapshot.md lists it.
//!
//! In:      section bytes, by `snapshot`.      Out: immutable structs, compiled by `jwt::rules`.

use std::sync::Arc;

use serde::Deserialize;

/// `authn`: the rules of every `RequestAuthentication` that selects our workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authn {
    /// Sorted by issuer.
    pub rules: Vec<TokenRule>,
}

/// One rule: which tokens of an issuer are accepted, and what becomes of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRule {
    /// Namespace of the resource.
    pub namespace: Arc<str>,
    /// Name of the resource.
    pub name: Arc<str>,
    /// `file:line` of the document.
    #[serde(rename = "where")]
    pub where_: Arc<str>,
    /// What `iss` must be; empty for anything that the keys prove.
    pub issuer: Box<str>,
    /// One of which `aud` must name; empty for any.
    pub audiences: Vec<Box<str>>,
    /// The key set as text; empty when it is fetched.
    pub jwks: Box<str>,
    /// Where the key set is fetched; empty when it is not.
    pub jwks_uri: Box<str>,
    /// Where the document that says where the key set is, is fetched; empty when it is not.
    pub discovery: Box<str>,
    /// How long a fetch may take.
    pub timeout_ms: u64,
    /// Headers that carry a token.
    pub headers: Vec<TokenHeader>,
    /// Query parameters that carry a token.
    pub params: Vec<Box<str>>,
    /// Cookies that carry a token.
    pub cookies: Vec<Box<str>>,
    /// The application gets the token too.
    pub forward: bool,
    /// Header, in lower case, that the payload is sent in; empty for none.
    pub payload_header: Arc<str>,
    /// Claims that are sent in headers.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims that are lists of words.
    pub space_delimited: Vec<Box<str>>,
}

/// A header that carries a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// Its name in lower case.
    pub name: Box<str>,
    /// What stands before the token.
    pub prefix: Box<str>,
}

/// A claim that is sent in a header.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimHeader {
    /// Its name in lower case.
    pub header: Arc<str>,
    /// The names on the way to the claim.
    pub claim: Vec<Box<str>>,
}
