//! Explanations: every policy, rule and predicate, and whether it holds for the facts given.
//!
//! In:      the `authz` section and facts.
//! Out:     `Explanation`, serialized for the command line and the pytest plugin.
//! The verdict is the evaluator's, and what each rule and predicate says comes from the same matchers, marks and tests: the
//! policies are compiled once more with those that are not enforced, so that every predicate has a mark of its own.

use std::sync::Arc;

use serde::Serialize;

use crate::authz::compile::{CompiledRule, ListTable, is_dropped, predicates};
use crate::authz::marks::Marks;
use crate::authz::matching::Matchers;
use crate::authz::{Denial, Permit, PolicyRef};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::jwt::claims::PRINCIPAL_SEPARATOR;
use crate::sections::{Action, Authz, Field, Policy, Predicate, Value};
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
    /// What the connection or request has of the attribute, one character a byte.
    pub found: Vec<String>,
}

/// What is explained; no request means opaque TCP.
struct Facts<'a> {
    connection: &'a ConnectionFacts,
    request: Option<&'a RequestFacts<'a>>,
}

impl Facts<'_> {
    /// Predicates that are left out: what cannot be honoured, and HTTP where there is none.
    fn leave_out(&self, field: Field) -> bool {
        if self.request.is_some() { field == Field::Unsupported } else { field.is_http_only() }
    }

    fn marks(&self, matchers: &Matchers, count: usize) -> Marks {
        let mut marks = Marks::new(count);
        matchers.mark_connection(self.connection, &mut marks);
        match self.request {
            Some(request) => matchers.mark_request(request, &mut marks),
            None => matchers.mark_remote(self.connection.source.ip(), &mut marks),
        }
        marks
    }

    fn found(&self, predicate: &Predicate) -> Vec<String> {
        let (connection, request) = (self.connection, self.request);
        let text = |bytes: &[u8]| bytes.iter().map(|&byte| char::from(byte)).collect::<String>();
        let of_request = |read: fn(&RequestFacts<'_>) -> Vec<u8>| request.map(|request| text(&read(request)));
        let one = match predicate.field {
            Field::Principal => connection.peer.as_ref().map(|peer| peer.principal().to_owned()),
            Field::Identity => connection.peer.as_ref().map(|peer| peer.uri().to_owned()),
            Field::Sni => connection.sni.as_ref().map(ToString::to_string),
            Field::SourceIp => Some(connection.source.ip().to_string()),
            Field::RemoteIp => Some(request.map_or(connection.source.ip(), |request| request.remote_ip).to_string()),
            Field::DestinationIp => Some(connection.destination.ip().to_string()),
            Field::DestinationPort => Some(connection.destination.port().to_string()),
            Field::Host => of_request(|request| request.authority.to_vec()),
            Field::Method => of_request(|request| request.method.to_vec()),
            Field::Path => of_request(|request| request.path.to_vec()),
            Field::Header => {
                let mut values = Vec::new();
                if let Some(request) = request {
                    request.visit_header(&predicate.name, &mut |value| {
                        values.push(text(value));
                        false
                    });
                }
                return values;
            }
            // As policies write it: issuer and subject with a slash between them.
            Field::RequestPrincipal => request.and_then(|request| request.claims).and_then(|claims| {
                let principal = text(claims.principal());
                (!principal.is_empty()).then(|| principal.replace(PRINCIPAL_SEPARATOR, "/"))
            }),
            Field::Claim => {
                let mut values = Vec::new();
                if let Some(claims) = request.and_then(|request| request.claims) {
                    claims.visit(&predicate.name, &mut |value| {
                        values.push(text(value));
                        false
                    });
                }
                return values;
            }
            Field::Unsupported => None,
        };
        one.into_iter().collect()
    }
}

fn explain(section: &Authz, verdict: &Result<Permit, Denial>, facts: &Facts<'_>) -> Explanation {
    let mut lists = ListTable::default();
    for predicate in section.policies.iter().flat_map(|policy| &policy.rules).flat_map(predicates) {
        if !facts.leave_out(predicate.field) {
            lists.test(predicate);
        }
    }
    let matchers = Matchers::build(&lists.lists).expect("the values were checked when the section was decoded");
    let marks = facts.marks(&matchers, lists.lists.len());
    let mut walk = Walk { facts, lists, marks };
    Explanation {
        allowed: verdict.is_ok(),
        policy: match verdict {
            Ok(permit) => permit.policy().cloned(),
            Err(denial) => denial.policy.as_deref().cloned(),
        },
        detail: verdict.as_ref().err().map(Denial::detail).unwrap_or_default(),
        policies: section.policies.iter().map(|policy| walk.policy(policy)).collect(),
    }
}

/// The facts, and the marks that they set.
struct Walk<'a> {
    facts: &'a Facts<'a>,
    lists: ListTable,
    marks: Marks,
}

impl Walk<'_> {
    fn policy(&mut self, policy: &Policy) -> PolicyExplanation {
        let rules: Vec<_> = (0..policy.rules.len()).map(|index| self.rule(policy, index)).collect();
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

    fn rule(&mut self, policy: &Policy, index: usize) -> RuleExplanation {
        let (rule, facts) = (&policy.rules[index], self.facts);
        let cannot_hold = |field| facts.leave_out(field);
        let named = Arc::new(PolicyRef::new(policy, index));
        let matched = !is_dropped(policy.action, rule, cannot_hold)
            && CompiledRule::compile(named, rule, &mut self.lists, &cannot_hold).matches(&self.marks);
        let mut all_of =
            |list: &Vec<Predicate>| list.iter().map(|predicate| self.predicate(predicate)).collect::<Vec<_>>();
        RuleExplanation {
            matched,
            from: rule.from.iter().map(&mut all_of).collect(),
            to: rule.to.iter().map(&mut all_of).collect(),
            when: all_of(&rule.when),
        }
    }

    fn predicate(&mut self, predicate: &Predicate) -> PredicateExplanation {
        let is_left_out = self.facts.leave_out(predicate.field);
        PredicateExplanation {
            field: predicate.field,
            name: Arc::clone(&predicate.name),
            negate: predicate.negate,
            values: predicate.values.clone(),
            holds: (!is_left_out).then(|| self.lists.test(predicate).holds(&self.marks)),
            found: self.facts.found(predicate),
        }
    }
}
