//! Shadow results: what policies with the dry-run annotation would have decided, and which AUDIT rule matched. Nobody acts on them.
//!
//! In:      facts, and the dry-run and AUDIT policies of the snapshot.      Out: `Shadow`, for the command line, log and metrics.
//! Where there are no such policies there is nothing here, and requests pay nothing for it.
//! Source:  istio-semantics D.2 (AUDIT), D.7: DENY and ALLOW each have a result of their own, as in Istio's metadata.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::authz::compile::{Layer, Policies};
use crate::authz::matching::Marks;
use crate::authz::{PolicyRef, connection_marks};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::Action;
use crate::snapshot::Snapshot;

impl Snapshot {
    /// What policies in the shadow say to an HTTP request.
    pub fn shadow_request(&self, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> Shadow {
        let Some(policies) = &self.policies().shadow else { return Shadow::default() };
        let mut marks = connection_marks(policies, connection);
        policies.matchers.mark_request(request, &mut marks);
        decide(policies, &policies.http, &marks)
    }

    /// What they say to an opaque connection.
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
    /// The AUDIT rule that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Arc<PolicyRef>>,
}

/// What the policies of one action would have decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowResult {
    /// Whether the request would have gone on.
    pub allowed: bool,
    /// The rule that matched.
    pub policy: Option<Arc<PolicyRef>>,
}

impl Shadow {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.findings().next().is_none()
    }

    /// Each finding: the action of the policies, what they would have done, and by which rule.
    pub fn findings(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<&PolicyRef>)> {
        let verdict = |found: &ShadowResult| if found.allowed { "allowed" } else { "denied" };
        let deny = self.deny.iter().map(move |found| ("deny", verdict(found), found.policy.as_deref()));
        let allow = self.allow.iter().map(move |found| ("allow", verdict(found), found.policy.as_deref()));
        let audit = self.audit.iter().map(|policy| ("audit", "matched", Some(&**policy)));
        deny.chain(allow).chain(audit)
    }
}

/// As the access log has it: `deny=denied:ns[a]-policy[b]-rule[0],allow=allowed`.
impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (action, verdict, policy)) in self.findings().enumerate() {
            write!(f, "{}{action}={verdict}", if number == 0 { "" } else { "," })?;
            if let Some(policy) = policy {
                write!(f, ":{policy}")?;
            }
        }
        Ok(())
    }
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
    let audit = layer.audit.first_match(marks).cloned();
    Shadow { allow: result(Action::Allow), deny: result(Action::Deny), audit }
}

#[cfg(test)]
#[path = "shadow_tests.rs"]
mod tests;
