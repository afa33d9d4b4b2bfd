//! Explanations: every policy, rule and predicate, and whether it holds for the facts given.
//!
//! In:      the `authz` section and facts.
//! Out:     `Explanation`, serialized for the command line and the pytest plugin.
//! The verdict is the evaluator's; what each predicate says comes from the plain form, which must agree with it.

use std::sync::Arc;

use serde::Serialize;

use crate::authz::reference::{predicate_holds, rule_matches};
use crate::authz::{Denial, Permit, PolicyRef};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::{Action, Authz, Field, Policy, Predicate, Rule, Value};
use crate::snapshot::Snapshot;

impl Snapshot {
    /// Explains the verdict on an HTTP request.
    pub fn explain_request(&self, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> Explanation {
        let verdict = self.authorize_request(connection, request);
        explain(&self.policies().section, &verdict, &Facts { connection, request: Some(request) })
    }

    /// Explains the verdict on an opaque connection.
    pub fn explain_connection(&self, connection: &ConnectionFacts) -> Explanation {
        let verdict = self.authorize_connection(connection);
        explain(&self.policies().section, &verdict, &Facts { connection, request: None })
    }
}

/// What every policy says about a connection or request.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The verdict, of the evaluator that the data plane runs.
    pub allowed: bool,
    /// The rule behind the verdict.
    pub policy: Option<PolicyRef>,
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

/// What is explained; no request means opaque TCP.
struct Facts<'a> {
    connection: &'a ConnectionFacts,
    request: Option<&'a RequestFacts<'a>>,
}

fn explain(section: &Authz, verdict: &Result<Permit, Denial>, facts: &Facts<'_>) -> Explanation {
    Explanation {
        allowed: verdict.is_ok(),
        policy: match verdict {
            Ok(permit) => permit.policy().cloned(),
            Err(denial) => denial.policy.as_deref().cloned(),
        },
        detail: verdict.as_ref().err().map(Denial::detail).unwrap_or_default(),
        policies: section.policies.iter().map(|policy| explain_policy(policy, facts)).collect(),
    }
}

fn explain_policy(policy: &Policy, facts: &Facts<'_>) -> PolicyExplanation {
    let rules: Vec<_> = policy.rules.iter().map(|rule| explain_rule(policy.action, rule, facts)).collect();
    PolicyExplanation {
        namespace: Arc::clone(&policy.namespace),
        name: Arc::clone(&policy.name),
        action: policy.action,
        dry_run: policy.dry_run,
        where_: Arc::clone(&policy.where_),
        matched: rules.iter().any(|rule| rule.matched),
        rules,
    }
}

fn explain_rule(action: Action, rule: &Rule, facts: &Facts<'_>) -> RuleExplanation {
    let all_of = |list: &Vec<Predicate>| list.iter().map(|predicate| explain_predicate(predicate, facts)).collect();
    RuleExplanation {
        matched: rule_matches(action, rule, facts.connection, facts.request),
        from: rule.from.iter().map(all_of).collect(),
        to: rule.to.iter().map(all_of).collect(),
        when: all_of(&rule.when),
    }
}

fn explain_predicate(predicate: &Predicate, facts: &Facts<'_>) -> PredicateExplanation {
    PredicateExplanation {
        field: predicate.field,
        name: Arc::clone(&predicate.name),
        negate: predicate.negate,
        values: predicate.values.clone(),
        holds: predicate_holds(predicate, facts.connection, facts.request),
    }
}
