//! Turns settings into the list of rules, in the order in which Istio emits them.
//!
//! In:      `Settings`.   Out: `Vec<Rule>`, read by `render` (as text) and `apply` (to compare and to remove).
//! Limits:  one table, `nat`, in REDIRECT mode; the length follows the lists, each bounded in `spec`.
//! Fails:   never: settings are valid by construction.
//! Source:  istio-iptables, REDIRECT mode, IPv4. Only TCP is redirected; what no rule matches passes untouched.

use crate::spec::{Proxy, Range, Selection, Settings};

/// One rule. Invariant: `args` are words separated by single blanks, none of them quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) table: &'static str,
    pub(crate) chain: &'static str,
    pub(crate) position: Position,
    pub(crate) args: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Append,
    First,
}

impl Rule {
    /// The chain of ours that this rule jumps to, if it does.
    pub(crate) fn jumps_to(&self) -> Option<&str> {
        self.args.rsplit_once("-j ").map(|(_, target)| target).filter(|target| is_ours(target))
    }
}

/// Whether a chain belongs to the mesh; chains of anyone else are never changed.
pub(crate) fn is_ours(chain: &str) -> bool {
    chain.starts_with("ISTIO_")
}

pub(crate) fn plan(settings: &Settings) -> Vec<Rule> {
    let mut rules = Rules::default();
    leave_interfaces_alone(&mut rules, settings);
    define_targets(&mut rules, settings);
    capture_inbound(&mut rules, settings);
    rules.append("OUTPUT", format!("-j {OUTPUT}"));
    leave_outbound_ports_alone(&mut rules, settings);
    rules.append(OUTPUT, format!("-o lo -s {PROXY_SOURCE} -j RETURN"));
    leave_the_proxy_alone(&mut rules, settings);
    leave_outbound_ranges_alone(&mut rules, settings);
    capture_outbound(&mut rules, settings);
    rules.0
}

fn leave_interfaces_alone(rules: &mut Rules, settings: &Settings) {
    for interface in &settings.excluded_interfaces {
        rules.append("PREROUTING", format!("-i {interface} -j RETURN"));
        rules.append("OUTPUT", format!("-o {interface} -j RETURN"));
    }
    for interface in &settings.rerouted_interfaces {
        rules.insert("PREROUTING", format!("-i {interface} -j RETURN"));
    }
}

/// The tunnel rule stands even when nothing jumps to its chain, as in Istio.
fn define_targets(rules: &mut Rules, settings: &Settings) {
    rules.append(INBOUND, format!("-p tcp --dport {} -j RETURN", settings.tunnel_port));
    rules.append(REDIRECT, format!("-p tcp -j REDIRECT --to-ports {}", settings.outbound_port));
    rules.append(IN_REDIRECT, format!("-p tcp -j REDIRECT --to-ports {}", settings.inbound_port));
}

/// Exclusions count only where everything is captured: a list already names all it wants.
fn capture_inbound(rules: &mut Rules, settings: &Settings) {
    let jump = || format!("-p tcp -j {INBOUND}");
    match &settings.inbound_ports {
        Selection::All => {
            rules.append("PREROUTING", jump());
            for port in &settings.inbound_ports_excluded {
                rules.append(INBOUND, format!("-p tcp --dport {port} -j RETURN"));
            }
            rules.append(INBOUND, format!("-p tcp -j {IN_REDIRECT}"));
        }
        Selection::Only(ports) if ports.is_empty() => {}
        Selection::Only(ports) => {
            rules.append("PREROUTING", jump());
            for port in ports {
                rules.append(INBOUND, format!("-p tcp --dport {port} -j {IN_REDIRECT}"));
            }
        }
    }
}

/// Stands before the proxy's own rules, so that an excluded port is excluded for the proxy as well.
fn leave_outbound_ports_alone(rules: &mut Rules, settings: &Settings) {
    for port in &settings.outbound_ports_excluded {
        rules.append(OUTPUT, format!("-p tcp --dport {port} -j RETURN"));
        rules.append(OUTPUT, format!("-p udp --dport {port} -j RETURN"));
    }
}

fn leave_the_proxy_alone(rules: &mut Rules, settings: &Settings) {
    match &settings.proxy {
        Proxy::Owners { uids, gids } => {
            for uid in uids {
                leave_sender_alone(rules, settings, "owner", &format!("--uid-owner {uid}"));
            }
            for gid in gids {
                leave_sender_alone(rules, settings, "owner", &format!("--gid-owner {gid}"));
            }
        }
        // One mark stands for both: a second run of the same rules would match nothing more.
        Proxy::Mark(mark) => leave_sender_alone(rules, settings, "mark", &format!("--mark {mark:#x}")),
    }
}

/// Three rules against loops: the proxy reaching its own workload through a service address is inbound traffic; an
/// application talking to itself over loopback is not captured; the proxy's own traffic is never captured again.
fn leave_sender_alone(rules: &mut Rules, settings: &Settings, by: &str, sender: &str) {
    let (loopback, tunnel) = (settings.loopback, settings.tunnel_port);
    let to_itself = format!("-o lo ! -d {loopback} -p tcp ! --dport {tunnel} -m {by} {sender} -j {IN_REDIRECT}");
    rules.append(OUTPUT, to_itself);
    if !captures_loopback(&settings.outbound_ranges) {
        rules.append(OUTPUT, format!("-o lo -m {by} ! {sender} -j RETURN"));
    }
    rules.append(OUTPUT, format!("-m {by} {sender} -j RETURN"));
}

fn captures_loopback(ranges: &Selection<Range>) -> bool {
    matches!(ranges, Selection::Only(ranges) if ranges.iter().any(|range| range.address.is_loopback()))
}

fn leave_outbound_ranges_alone(rules: &mut Rules, settings: &Settings) {
    for range in std::iter::once(&settings.loopback).chain(&settings.outbound_ranges_excluded) {
        rules.append(OUTPUT, format!("-d {range} -j RETURN"));
    }
}

/// A redirect for a rerouted interface goes in front of the RETURN that was inserted for it above.
fn capture_outbound(rules: &mut Rules, settings: &Settings) {
    for port in &settings.outbound_ports {
        rules.append(OUTPUT, format!("-p tcp --dport {port} -j {REDIRECT}"));
    }
    match &settings.outbound_ranges {
        Selection::All => {
            rules.append(OUTPUT, format!("-j {REDIRECT}"));
            for interface in &settings.rerouted_interfaces {
                rules.insert("PREROUTING", format!("-i {interface} -j {REDIRECT}"));
            }
        }
        Selection::Only(ranges) => {
            for range in ranges {
                for interface in &settings.rerouted_interfaces {
                    rules.insert("PREROUTING", format!("-i {interface} -d {range} -j {REDIRECT}"));
                }
                rules.append(OUTPUT, format!("-d {range} -j {REDIRECT}"));
            }
        }
    }
}

#[derive(Default)]
struct Rules(Vec<Rule>);

impl Rules {
    fn append(&mut self, chain: &'static str, args: String) {
        self.0.push(Rule { table: "nat", chain, position: Position::Append, args });
    }

    fn insert(&mut self, chain: &'static str, args: String) {
        self.0.push(Rule { table: "nat", chain, position: Position::First, args });
    }
}

const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";
/// The address the proxy binds when it dials its application, which tells those packets from a self-call.
const PROXY_SOURCE: &str = "127.0.0.6/32";

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
