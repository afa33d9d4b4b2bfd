//! Keys and tokens that tests sign by themselves.
//!
//! Out:     an ES256 key with its JWK, tokens over any header and payload, sections with one rule.
//! Source:  RFC 7515 appendix A.3 for the shape of ES256.
