//! Rules of one action with an index: from the values that match a request to the rules that it can satisfy.
//!
//! In:      compiled rules and, by list, the values that mark it.      Out: the first rule that matches, in Envoy's order.
//! A rule is asked only when a value of its guard matched, and not when a value that it refuses did.
//! Limits:  up to 1,024 rules nothing is allocated for a decision.

use std::sync::Arc;

use crate::authz::PolicyRef;
use crate::authz::compile::CompiledRule;
use crate::authz::marks::{Group, Marks, Numbers};

/// Rules of one action.
#[derive(Debug)]
pub(crate) struct RuleSet {
    /// In the order in which Envoy asks them: by the text of their reference.
    rules: Vec<CompiledRule>,
    /// By value: the rules that need it, or another that leads to them too.
    guarded: ByValue,
    /// By value: the rules that cannot match when it does.
    refused: ByValue,
    /// Rules that may match whatever does.
    unguarded: Group,
}

impl RuleSet {
    /// Sorts rules; without an index, until there is one, all are asked.
    pub(crate) fn new(mut rules: Vec<CompiledRule>) -> Self {
        rules.sort_by_cached_key(|rule| rule.policy.to_string());
        let mut unguarded = Group::default();
        (0..).zip(&rules).for_each(|(number, _)| unguarded.push(number));
        unguarded.settle();
        Self { rules, guarded: ByValue::default(), refused: ByValue::default(), unguarded }
    }

    /// Builds the index. values: by list, those that mark it; `value_count`: of all lists.
    pub(crate) fn index(&mut self, values: &[Vec<u32>], value_count: usize) {
        let mut uses = vec![0_u64; values.len()];
        self.rules.iter().flat_map(CompiledRule::needed_lists).for_each(|list| uses[list as usize] += 1);
        let (mut guarded, mut refused) = (ByValue::sized(value_count), ByValue::sized(value_count));
        let mut unguarded = Group::default();
        for (number, rule) in (0..).zip(&self.rules) {
            match rule.guard(&uses) {
                Some(lists) => lists.iter().for_each(|&list| guarded.push(&values[list as usize], number)),
                None => unguarded.push(number),
            }
            rule.refused_lists().for_each(|list| refused.push(&values[list as usize], number));
        }
        unguarded.settle();
        (self.guarded, self.refused, self.unguarded) = (guarded.settled(), refused.settled(), unguarded);
    }

    /// The first rule that matches.
    pub(crate) fn first_match(&self, marks: &Marks) -> Option<&Arc<PolicyRef>> {
        if self.rules.is_empty() {
            return None;
        }
        let Some(hits) = marks.hits() else {
            return self.rules.iter().find(|rule| rule.matches(marks)).map(|rule| &rule.policy);
        };
        let mut candidates = Numbers::new(self.rules.len());
        self.unguarded.add_to(&mut candidates);
        hits.iter().filter_map(|&value| self.guarded.get(value)).for_each(|rules| rules.add_to(&mut candidates));
        hits.iter().filter_map(|&value| self.refused.get(value)).for_each(|rules| rules.take_from(&mut candidates));
        let mut asked = candidates.iter().map(|number| &self.rules[number as usize]);
        asked.find(|rule| rule.matches(marks)).map(|rule| &rule.policy)
    }
}

/// Groups of rules by value; most values have none.
#[derive(Debug, Default)]
struct ByValue {
    /// Where the group of a value stands, from 1 on.
    places: Vec<u32>,
    groups: Vec<Group>,
}

impl ByValue {
    fn sized(value_count: usize) -> Self {
        Self { places: vec![0; value_count], groups: Vec::new() }
    }

    fn push(&mut self, values: &[u32], rule: u32) {
        for &value in values {
            let place = &mut self.places[value as usize];
            if *place == 0 {
                self.groups.push(Group::default());
                *place = self.groups.len() as u32;
            }
            let group = &mut self.groups[*place as usize - 1];
            if group.numbers().last() != Some(&rule) {
                group.push(rule);
            }
        }
    }

    fn settled(mut self) -> Self {
        self.groups.iter_mut().for_each(Group::settle);
        if self.groups.is_empty() { Self::default() } else { self }
    }

    fn get(&self, value: u32) -> Option<&Group> {
        let place = *self.places.get(value as usize)?;
        self.groups.get((place as usize).checked_sub(1)?)
    }
}
