//! Why a token is refused, in Envoy's words and with Envoy's status.
//!
//! Source: istio-semantics E; the recorded answers of conformance/authz-verdicts.

use std::fmt;

/// Why a request with a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each variant says itself in `text`
pub enum TokenRefusal {
    NotInForm,
    HeaderBase64,
    HeaderJson,
    AlgorithmMissing,
    AlgorithmUnsupported,
    KeyIdNotText,
    /// RFC 7515 §4.1.11: extensions that must be understood and are not (decision 0121).
    CriticalHeader,
    PayloadBase64,
    PayloadJson,
    IssuerNotText,
    SubjectNotText,
    TokenIdNotText,
    AudienceNotText,
    ExpiryNotInteger,
    ExpiryNotPositive,
    NotBeforeNotInteger,
    NotBeforeNotPositive,
    IssuedAtNotInteger,
    IssuedAtNotPositive,
    SignatureBase64,
    IssuerUnknown,
    NotYetValid,
    Expired,
    AudienceNotAllowed,
    NoKeys,
    NoMatchingKey,
    BadSignature,
    /// Too many tokens in one request.
    TooMany,
    /// A claim that is to become a header cannot be one.
    HeaderValue,
}

impl TokenRefusal {
    /// The body of the answer.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotInForm => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::AlgorithmMissing => "Jwt header [alg] field is required and must be a string",
            Self::AlgorithmUnsupported => "Jwt header [alg] is not supported",
            Self::KeyIdNotText => "Jwt header [kid] field is not a string",
            Self::CriticalHeader => "Jwt header has extensions that are not understood",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::IssuerNotText => "Jwt payload [iss] field is not a string",
            Self::SubjectNotText => "Jwt payload [sub] field is not a string",
            Self::TokenIdNotText => "Jwt payload [jti] field is not a string",
            Self::AudienceNotText => "Jwt payload [aud] field is not a string or string list",
            Self::ExpiryNotInteger => "Jwt payload [exp] field is not an integer",
            Self::ExpiryNotPositive => "Jwt payload [exp] field is not a positive 64 bit integer",
            Self::NotBeforeNotInteger => "Jwt payload [nbf] field is not an integer",
            Self::NotBeforeNotPositive => "Jwt payload [nbf] field is not a positive 64 bit integer",
            Self::IssuedAtNotInteger => "Jwt payload [iat] field is not an integer",
            Self::IssuedAtNotPositive => "Jwt payload [iat] field is not a positive 64 bit integer",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::IssuerUnknown => "Jwt issuer is not configured",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::BadSignature => "Jwt verification fails",
            Self::TooMany => "too many tokens in one request",
            Self::HeaderValue => "invalid header value from a claim",
        }
    }

    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::AudienceNotAllowed => 403,
            Self::HeaderValue => 503,
            _ => 401,
        }
    }

    /// Envoy's response code detail.
    pub fn detail(self) -> String {
        format!("jwt_authn_access_denied{{{}}}", self.text().replace(' ', "_"))
    }
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for TokenRefusal {}
