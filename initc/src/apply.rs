//! Puts a plan in force, or takes it back, and reads back what came of it.
//!
//! In:      settings and the rules of `plan`.   Out: a sentence about what was done.
//! Limits:  one document of one table a run, which the kernel takes whole or not at all: a run that is killed leaves
//!          everything or nothing, and the next one finishes it.
//! Fails:   `Failure`: the machine's fault, or an earlier run's.
//! Source:  nothing of ours → apply; equal → no-op; anything else of ours → refuse, as Istio without `--reconcile`.

use crate::backend::{self, Backend};
use crate::failure::Failure;
use crate::plan::{Rule, is_ours};
use crate::probe;
use crate::render;
use crate::spec::Settings;
use crate::state::State;

/// Puts the rules in force unless they already are.
pub(crate) fn install(settings: &Settings, rules: &[Rule]) -> Result<String, Failure> {
    probe::require_net_admin()?;
    let (backend, state) = backend::select(settings.forced_binary)?;
    if state.holds_ours() {
        return match differences(&backend, &state, rules) {
            found if found.is_empty() => {
                Ok(format!("{} rules were already in force ({})\n", rules.len(), backend.name))
            }
            differences => Err(Failure::Residue { program: backend.name.to_owned(), differences }),
        };
    }
    backend.restore(&render::document(rules))?;
    match differences(&backend, &backend.read()?, rules) {
        found if found.is_empty() => Ok(format!("{} rules are in force ({})\n", rules.len(), backend.name)),
        differences => Err(Failure::ReadBack { program: backend.name.to_owned(), differences }),
    }
}

/// Removes what is ours from every back end; what belongs to others stays.
pub(crate) fn clean(settings: &Settings, rules: &[Rule]) -> Result<String, Failure> {
    probe::require_net_admin()?;
    let mut removed = Vec::new();
    for (backend, state) in backend::readable(settings.forced_binary)? {
        let document = removal(&backend, &state, rules);
        if document.is_empty() {
            continue;
        }
        backend.restore(&document)?;
        let left: Vec<String> =
            backend.read()?.ours().iter().map(|(table, chain)| format!("{table} {chain}")).collect();
        if !left.is_empty() {
            return Err(Failure::NotRemoved { program: backend.name.to_owned(), chains: left });
        }
        removed.push(backend.name);
    }
    Ok(match removed[..] {
        [] => "there was nothing to remove\n".to_owned(),
        _ => format!("the rules are removed ({})\n", removed.join(", ")),
    })
}

/// Chains are compared first: only when they agree is each rule asked for.
fn differences(backend: &Backend, state: &State, rules: &[Rule]) -> Vec<String> {
    let differences = state.differences(rules);
    if !differences.is_empty() {
        return differences;
    }
    let missing = rules.iter().filter(|rule| !backend.holds(rule));
    missing.map(|rule| format!("{} {} lacks `{}`", rule.table, rule.chain, rule.args)).collect()
}

/// Chains of ours and jumps to them are found in what is in force; other rules of the plan are known by the plan only.
fn removal(backend: &Backend, state: &State, rules: &[Rule]) -> String {
    let mut deletions = state.jumps();
    let loose = rules.iter().filter(|rule| !is_ours(rule.chain) && rule.jumps_to().is_none());
    if state.holds_rules() {
        let held = loose.filter(|rule| backend.holds(rule));
        deletions.extend(held.map(|rule| (rule.table, format!("-D {} {}", rule.chain, rule.args))));
    }
    render::removal_document(deletions, &state.ours())
}
