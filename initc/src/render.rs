//! Turns rules into documents for `iptables-restore --noflush`.
//!
//! In:      rules of `plan`, or the deletions that `state` found necessary.   Out: text for `apply` and `--dry-run`.
//! Fails:   never.
//! Source:  Istio's golden files: tables by name, `-N` for each chain of ours in order of first use, rules in the
//!          order of the plan, `COMMIT`. The blank in `* nat` is theirs and accepted by iptables-restore.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::{Position, Rule, is_ours};

/// The document that creates the chains and their rules.
pub(crate) fn document(rules: &[Rule]) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for chain in chains(rules) {
        tables.entry(chain.table).or_default().push(format!("-N {}", chain.name));
    }
    for rule in rules {
        tables.entry(rule.table).or_default().push(line(rule));
    }
    assemble(tables)
}

/// The document that removes exactly these rules and their chains.
pub(crate) fn removal(rules: &[Rule]) -> String {
    let mut deletions: Vec<(&str, String)> = Vec::new();
    for rule in rules.iter().rev().filter(|rule| !is_ours(rule.chain)) {
        deletions.push((rule.table, format!("-D {} {}", rule.chain, rule.args)));
    }
    let chains: Vec<(&str, &str)> = chains(rules).iter().map(|chain| (chain.table, chain.name)).collect();
    removal_document(deletions, &chains)
}

/// Deletes single rules first, then empties and deletes chains; chains may jump to each other.
pub(crate) fn removal_document<'a>(deletions: Vec<(&'a str, String)>, chains: &[(&'a str, &str)]) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (table, deletion) in deletions {
        tables.entry(table).or_default().push(deletion);
    }
    for verb in ["-F", "-X"] {
        for (table, chain) in chains {
            tables.entry(table).or_default().push(format!("{verb} {chain}"));
        }
    }
    assemble(tables)
}

/// A chain of ours, in the order in which the rules first use it, as their place or as their target.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain<'a> {
    pub(crate) table: &'a str,
    pub(crate) name: &'a str,
}

pub(crate) fn chains(rules: &[Rule]) -> Vec<Chain<'_>> {
    let mut chains = Vec::new();
    for rule in rules {
        let place = Some(rule.chain).filter(|chain| is_ours(chain));
        for name in [place, rule.jumps_to()].into_iter().flatten() {
            let chain = Chain { table: rule.table, name };
            if !chains.contains(&chain) {
                chains.push(chain);
            }
        }
    }
    chains
}

fn line(rule: &Rule) -> String {
    match rule.position {
        Position::Append => format!("-A {} {}", rule.chain, rule.args),
        Position::First => format!("-I {} 1 {}", rule.chain, rule.args),
    }
}

fn assemble(tables: BTreeMap<&str, Vec<String>>) -> String {
    tables.into_iter().fold(String::new(), |mut text, (table, lines)| {
        let _ = writeln!(text, "* {table}\n{}\nCOMMIT", lines.join("\n")); // writing to a string cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(chain: &'static str, position: Position, args: &str) -> Rule {
        Rule { table: "nat", chain, position, args: args.to_owned() }
    }

    #[test]
    fn a_document_declares_chains_in_order_of_first_use() {
        let rules = [
            rule("OUTPUT", Position::Append, "-j ISTIO_B"),
            rule("ISTIO_A", Position::Append, "-p tcp -j ISTIO_C"),
            rule("PREROUTING", Position::First, "-i eth0 -j RETURN"),
        ];
        let expected = "* nat\n-N ISTIO_B\n-N ISTIO_A\n-N ISTIO_C\n-A OUTPUT -j ISTIO_B\n-A ISTIO_A -p tcp -j ISTIO_C\n\
                        -I PREROUTING 1 -i eth0 -j RETURN\nCOMMIT\n";
        assert_eq!(document(&rules), expected);
    }

    #[test]
    fn a_removal_takes_back_rules_in_reverse_then_chains() {
        let rules =
            [rule("PREROUTING", Position::First, "-i eth0 -j RETURN"), rule("OUTPUT", Position::Append, "-j ISTIO_A")];
        let expected = "* nat\n-D OUTPUT -j ISTIO_A\n-D PREROUTING -i eth0 -j RETURN\n-F ISTIO_A\n-X ISTIO_A\nCOMMIT\n";
        assert_eq!(removal(&rules), expected);
    }

    #[test]
    fn nothing_to_remove_is_an_empty_document() {
        assert_eq!(removal_document(Vec::new(), &[]), "");
    }
}
