//! Shadow results: what policies with the dry-run annotation would have decided. Nobody acts on them.
//!
//! In:      facts, and the dry-run policies of the snapshot.      Out: `Shadow`.
//! Source:  istio-semantics D.7: DENY and ALLOW each have a result of their own, as in Istio's metadata.

use std::sync::Arc;

use serde::Serialize;

use crate::authz::compile::{Layer, Policies};
use crate::authz::marks::Marks;
use crate::authz::{PolicyRef, connection_marks};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::Action;
use crate::snapshot::Snapshot;

impl Snapshot {
    /// What dry-run policies would have said to an HTTP request.
    pub fn shadow_request(&self, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> Shadow {
        let Some(policies) = &self.policies().shadow else { return Shadow::default() };
        let mut marks = connection_marks(policies, connection);
        policies.matchers.mark_request(request, &mut marks);
        decide(policies, &policies.http, &marks)
    }

    /// What they would have said to an opaque connection.
    pub fn shadow_connection(&self, connection: &ConnectionFacts) -> Shadow {
        let Some(policies) = &self.policies().shadow else { return Shadow::default() };
        let mut marks = connection_marks(policies, connection);
        policies.matchers.mark_remote(connection.source.ip(), &mut marks);
        decide(policies, &policies.tcp, &marks)
    }
}

/// Results by action; none where no dry-run policy of the action exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// Of the ALLOW policies.
    pub allow: Option<ShadowResult>,
    /// Of the DENY policies.
    pub deny: Option<ShadowResult>,
}

/// What the policies of one action would have decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowResult {
    /// Whether the request would have gone on.
    pub allowed: bool,
    /// The rule that matched.
    pub policy: Option<Arc<PolicyRef>>,
}

fn decide(policies: &Policies, layer: &Layer, marks: &Marks) -> Shadow {
    let exists = |action: Action| policies.section.policies.iter().any(|policy| policy.action == action);
    let matched = |action: Action| match action {
        Action::Allow => layer.allow.first_match(marks).cloned(),
        _ => layer.deny.first_match(marks).cloned(),
    };
    let result = |action: Action| {
        exists(action).then(|| {
            let policy = matched(action);
            ShadowResult { allowed: policy.is_some() == (action == Action::Allow), policy }
        })
    };
    Shadow { allow: result(Action::Allow), deny: result(Action::Deny) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fixtures::{inbound, with_policies};

    fn told(action: &str, port: u16) -> serde_json::Value {
        let port = json!([{"field": "destination_port", "name": "", "negate": false,
                           "values": [{"kind": "exact", "value": port.to_string()}]}]);
        let policy = json!({"namespace": "n", "name": "p", "action": action, "dry_run": true, "where": "f:1",
                            "rules": [{"from": [], "to": [port], "when": []}]});
        let snapshot = with_policies(json!([policy]));
        let facts = inbound(None);
        assert!(snapshot.authorize_connection(&facts).is_ok(), "nothing is enforced");
        serde_json::to_value(snapshot.shadow_connection(&facts)).expect("a result is JSON")
    }

    #[test]
    fn each_action_has_its_result() {
        let rule = json!({"namespace": "n", "name": "p", "rule": 0, "where": "f:1"});
        assert_eq!(told("DENY", 9080), json!({"allow": null, "deny": {"allowed": false, "policy": rule}}));
        assert_eq!(told("DENY", 1), json!({"allow": null, "deny": {"allowed": true, "policy": null}}));
        assert_eq!(told("ALLOW", 9080), json!({"allow": {"allowed": true, "policy": rule}, "deny": null}));
        assert_eq!(told("ALLOW", 1), json!({"allow": {"allowed": false, "policy": null}, "deny": null}));
        assert_eq!(told("AUDIT", 9080), json!({"allow": null, "deny": null}));
    }
}
