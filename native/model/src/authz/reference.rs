//! The plain form of authorization: policies read straight from the section, obviously right and slow. The evaluator
//! must agree with it.
//!
//! In:      the `authz` section and facts; no request means opaque TCP.
//! Out:     the rule that decides; `explain` and tests read it.
//! Source:  istio-semantics D.2 to D.5; docs/snapshot.md, `authz`.

use std::net::IpAddr;

use crate::authz::PolicyRef;
use crate::authz::matching::{empty_is_present, network, pattern, port};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::{Action, Authz, Field, Policy, Predicate, Rule, Value, ValueKind};

/// Decides; with the rule that matched. `Err` is a refusal.
pub fn decide(
    section: &Authz,
    connection: &ConnectionFacts,
    request: Option<&RequestFacts<'_>>,
) -> Result<Option<PolicyRef>, Option<PolicyRef>> {
    let first = |action: Action| {
        let enforced = section.policies.iter().filter(|policy| policy.action == action && !policy.dry_run);
        let rules =
            enforced.flat_map(|policy| policy.rules.iter().enumerate().map(move |(index, rule)| (policy, index, rule)));
        let matching = rules.filter(|(_, _, rule)| rule_matches(action, rule, connection, request));
        matching.map(|(policy, index, _)| PolicyRef::new(policy, index)).min_by_key(ToString::to_string)
    };
    if let Some(deny) = first(Action::Deny) {
        return Err(Some(deny));
    }
    let is_enforced_allow = |policy: &Policy| policy.action == Action::Allow && !policy.dry_run;
    match first(Action::Allow) {
        None if section.policies.iter().any(is_enforced_allow) => Err(None),
        allow => Ok(allow),
    }
}

/// Whether a rule matches. A predicate that is left out makes an ALLOW rule never match and any other rule wider.
pub(crate) fn rule_matches(
    action: Action,
    rule: &Rule,
    connection: &ConnectionFacts,
    request: Option<&RequestFacts<'_>>,
) -> bool {
    let holds = |predicate: &Predicate| predicate_holds(predicate, connection, request);
    let mut predicates = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
    if action == Action::Allow && predicates.any(|predicate| holds(predicate).is_none()) {
        return false;
    }
    let all = |list: &Vec<Predicate>| list.iter().all(|predicate| holds(predicate).unwrap_or(true));
    let any = |lists: &Vec<Vec<Predicate>>| lists.is_empty() || lists.iter().any(all);
    any(&rule.from) && any(&rule.to) && all(&rule.when)
}

/// Whether a predicate holds; `None` when it is left out: it cannot be honoured, or it is about HTTP and this is not.
pub(crate) fn predicate_holds(
    predicate: &Predicate,
    connection: &ConnectionFacts,
    request: Option<&RequestFacts<'_>>,
) -> Option<bool> {
    let any_value = |matches: &dyn Fn(&Value) -> bool| predicate.values.iter().any(matches);
    let text = |text: &[u8]| any_value(&|value| text_matches(predicate.field, value, text));
    let address = |address: IpAddr| {
        any_value(&|value| network(predicate.field, value).is_ok_and(|network| network.contains(&address)))
    };
    let any = match predicate.field {
        Field::Principal => connection.peer.as_ref().is_some_and(|peer| text(peer.principal().as_bytes())),
        Field::Identity => connection.peer.as_ref().is_some_and(|peer| text(peer.uri().as_bytes())),
        Field::SourceIp => address(connection.source.ip()),
        Field::RemoteIp => address(request.map_or(connection.source.ip(), |request| request.remote_ip)),
        Field::DestinationIp => address(connection.destination.ip()),
        Field::DestinationPort => any_value(&|value| port(value) == Ok(connection.destination.port())),
        Field::Sni => connection.sni.as_ref().is_some_and(|sni| text(sni.as_bytes())),
        Field::Host => text(request?.authority),
        Field::Method => text(request?.method),
        Field::Path => text(request?.path),
        Field::Header => {
            let mut found = false;
            request?.visit_header(&predicate.name, &mut |value| {
                found |= text(value);
                found
            });
            found
        }
        Field::RequestPrincipal => request?.claims.is_some_and(|claims| text(claims.principal())),
        Field::Claim => {
            let (mut found, claims) = (false, request?.claims);
            if let Some(claims) = claims {
                claims.visit(&predicate.name, &mut |value| {
                    found |= text(value);
                    found
                });
            }
            found
        }
        Field::Unsupported => return None,
    };
    Some(any != predicate.negate)
}

/// Whether one value matches a text (D.3).
fn text_matches(field: Field, value: &Value, text: &[u8]) -> bool {
    let fold = |bytes: &[u8]| if field == Field::Host { bytes.to_ascii_lowercase() } else { bytes.to_vec() };
    let (own, other) = (fold(value.value.as_bytes()), fold(text));
    match value.kind {
        ValueKind::Exact => own == other,
        ValueKind::Prefix => other.starts_with(&own),
        ValueKind::Suffix => other.ends_with(&own),
        ValueKind::Present => empty_is_present(field) || !text.is_empty(),
        ValueKind::Regex | ValueKind::Template => pattern(field, value).is_ok_and(|pattern| pattern.matches(text)),
        ValueKind::Cidr => false,
    }
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
