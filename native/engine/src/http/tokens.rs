//! The tokens of a request: shown to the model, and the request changed by what it says of them.
//!
//! In: a parsed head with its bytes, the snapshot's rules, keys, the time.  Out: `Authenticated`, and a scratch in which
//! tokens and forged headers are no more: neither policy nor the application sees them.
//! Limits: those of `meshdp_model::jwt`.  Fails: `TokenRefusal`, to be answered before policy is asked.
//! What is withheld is marked in the table of fields as ending at this hop; a scratch that is read again is changed again.
//! Source: istio-semantics E, D.2 (tokens come before DENY and ALLOW); attack cases HD-12, JW-19.

use std::sync::Arc;

use meshdp_model::jwt::{
    Authenticated, KeyTable, TokenRefusal, TokenRequest, TokenRules, VerifiedTokens, authenticate,
};

use crate::http::decide::{Head, Scratch, View};

/// Judges the tokens of the request in the scratch, and changes it.
///
/// # Errors
/// Why the request is refused.
pub fn judge_tokens(
    rules: &Arc<TokenRules>,
    (text, head): (&[u8], &Head),
    scratch: &mut Scratch,
    (keys, now_s): (&KeyTable, u64),
    known: &mut VerifiedTokens,
) -> Result<Authenticated, TokenRefusal> {
    let view = View::new(head, text, scratch, None);
    let asked = TokenRequest { method: view.method(), query: query_of(head, &scratch.target), headers: &view };
    let judged = authenticate(rules, &asked, (keys, now_s), known);
    if let Ok(authenticated) = &judged {
        change(authenticated, (text, head), scratch);
    }
    judged
}

/// Takes out of a request in the scratch what its tokens say must go.
pub(crate) fn change(authenticated: &Authenticated, (text, head): (&[u8], &Head), scratch: &mut Scratch) {
    scratch.cookie.clear();
    if !authenticated.changes_request() {
        return;
    }
    let Scratch { fields, target, cookie, .. } = scratch;
    fields.withhold(text, |name, value| {
        if !name.eq_ignore_ascii_case(b"cookie") {
            return authenticated.takes_field(name, value);
        }
        let Some(rest) = authenticated.without_cookies(value) else { return false };
        if !rest.is_empty() && !cookie.is_empty() {
            cookie.extend_from_slice(b"; ");
        }
        cookie.extend_from_slice(&rest);
        true
    });
    if authenticated.takes_param_of(query_of(head, target)) {
        let query = target.split_off(head.path_len);
        let mut left = authenticated.params_left(&query[1..]).peekable();
        if left.peek().is_some() {
            target.push(b'?');
        }
        for (at, param) in left.enumerate() {
            if at > 0 {
                target.push(b'&');
            }
            target.extend_from_slice(param);
        }
    }
}

/// Where the client is told to ask: `WWW-Authenticate` as Envoy writes it, but without the query, which may hold the token.
pub(crate) fn challenge(view: &View<'_>) -> Vec<u8> {
    let mut value = b"Bearer realm=\"https://".to_vec();
    let shown = |byte: &&u8| (0x21..=0x7e).contains(*byte) && !matches!(**byte, b'"' | b'\\');
    value.extend(view.authority().iter().filter(shown));
    value.extend(view.path().iter().filter(shown));
    value.extend_from_slice(b"\", error=\"invalid_token\"");
    value
}

/// The target as it is logged: without its query where a token lies in it, accepted or not.
pub(crate) fn logged<'t>(rules: Option<&Arc<TokenRules>>, target: &'t [u8]) -> &'t [u8] {
    let Some(mark) = rules.and_then(|_| target.iter().position(|byte| *byte == b'?')) else { return target };
    let holds = rules.is_some_and(|rules| rules.look_in_query(&target[mark + 1..]));
    if holds { &target[..mark] } else { target }
}

fn query_of<'t>(head: &Head, target: &'t [u8]) -> &'t [u8] {
    target.get(head.path_len + 1..).unwrap_or_default()
}
