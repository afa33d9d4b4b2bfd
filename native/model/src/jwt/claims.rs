//! The claims of a token: read strictly, asked by policy and by what becomes headers.
//!
//! In: a payload.  Out: `Claims`: who issued it about whom, until when, and every value of a claim that policy compares.
//! Limits: those of `jws` and `json`.  Fails: `TokenRefusal` for a registered claim of another type.
//! Source: RFC 7519 §4.1; istio-semantics D.3 (requestPrincipals), D.4 (request.auth.*), E (space-delimited claims);
//! istio-observed 15.

use serde_json::{Map, Value};

use crate::jwt::{TokenRefusal, json};

/// The claims of one token.
#[derive(Debug, Default)]
pub struct Claims {
    members: Map<String, Value>,
    /// Claims of the top level that are lists written as one text.
    space_delimited: Vec<Box<str>>,
    principal: Vec<u8>,
    not_before_s: Option<u64>,
    expires_s: Option<u64>,
}

impl Claims {
    /// Reads a payload. `space_delimited`: the claims that are lists of words.
    ///
    /// # Errors
    /// It is no object, or a registered claim is of another type.
    pub fn parse(payload: &[u8], space_delimited: &[Box<str>]) -> Result<Self, TokenRefusal> {
        let members = json::parse_object(payload).ok_or(TokenRefusal::PayloadJson)?;
        Self::of(members, space_delimited)
    }

    /// Takes claims that somebody vouches for, as the command line does for made-up requests.
    ///
    /// # Errors
    /// As `parse`.
    pub fn of(members: Map<String, Value>, space_delimited: &[Box<str>]) -> Result<Self, TokenRefusal> {
        let texts = [
            ("iss", TokenRefusal::IssuerNotText),
            ("sub", TokenRefusal::SubjectNotText),
            ("jti", TokenRefusal::TokenIdNotText),
        ];
        for (name, refusal) in texts {
            if members.get(name).is_some_and(|value| !value.is_string()) {
                return Err(refusal);
            }
        }
        let time = |name, not_number, not_positive| seconds(members.get(name), not_number, not_positive);
        time("iat", TokenRefusal::IssuedAtNotInteger, TokenRefusal::IssuedAtNotPositive)?;
        let not_before_s = time("nbf", TokenRefusal::NotBeforeNotInteger, TokenRefusal::NotBeforeNotPositive)?;
        let expires_s = time("exp", TokenRefusal::ExpiryNotInteger, TokenRefusal::ExpiryNotPositive)?;
        if !members.get("aud").is_none_or(is_text_or_texts) {
            return Err(TokenRefusal::AudienceNotText);
        }
        let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("iss").contains(PRINCIPAL_SEPARATOR) || text("sub").contains(PRINCIPAL_SEPARATOR) {
            return Err(TokenRefusal::SubjectNotText);
        }
        let principal = match (members.get("iss"), members.get("sub")) {
            (Some(_), Some(_)) => format!("{}{PRINCIPAL_SEPARATOR}{}", text("iss"), text("sub")).into_bytes(),
            _ => Vec::new(),
        };
        let space_delimited = space_delimited.to_vec();
        Ok(Self { members, space_delimited, principal, not_before_s, expires_s })
    }

    /// Who issued it; nothing when it does not say.
    pub fn issuer(&self) -> &str {
        self.members.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// Issuer and subject with `PRINCIPAL_SEPARATOR` between them; nothing unless both are there.
    pub fn principal(&self) -> &[u8] {
        &self.principal
    }

    /// The first second at which it counts.
    pub fn not_before_s(&self) -> Option<u64> {
        self.not_before_s
    }

    /// The last second at which it counts.
    pub fn expires_s(&self) -> Option<u64> {
        self.expires_s
    }

    /// Whether it is meant for one of these audiences; for none named it always is.
    pub fn is_for(&self, audiences: &[Box<str>]) -> bool {
        let wanted = |text: &str| audiences.iter().any(|audience| **audience == *text);
        audiences.is_empty()
            || match self.members.get("aud") {
                Some(Value::String(one)) => wanted(one),
                Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(wanted),
                _ => false,
            }
    }

    /// The claim at a path of names.
    pub fn at<'n>(&self, path: impl IntoIterator<Item = &'n str>) -> Option<&Value> {
        let mut names = path.into_iter();
        let mut value = self.members.get(names.next()?)?;
        for name in names {
            value = value.as_object()?.get(name)?;
        }
        Some(value)
    }

    /// Visits the texts that policy compares of a claim, whose path is written `[a][b]`: itself if it is one, its words if
    /// it is space-delimited, the texts in it if it is a list. Numbers and the rest are never equal to anything.
    pub fn visit(&self, path: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        let names = path.strip_prefix('[').and_then(|path| path.strip_suffix(']')).unwrap_or(path);
        let delimited = self.space_delimited.iter().any(|name| **name == *names);
        match self.at(names.split("][")) {
            Some(Value::String(text)) if delimited => {
                let _ = text.split(' ').filter(|word| !word.is_empty()).any(|word| each(word.as_bytes()));
            }
            Some(Value::String(text)) => drop(each(text.as_bytes())),
            Some(Value::Array(list)) => {
                let _ = list.iter().filter_map(Value::as_str).any(|text| each(text.as_bytes()));
            }
            _ => {}
        }
    }
}

/// A time in whole seconds. RFC 7519 allows fractions, and Envoy takes them; what is behind the point does not count.
fn seconds(
    value: Option<&Value>,
    not_number: TokenRefusal,
    not_positive: TokenRefusal,
) -> Result<Option<u64>, TokenRefusal> {
    let Some(value) = value else { return Ok(None) };
    let Value::Number(number) = value else { return Err(not_number) };
    if let Some(whole) = number.as_u64() {
        return Ok(Some(whole));
    }
    #[allow(clippy::cast_sign_loss, reason = "negative numbers are refused here")]
    match number.as_f64() {
        Some(fraction) if (0.0..LATEST_S).contains(&fraction) => Ok(Some(fraction as u64)),
        _ => Err(not_positive),
    }
}

fn is_text_or_texts(value: &Value) -> bool {
    value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}

/// Stands in no issuer and no subject.
pub const PRINCIPAL_SEPARATOR: char = '\0';

/// Times from here on are none (2^63).
const LATEST_S: f64 = 9_223_372_036_854_775_808.0;

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
