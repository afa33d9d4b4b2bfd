//! Compiling policies: the `authz` section into rules over marks, which `rules` finds by the values that match.
//!
//! In:      the section, from `decode`.      Out: `Policies`, read by `authz`.
//! Fails:   a sentence naming the policy and the value; the sender must not emit it.
//! Source:  istio-semantics D.2 and D.5; docs/snapshot.md, `authz`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::authz::PolicyRef;
use crate::authz::marks::Marks;
use crate::authz::matching::Matchers;
use crate::authz::rules::RuleSet;
use crate::sections::{Action, Authz, Field, Policy, Predicate, Rule, ValueKind};

/// The policies of a snapshot: the section, and its two compiled forms.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) section: Authz,
    pub(crate) matchers: Matchers,
    pub(crate) http: Layer,
    pub(crate) tcp: Layer,
    /// How many value lists there are, hence marks.
    pub(crate) list_count: usize,
    /// The policies in dry run, compiled as if they were enforced, and those of action AUDIT, where there are any.
    pub(crate) shadow: Option<Box<Policies>>,
}

/// The enforced rules of one kind of traffic.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) deny: RuleSet,
    pub(crate) allow: RuleSet,
    /// Rules that are recorded; empty but in the shadow.
    pub(crate) audit: RuleSet,
    /// The ALLOW policies that exist, though none of their rules may be left, as people are told of them: `ns/name (file:line)`.
    pub(crate) allow_policies: Option<Arc<str>>,
}

impl Policies {
    /// Compiles a section.
    pub(crate) fn compile(section: Authz) -> Result<Self, String> {
        Self::of(section, false)
    }

    /// `in_shadow`: every policy counts, so that it can be told what it would do.
    fn of(section: Authz, in_shadow: bool) -> Result<Self, String> {
        section.policies.iter().try_for_each(check_lists)?;
        let mut lists = ListTable::default();
        let counts = |policy: &Policy| in_shadow || is_enforced(policy);
        let mut http = Layer::compile(&section, &mut lists, |field| field == Field::Unsupported, counts);
        let mut tcp = Layer::compile(&section, &mut lists, Field::is_http_only, counts);
        // Values are checked where they are compiled; only then, when one is wrong, is its policy looked for.
        let matchers = Matchers::build(&lists.lists);
        let named = |reason: String| section.policies.iter().try_for_each(check_values).err().unwrap_or(reason);
        let mut matchers = matchers.map_err(named)?;
        let (by_list, value_count) = matchers.values_by_list(lists.lists.len());
        for rules in http.rule_sets().into_iter().chain(tcp.rule_sets()) {
            rules.index(&by_list, value_count);
        }
        let shadow = if in_shadow { None } else { Self::shadow_of(&section)? };
        Ok(Self { matchers, http, tcp, list_count: lists.lists.len(), shadow, section })
    }

    fn shadow_of(section: &Authz) -> Result<Option<Box<Self>>, String> {
        let tried = section.policies.iter().filter(|policy| !is_enforced(policy));
        let policies: Vec<Policy> = tried.map(|policy| Policy { dry_run: false, ..policy.clone() }).collect();
        if policies.is_empty() { Ok(None) } else { Self::of(Authz { policies }, true).map(|made| Some(Box::new(made))) }
    }

    /// Denies everything: one ALLOW policy without rules.
    pub(crate) fn closed() -> Self {
        let policy = Policy {
            namespace: "".into(),
            name: "".into(),
            action: Action::Allow,
            dry_run: false,
            where_: "".into(),
            rules: Vec::new(),
        };
        Self::compile(Authz { policies: vec![policy] }).expect("a policy without values compiles")
    }
}

impl Layer {
    fn rule_sets(&mut self) -> [&mut RuleSet; 3] {
        [&mut self.deny, &mut self.allow, &mut self.audit]
    }

    /// Compiles those of the policies that `counts` names; fields that `cannot_hold` names do not exist in this kind of traffic.
    pub(crate) fn compile(
        section: &Authz,
        lists: &mut ListTable,
        cannot_hold: impl Fn(Field) -> bool,
        counts: impl Fn(&Policy) -> bool,
    ) -> Self {
        let (mut deny, mut allow, mut audit, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for policy in section.policies.iter().filter(|policy| counts(policy)) {
            let place = match policy.action {
                Action::Allow => &mut allow,
                Action::Deny => &mut deny,
                Action::Audit => &mut audit,
            };
            if policy.action == Action::Allow {
                names.push(format!("{}/{} ({})", policy.namespace, policy.name, policy.where_));
            }
            for (index, rule) in policy.rules.iter().enumerate() {
                if is_dropped(policy.action, rule, &cannot_hold) {
                    continue;
                }
                let policy = Arc::new(PolicyRef::new(policy, index));
                place.push(CompiledRule::compile(policy, rule, lists, &cannot_hold));
            }
        }
        let allow_policies = (!names.is_empty()).then(|| told(&names).into());
        Self { deny: RuleSet::new(deny), allow: RuleSet::new(allow), audit: RuleSet::new(audit), allow_policies }
    }
}

/// The first few names, and how many more there are: a denial is one line of a log.
fn told(names: &[String]) -> String {
    let shown = names.len().min(MAX_POLICIES_TOLD);
    let more = names.len() - shown;
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", names[..shown].join(", "))
}

const MAX_POLICIES_TOLD: usize = 8;

/// D.5: an ALLOW rule with a predicate that cannot hold goes whole, rules of other actions go on without it.
pub(crate) fn is_dropped(action: Action, rule: &Rule, cannot_hold: impl Fn(Field) -> bool) -> bool {
    action == Action::Allow && predicates(rule).any(|predicate| cannot_hold(predicate.field))
}

/// One rule over marks.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) policy: Arc<PolicyRef>,
    from: AnyOf,
    to: AnyOf,
    when: AllOf,
}

/// Holds when empty, or when one alternative does.
type AnyOf = Vec<AllOf>;

/// Holds when every test does.
type AllOf = Vec<Test>;

/// A list of values, and whether it must be marked or must not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    list: u32,
    negate: bool,
    /// How few requests mark the list, roughly; lower is fewer.
    rank: u8,
}

impl Test {
    pub(crate) fn holds(self, marks: &Marks) -> bool {
        marks.has(self.list) != self.negate
    }
}

impl CompiledRule {
    pub(crate) fn compile(
        policy: Arc<PolicyRef>,
        rule: &Rule,
        lists: &mut ListTable,
        cannot_hold: &impl Fn(Field) -> bool,
    ) -> Self {
        let mut all_of = |predicates: &Vec<Predicate>| -> AllOf {
            predicates
                .iter()
                .filter(|predicate| !cannot_hold(predicate.field))
                .map(|predicate| lists.test(predicate))
                .collect()
        };
        Self {
            policy,
            from: rule.from.iter().map(&mut all_of).collect(),
            to: rule.to.iter().map(&mut all_of).collect(),
            when: all_of(&rule.when),
        }
    }

    pub(crate) fn matches(&self, marks: &Marks) -> bool {
        let all = |tests: &AllOf| tests.iter().all(|test| test.holds(marks));
        let any = |alternatives: &AnyOf| alternatives.is_empty() || alternatives.iter().any(all);
        any(&self.from) && any(&self.to) && all(&self.when)
    }

    /// Lists that a rule may be found by.
    pub(crate) fn needed_lists(&self) -> impl Iterator<Item = u32> {
        let tests = self.from.iter().chain(&self.to).flatten().chain(&self.when);
        tests.filter(|test| !test.negate).map(|test| test.list)
    }

    /// Lists of which none is marked when the rule matches.
    pub(crate) fn refused_lists(&self) -> impl Iterator<Item = u32> {
        // Of several alternatives another may hold.
        let only = |alternatives: &AnyOf| if let [only] = &alternatives[..] { only.clone() } else { Vec::new() };
        let tests = self.when.iter().copied().chain(only(&self.from)).chain(only(&self.to));
        tests.filter(|test| test.negate).map(|test| test.list)
    }

    /// Lists of which one is marked whenever the rule matches; the choice that leads least often to this and to other
    /// rules in vain. `None` when there is no such choice. uses: by list, the rules that need it.
    pub(crate) fn guard(&self, uses: &[u64]) -> Option<Vec<u32>> {
        let cost = |test: &Test| uses[test.list as usize] << (RANK_SHIFT * test.rank);
        let rarest = |tests: &AllOf| tests.iter().filter(|test| !test.negate).copied().min_by_key(cost);
        let of_any = |alternatives: &AnyOf| -> Option<Vec<Test>> {
            alternatives.iter().map(rarest).collect::<Option<Vec<_>>>().filter(|tests| !tests.is_empty())
        };
        let choices = [of_any(&self.from), of_any(&self.to), rarest(&self.when).map(|test| vec![test])];
        let choice = choices.into_iter().flatten().min_by_key(|tests| tests.iter().map(cost).sum::<u64>());
        choice.map(|tests| tests.into_iter().map(|test| test.list).collect())
    }
}

/// A rank is taken for two bits: four times as many requests mark the list.
const RANK_SHIFT: u8 = 2;

/// The distinct value lists; a negated list is the same list.
#[derive(Default)]
pub(crate) struct ListTable {
    pub(crate) lists: Vec<Predicate>,
    numbers: HashMap<Predicate, u32>,
}

impl ListTable {
    /// The test for a predicate; its list is taken in when it is new.
    pub(crate) fn test(&mut self, predicate: &Predicate) -> Test {
        let list = Predicate { negate: false, ..predicate.clone() };
        let next = self.lists.len() as u32;
        let number = *self.numbers.entry(list.clone()).or_insert(next);
        if number == next {
            self.lists.push(list);
        }
        Test { list: number, negate: predicate.negate, rank: rank(predicate) }
    }
}

/// Estimates how often a list is marked: callers and paths differ, methods and ports hardly.
fn rank(predicate: &Predicate) -> u8 {
    let field = match predicate.field {
        Field::Principal | Field::Identity | Field::RequestPrincipal => 0,
        Field::Path | Field::Host | Field::Header | Field::Claim => 1,
        Field::SourceIp | Field::RemoteIp | Field::Sni => 2,
        Field::DestinationIp | Field::DestinationPort | Field::Method | Field::Unsupported => 3,
    };
    let present = predicate.values.iter().any(|value| value.kind == ValueKind::Present);
    field + if present { 4 } else { 0 }
}

/// Whether a policy decides anything.
fn is_enforced(policy: &Policy) -> bool {
    policy.action != Action::Audit && !policy.dry_run
}

/// A list without values would never hold, or always when negated, and so would a header whose name no header has:
/// neither can have been meant.
fn check_lists(policy: &Policy) -> Result<(), String> {
    let check = |predicate: &Predicate| match predicate.field {
        Field::Unsupported => Ok(()),
        field if predicate.values.is_empty() => Err(format!("{field:?} is compared with no values")),
        Field::Header if predicate.name.is_empty() || predicate.name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Err(format!("a header has a name in lower case, not {:?}", predicate.name))
        }
        Field::Claim if !(predicate.name.starts_with('[') && predicate.name.ends_with(']')) => {
            Err(format!("a claim has a path like [a][b], not {:?}", predicate.name))
        }
        _ => Ok(()),
    };
    policy.rules.iter().flat_map(predicates).try_for_each(check).map_err(|reason| of_policy(policy, &reason))
}

/// Every value is one that its field can have.
fn check_values(policy: &Policy) -> Result<(), String> {
    let check = |predicate: &Predicate| Matchers::build(std::slice::from_ref(predicate)).map(drop);
    policy.rules.iter().flat_map(predicates).try_for_each(check).map_err(|reason| of_policy(policy, &reason))
}

fn of_policy(policy: &Policy, reason: &str) -> String {
    format!("policy {}/{} ({}): {reason}", policy.namespace, policy.name, policy.where_)
}

/// All predicates of a rule.
pub(crate) fn predicates(rule: &Rule) -> impl Iterator<Item = &Predicate> {
    rule.from.iter().chain(&rule.to).flatten().chain(&rule.when)
}
