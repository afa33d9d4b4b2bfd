//! Authorization: facts about a connection or a request into a `Permit` or a `Denial`. Permits are made here and
//! nowhere else.
//!
//! In:      `ConnectionFacts`, `RequestFacts`, and the policies of the snapshot.
//! Out:     `Permit`, which routing and the opaque path demand; `Denial`, which names the policy.
//! Fails:   closed: before there is a configuration everything is denied.
//! Source:  istio-semantics D.2, D.5, D.6.

pub(crate) mod compile;
pub mod explain;
pub(crate) mod matching;
pub(crate) mod patterns;
#[doc(hidden)]
pub mod reference;
pub mod shadow;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::authz::compile::{Layer, Policies};
use crate::authz::matching::Marks;
use crate::facts::{ConnectionFacts, Direction, RequestFacts};
use crate::sections::Policy;
use crate::snapshot::Snapshot;

impl Snapshot {
    /// Authorizes an opaque connection: the TCP form of the policies (D.5).
    pub fn authorize_connection(&self, connection: &ConnectionFacts) -> Result<Permit, Denial> {
        let policies = self.policies();
        let mut marks = connection_marks(policies, connection);
        policies.matchers.mark_remote(connection.source.ip(), &mut marks);
        decide(&policies.tcp, &marks)
    }

    /// Authorizes one HTTP request.
    pub fn authorize_request(
        &self,
        connection: &ConnectionFacts,
        request: &RequestFacts<'_>,
    ) -> Result<Permit, Denial> {
        let policies = self.policies();
        let mut marks = connection_marks(policies, connection);
        policies.matchers.mark_request(request, &mut marks);
        decide(&policies.http, &marks)
    }

    /// Evaluates once what no request of the connection can change; to be given to `authorize_request_in`.
    pub fn connection_context(&self, connection: &ConnectionFacts) -> ConnectionContext {
        let policies = Arc::clone(self.policies());
        ConnectionContext { marks: connection_marks(&policies, connection), policies }
    }

    /// Authorizes one HTTP request as `authorize_request` does, for less. The context is renewed when the policies are
    /// others by now.
    pub fn authorize_request_in(
        &self,
        context: &mut ConnectionContext,
        connection: &ConnectionFacts,
        request: &RequestFacts<'_>,
    ) -> Result<Permit, Denial> {
        if !Arc::ptr_eq(&context.policies, self.policies()) {
            *context = self.connection_context(connection);
        }
        let mut marks = context.marks.clone();
        context.policies.matchers.mark_request(request, &mut marks);
        decide(&context.policies.http, &marks)
    }

    /// The explicit allow of outbound chains: policy is the matter of the side that is called (D.6).
    ///
    /// # Panics
    /// When the connection is inbound: a permit must not be had around the policies.
    pub fn permit_outbound(&self, connection: &ConnectionFacts) -> Permit {
        assert!(connection.direction == Direction::Outbound, "an inbound connection is authorized by policy");
        Permit { policy: None }
    }
}

/// Proof that a connection or request was authorized. It cannot be made outside this module, nor copied.
#[derive(Debug)]
pub struct Permit {
    policy: Option<Arc<PolicyRef>>,
}

impl Permit {
    /// The ALLOW rule that matched; none when no ALLOW policy exists, and on the outbound side.
    pub fn policy(&self) -> Option<&PolicyRef> {
        self.policy.as_deref()
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The DENY rule that matched; none when ALLOW policies exist and none matched.
    pub policy: Option<Arc<PolicyRef>>,
    /// The ALLOW policies of which none matched, named with their places; none when a DENY rule matched.
    pub unmatched: Option<Arc<str>>,
}

impl Denial {
    /// Envoy's detail, and behind it what a person has to look at.
    pub fn explanation(&self) -> String {
        match (&self.policy, &self.unmatched) {
            (Some(policy), _) => format!("{} at {}", self.detail(), policy.where_),
            (None, Some(unmatched)) => format!("{} none of these ALLOW policies matches: {unmatched}", self.detail()),
            (None, None) => self.detail(),
        }
    }

    /// Envoy's response code detail.
    pub fn detail(&self) -> String {
        match &self.policy {
            Some(policy) => format!("rbac_access_denied_matched_policy[{policy}]"),
            None => "rbac_access_denied_matched_policy[none]".to_owned(),
        }
    }
}

/// Names one rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyRef {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub name: Arc<str>,
    /// Index of the rule.
    pub rule: usize,
    /// `file:line` of the document.
    #[serde(rename = "where")]
    pub where_: Arc<str>,
}

impl PolicyRef {
    pub(crate) fn new(policy: &Policy, rule: usize) -> Self {
        Self {
            namespace: Arc::clone(&policy.namespace),
            name: Arc::clone(&policy.name),
            rule,
            where_: Arc::clone(&policy.where_),
        }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ns[{}]-policy[{}]-rule[{}]", self.namespace, self.name, self.rule)
    }
}

/// What of the policies is settled for all requests of a connection.
#[derive(Debug)]
pub struct ConnectionContext {
    policies: Arc<Policies>,
    marks: Marks,
}

fn connection_marks(policies: &Policies, connection: &ConnectionFacts) -> Marks {
    let mut marks = Marks::new(policies.list_count);
    policies.matchers.mark_connection(connection, &mut marks);
    marks
}

/// D.2: DENY before ALLOW, and an ALLOW must match once one exists.
fn decide(layer: &Layer, marks: &Marks) -> Result<Permit, Denial> {
    if let Some(policy) = layer.deny.first_match(marks) {
        return Err(Denial { policy: Some(Arc::clone(policy)), unmatched: None });
    }
    match layer.allow.first_match(marks) {
        Some(policy) => Ok(Permit { policy: Some(Arc::clone(policy)) }),
        None => match &layer.allow_policies {
            Some(unmatched) => Err(Denial { policy: None, unmatched: Some(Arc::clone(unmatched)) }),
            None => Ok(Permit { policy: None }),
        },
    }
}

#[cfg(test)]
#[path = "authz_tests.rs"]
mod tests;
