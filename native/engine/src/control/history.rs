//! When the configuration in force came, and what was refused since: the part of `GET /config` that is not configuration.
//!
//! In:      every swap, accepted or refused, from [`Force`](crate::control::force::Force).
//! Out:     JSON members for the admin page.
//! Limits:  one refusal is kept, the last, with `MAX_REASON_BYTES` of its reason; a swap that is accepted ends it.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// What happened last, both ways.
#[derive(Debug, Default)]
pub(crate) struct History {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    in_force_since_ms: Option<u64>,
    refused: Option<(String, u64)>,
}

impl History {
    /// A configuration came into force.
    pub(crate) fn accepted(&self) {
        *self.last() = Last { in_force_since_ms: Some(unix_ms()), refused: None };
    }

    /// A configuration was refused; what was in force stays.
    pub(crate) fn refused(&self, reason: &str) {
        let mut end = reason.len().min(MAX_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        self.last().refused = Some((reason[..end].to_owned(), unix_ms()));
    }

    /// Unix milliseconds since when the configuration is in force; null before there is one.
    pub(crate) fn since(&self) -> Value {
        json!(self.last().in_force_since_ms)
    }

    /// The refusal that nothing has followed yet, or null.
    pub(crate) fn refusal(&self) -> Value {
        match &self.last().refused {
            Some((reason, at_ms)) => json!({"reason": reason, "at_unix_ms": at_ms}),
            None => Value::Null,
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How much of a reason is kept.
const MAX_REASON_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lasts_until_the_next_configuration() {
        let history = History::default();
        assert_eq!((history.since(), history.refusal()), (Value::Null, Value::Null));
        history.accepted();
        let since = history.since();
        history.refused("section \"x\" is malformed");
        assert_eq!(history.refusal()["reason"], "section \"x\" is malformed");
        assert_eq!(history.since(), since, "what is in force stays");
        history.accepted();
        assert_eq!(history.refusal(), Value::Null);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let history = History::default();
        history.refused(&format!("x{}", "é".repeat(MAX_REASON_BYTES)));
        let kept = history.refusal()["reason"].as_str().map(str::len);
        assert_eq!(kept, Some(MAX_REASON_BYTES - 1));
    }
}
