//! Shadows: what policies in dry run would have decided, and which AUDIT rule matched. None of it decides anything.
//!
//! In:      the section, from `compile`; facts, from the engine.      Out: `Shadow`, for the access log and the metrics.
//! Where no policy is in dry run or of action AUDIT there is nothing here, and requests pay nothing for it.
//! Source:  istio-semantics D.2 (AUDIT), D.7 (dry run); attack case AZ-15.

use std::fmt;
use std::sync::Arc;

use crate::authz::PolicyRef;
use crate::authz::compile::{Layer, ListTable, RuleSet, cannot_hold_in_http, cannot_hold_in_tcp};
use crate::authz::matching::{Marks, Matchers};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::{Action, Authz, Policy};
use crate::snapshot::Snapshot;

impl Snapshot {
    /// What policies in the shadow say of an HTTP request; `None` where there are none.
    pub fn shadow_of_request(&self, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> Option<Shadow> {
        let shadows = self.policies().shadows.as_ref()?;
        let mut marks = Marks::new(shadows.list_count);
        shadows.matchers.mark_connection(connection, &mut marks);
        shadows.matchers.mark_request(request, &mut marks);
        Some(shadows.http.ask(&marks))
    }

    /// As `shadow_of_request`, for an opaque connection.
    pub fn shadow_of_connection(&self, connection: &ConnectionFacts) -> Option<Shadow> {
        let shadows = self.policies().shadows.as_ref()?;
        let mut marks = Marks::new(shadows.list_count);
        shadows.matchers.mark_connection(connection, &mut marks);
        shadows.matchers.mark_remote(connection.source.ip(), &mut marks);
        Some(shadows.tcp.ask(&marks))
    }
}

/// What was found in the shadow of one request or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Whether DENY policies in dry run would have let it through; `None` where there are none.
    pub deny: Option<Hypothetical>,
    /// The same of ALLOW policies.
    pub allow: Option<Hypothetical>,
    /// The AUDIT rule that matched.
    pub audit: Option<Arc<PolicyRef>>,
}

/// A verdict that was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hypothetical {
    /// Whether it would have been allowed.
    pub allowed: bool,
    /// The rule that would have decided; none where no rule matched.
    pub policy: Option<Arc<PolicyRef>>,
}

impl Shadow {
    /// Each finding: the action of the policies, what they would have done, and by which rule.
    pub fn findings(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<&PolicyRef>)> {
        let verdict = |found: &'_ Hypothetical| if found.allowed { "allowed" } else { "denied" };
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

/// The policies in the shadow, compiled apart from those that decide.
#[derive(Debug)]
pub(crate) struct Shadows {
    matchers: Matchers,
    http: ShadowLayer,
    tcp: ShadowLayer,
    list_count: usize,
}

#[derive(Debug)]
struct ShadowLayer {
    dry: Layer,
    has_deny: bool,
    audit: RuleSet,
}

impl Shadows {
    /// Compiles what decides nothing; `None` where there is nothing such.
    pub(crate) fn compile(section: &Authz) -> Result<Option<Self>, String> {
        if section.policies.iter().all(|policy| !is_dry(policy) && policy.action != Action::Audit) {
            return Ok(None);
        }
        let mut lists = ListTable::default();
        let http = ShadowLayer {
            dry: Layer::compile(section, &mut lists, cannot_hold_in_http, is_dry),
            has_deny: has_deny(section),
            audit: RuleSet::audit(section, &mut lists, cannot_hold_in_http),
        };
        let tcp = ShadowLayer {
            dry: Layer::compile(section, &mut lists, cannot_hold_in_tcp, is_dry),
            has_deny: has_deny(section),
            audit: RuleSet::audit(section, &mut lists, cannot_hold_in_tcp),
        };
        let matchers = Matchers::build(&lists.lists)?;
        Ok(Some(Self { matchers, http, tcp, list_count: lists.lists.len() }))
    }
}

impl ShadowLayer {
    fn ask(&self, marks: &Marks) -> Shadow {
        let denied = self.dry.deny.first_match(marks).cloned();
        let allowed = self.dry.allow.first_match(marks).cloned();
        let allow = self.dry.allow_policies.is_some();
        Shadow {
            deny: self.has_deny.then(|| Hypothetical { allowed: denied.is_none(), policy: denied }),
            allow: allow.then(|| Hypothetical { allowed: allowed.is_some(), policy: allowed }),
            audit: self.audit.first_match(marks).cloned(),
        }
    }
}

fn is_dry(policy: &Policy) -> bool {
    policy.dry_run && policy.action != Action::Audit
}

fn has_deny(section: &Authz) -> bool {
    section.policies.iter().any(|policy| is_dry(policy) && policy.action == Action::Deny)
}

#[cfg(test)]
#[path = "shadow_tests.rs"]
mod tests;
