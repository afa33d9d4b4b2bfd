//! Claims that become headers, written as Envoy writes them.
//!
//! In: proven claims, the outputs of their rule.  Out: header names and values.
//! Fails: `Unsendable`: a claim with a control byte is no header value. Istio's data plane answers 503 then; so do we.
//! Source: istio-observed 4.

use std::sync::Arc;

use serde_json::Value;

use crate::jwt::Claims;
use crate::jwt::base64url::encode_standard;
use crate::sections::TokenRule;

/// The headers of one token.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) headers: Vec<(Arc<str>, Box<[u8]>)>,
    /// A claim could not be sent.
    pub(crate) unsendable: bool,
}

impl Outputs {
    /// The headers that a rule makes of a token.
    pub(crate) fn of(rule: &TokenRule, claims: &Claims, payload_text: &[u8]) -> Self {
        let mut outputs = Self::default();
        for output in &rule.claim_headers {
            let value = claims.at(output.claim.iter().map(|name| &**name)).map(written).unwrap_or_default();
            if value.iter().any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f) {
                outputs.unsendable = true;
            } else if !value.is_empty() {
                outputs.headers.push((Arc::clone(&output.header), value.trim_ascii().into()));
            }
        }
        if !rule.payload_header.is_empty() {
            outputs.headers.push((Arc::clone(&rule.payload_header), payload_text.into()));
        }
        outputs
    }
}

fn written(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        Value::Bool(value) => value.to_string().into_bytes(),
        Value::String(text) => text.clone().into_bytes(),
        Value::Number(number) => number_text(number.as_f64().unwrap_or_default()).into_bytes(),
        Value::Array(_) | Value::Object(_) => encode_standard(value.to_string().as_bytes()),
    }
}

/// Envoy keeps numbers as doubles; those that are no whole number from zero on have six decimals.
fn number_text(number: f64) -> String {
    #[allow(clippy::cast_sign_loss, reason = "negative numbers are not cast")]
    let whole = (0.0..WHOLE).contains(&number).then_some(number as u64);
    match whole {
        #[allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "the cast went the other way just before")]
        Some(whole) if whole as f64 == number => whole.to_string(),
        _ => format!("{number:.6}"),
    }
}

/// Doubles from here on are no 64-bit integers (2^64).
const WHOLE: f64 = 18_446_744_073_709_551_616.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_envoy_writes_them() {
        let written = [7.0, 1.5, -3.0, 12_345_678_901_234_567.0].map(number_text);
        assert_eq!(written, ["7", "1.500000", "-3.000000", "12345678901234568"]);
    }
}
