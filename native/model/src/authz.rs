//! Authorization: facts about a connection or a request into a `Permit` or a `Denial`. Permits are made here and nowhere else.
//!
//! In:      `ConnectionFacts`, `RequestFacts`, and the `authz` section of the snapshot.
//! Out:     `Permit`, which routing and the opaque path demand; `Denial`, which names the policy.
//! Fails:   closed: before there is a configuration everything is denied.
//! Source:  istio-semantics D.2, D.5, D.6.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::authz_reference;
use crate::facts::{ConnectionFacts, Direction, RequestFacts};
use crate::sections::Authz;
use crate::snapshot::Snapshot;

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
}

impl Denial {
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

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ns[{}]-policy[{}]-rule[{}]", self.namespace, self.name, self.rule)
    }
}

/// The policies of a snapshot.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) section: Authz,
}

impl Policies {
    /// Compiles a section.
    pub(crate) fn compile(section: Authz) -> Result<Self, String> {
        Ok(Self { section })
    }

    /// Denies everything.
    pub(crate) fn closed() -> Self {
        Self { section: Authz { policies: Vec::new() } }
    }
}

impl Snapshot {
    /// Authorizes an opaque connection: the TCP form of the policies (D.5).
    pub fn authorize_connection(&self, connection: &ConnectionFacts) -> Result<Permit, Denial> {
        authz_reference::decide(&self.policies().section, connection, None)
            .map(|policy| Permit { policy })
            .map_err(|policy| Denial { policy })
    }

    /// Authorizes one HTTP request.
    pub fn authorize_request(
        &self,
        connection: &ConnectionFacts,
        request: &RequestFacts<'_>,
    ) -> Result<Permit, Denial> {
        authz_reference::decide(&self.policies().section, connection, Some(request))
            .map(|policy| Permit { policy })
            .map_err(|policy| Denial { policy })
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
