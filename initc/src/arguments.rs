//! Turns command line and environment into the value given for each option, and remembers where it was given.
//!
//! In:      words of the command line, a lookup of environment variables.   Out: `Choices`, read by `spec`.
//! Limits:  one value per option; the command line wins over the environment, the last of two equal flags wins.
//! Fails:   `UsageError`: the caller's fault, names flag or variable, value and cure.
//! Source:  names, environment variables and defaults are those of `istio-iptables`.

use std::collections::BTreeMap;
use std::fmt;

use crate::arguments::Support::{Later, Now};
use crate::arguments::Takes::{Switch, Value};

/// What a run was asked for: to act on settings, or to show a text and end.
pub(crate) enum Request<S> {
    Run(S),
    Show(String),
}

/// The value given for each option, by the option's name; options that were not given are absent.
#[derive(Debug)]
pub(crate) struct Choices {
    given: BTreeMap<&'static str, Given>,
}

/// One value and the place it comes from, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// A command line or environment that cannot be obeyed.
#[derive(Debug)]
pub(crate) enum UsageError {
    Unknown { word: String },
    NoValue { origin: String },
    Invalid { given: Given, expected: &'static str },
    NotYet { given: Given, what: &'static str },
    TooMany { origin: String, count: usize, limit: usize },
    Both { one: Given, other: Given },
}

impl Choices {
    /// Reads both sources and refuses what this milestone cannot honour.
    pub(crate) fn read(words: Vec<String>, environment: Lookup<'_>) -> Result<Self, UsageError> {
        let mut given = from_environment(environment);
        given.extend(from_command_line(words)?);
        for option in OPTIONS {
            refuse_later(option, given.get(option.name))?;
        }
        Ok(Self { given })
    }

    /// The text for `--help` or `--version`, when one of them was given.
    pub(crate) fn text_asked_for(&self) -> Option<String> {
        if self.given.contains_key("help") {
            return Some(help());
        }
        self.given.contains_key("version").then(|| format!("meshdp-init {}\n", env!("CARGO_PKG_VERSION")))
    }

    /// What was given for this option, or its default.
    pub(crate) fn value(&self, name: &'static str) -> Given {
        let option = OPTIONS.iter().find(|option| option.name == name);
        let default = || Given {
            value: option.map_or("", |option| option.default).to_owned(),
            origin: format!("default of {}", option.map_or_else(String::new, Choice::spelling)),
        };
        self.given.get(name).cloned().unwrap_or_else(default)
    }
}

impl Choice {
    fn is_flag(&self) -> bool {
        !self.name.starts_with(|first: char| first.is_ascii_uppercase())
    }

    fn spelling(&self) -> String {
        match self.short {
            _ if !self.is_flag() => format!("environment {}", self.name),
            Some(short) => format!("-{short}/--{}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// The flag's name in capitals, then its other names; `-p` alone has none, as in Istio.
    fn variables(&self) -> impl Iterator<Item = String> {
        let own = (!matches!(self.name, "envoy-port" | "help" | "version"))
            .then(|| self.name.to_ascii_uppercase().replace('-', "_"));
        own.into_iter().chain(self.also.iter().map(|&name| name.to_owned()))
    }
}

/// An empty variable counts as unset, as in Istio.
fn from_environment(environment: Lookup<'_>) -> BTreeMap<&'static str, Given> {
    let read = |option: &'static Choice| {
        option.variables().find_map(|variable| {
            let value = environment(&variable).filter(|value| !value.is_empty())?;
            Some((option.name, Given { value, origin: format!("environment {variable}") }))
        })
    };
    OPTIONS.iter().filter_map(read).collect()
}

fn from_command_line(words: Vec<String>) -> Result<BTreeMap<&'static str, Given>, UsageError> {
    let mut given = BTreeMap::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (option, attached) = split(&word).ok_or(UsageError::Unknown { word: word.clone() })?;
        let origin = option.spelling();
        let value = match (option.takes, attached) {
            (_, Some(value)) => value,
            (Switch, None) => "true".to_owned(),
            (Value, None) => words.next().ok_or_else(|| UsageError::NoValue { origin: origin.clone() })?,
        };
        given.insert(option.name, Given { value, origin });
    }
    Ok(given)
}

/// Finds the option a word names, and the value attached to it: `--name=value`, `-pvalue`, `-p=value`.
fn split(word: &str) -> Option<(&'static Choice, Option<String>)> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.to_owned())));
        return OPTIONS.iter().find(|option| option.is_flag() && option.name == name).map(|option| (option, value));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let short = letters.next()?;
    let option = OPTIONS.iter().find(|option| option.short == Some(short))?;
    let attached = letters.as_str();
    match (attached.strip_prefix('='), option.takes) {
        (Some(value), _) => Some((option, Some(value.to_owned()))),
        (None, _) if attached.is_empty() => Some((option, None)),
        (None, Value) => Some((option, Some(attached.to_owned()))),
        (None, Switch) => None,
    }
}

/// A value that changes nothing is accepted, so that Istio's own argument lists keep working.
fn refuse_later(option: &Choice, given: Option<&Given>) -> Result<(), UsageError> {
    match (option.support, given) {
        (Later { unchanged }, Some(given)) if !unchanged.contains(&given.value.as_str()) => {
            Err(UsageError::NotYet { given: given.clone(), what: option.help })
        }
        _ => Ok(()),
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => write!(out, "`{word}` is not a flag of this program"),
            Self::NoValue { origin } => write!(out, "{origin}: a value must follow"),
            Self::Invalid { given: Given { value, origin }, expected } => {
                write!(out, "{origin}: `{}` cannot be used; expected {expected}", value.escape_debug())
            }
            Self::NotYet { given: Given { value, origin }, what } => write!(
                out,
                "{origin}: `{}` is not supported before milestone M5 ({what}); leave it out",
                value.escape_debug()
            ),
            Self::Both { one, other } => write!(
                out,
                "{}: `{}` cannot be used with {}: one of the two tells the proxy's own traffic; leave the other out",
                one.origin,
                one.value.escape_debug(),
                other.origin
            ),
            Self::TooMany { origin, count, limit } => {
                write!(out, "{origin}: {count} entries, at most {limit} are allowed; merge ranges or drop entries")
            }
        }
    }
}

fn help() -> String {
    let mut text = String::from(INTRODUCTION);
    let lines =
        |wanted: fn(&Choice) -> bool| OPTIONS.iter().filter(move |option| wanted(option)).map(Choice::help_line);
    text.extend(lines(|option| matches!(option.support, Now) && option.is_flag()));
    text.push_str(
        "\nEnvironment only (every flag but -p is also read from its name in capitals, as in ISTIO_INBOUND_PORTS):\n",
    );
    text.extend(lines(|option| matches!(option.support, Now) && !option.is_flag()));
    text.push_str("\nKnown to Istio and refused before milestone M5, unless the value changes nothing:\n");
    text.extend(lines(|option| matches!(option.support, Later { .. })));
    text + EXAMPLES
}

impl Choice {
    fn help_line(&self) -> String {
        let name = match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None if self.is_flag() => format!("    --{}", self.name),
            None => format!("    {}", self.name),
        };
        let default = if self.default.is_empty() { String::new() } else { format!(" [{}]", self.default) };
        format!("  {name:44} {}{default}\n", self.help)
    }
}

/// One option: a name in lower case is a flag, one in capitals an environment variable only.
#[derive(Debug)]
struct Choice {
    short: Option<char>,
    name: &'static str,
    also: &'static [&'static str],
    takes: Takes,
    default: &'static str,
    support: Support,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Takes {
    Value,
    Switch,
}

/// Whether this milestone honours an option; `unchanged` lists the values that mean "as if absent".
#[derive(Debug, Clone, Copy)]
enum Support {
    Now,
    Later { unchanged: &'static [&'static str] },
}

pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

const fn value(short: char, name: &'static str, default: &'static str, help: &'static str) -> Choice {
    Choice { short: Some(short), name, also: &[], takes: Value, default, support: Now, help }
}

const fn only_long(name: &'static str, takes: Takes, help: &'static str) -> Choice {
    Choice { short: None, name, also: &[], takes, default: "", support: Now, help }
}

const fn later(name: &'static str, unchanged: &'static [&'static str], help: &'static str) -> Choice {
    Choice { support: Later { unchanged }, ..only_long(name, Value, help) }
}

const fn later_switch(name: &'static str, also: &'static [&'static str], help: &'static str) -> Choice {
    Choice { also, support: Later { unchanged: OFF }, ..only_long(name, Switch, help) }
}

const OFF: &[&str] = &["false", "FALSE", "False", "f", "F", "0"];

const OPTIONS: &[Choice] = &[
    value('p', "envoy-port", "15001", "port that outbound TCP is redirected to"),
    value('z', "inbound-capture-port", "15006", "port that inbound TCP is redirected to"),
    value('e', "inbound-tunnel-port", "15008", "tunnel port, never redirected"),
    value('u', "proxy-uid", "", "user ids whose traffic is the proxy's own [ENVOY_USER's, else 1337]"),
    value('g', "proxy-gid", "", "group ids whose traffic is the proxy's own [as -u]"),
    value('b', "istio-inbound-ports", "", "inbound ports to capture: `*`, a list, or none"),
    value('d', "istio-local-exclude-ports", "", "inbound ports to leave alone, with -b '*'"),
    value('i', "istio-service-cidr", "", "outbound ranges to capture: `*`, a list, or none"),
    value('x', "istio-service-exclude-cidr", "", "outbound ranges to leave alone"),
    value('q', "istio-outbound-ports", "", "outbound ports to capture whatever the address"),
    value('o', "istio-local-outbound-ports-exclude", "", "outbound ports to leave alone"),
    value('k', "kube-virt-interfaces", "", "interfaces whose inbound traffic is treated as outbound"),
    value('c', "istio-exclude-interfaces", "", "interfaces to leave alone in both directions"),
    only_long("proxy-mark", Value, "packet mark that tells the proxy's own traffic, in place of -u and -g (0x539)"),
    only_long("force-iptables-binary", Value, "back end to use: `legacy` or `nft`"),
    Choice { short: Some('n'), ..only_long("dry-run", Switch, "print the iptables-restore document, change nothing") },
    only_long("cleanup-only", Switch, "remove what this program installed (give the same -c and -k)"),
    Choice { short: Some('h'), ..only_long("help", Switch, "print this text") },
    only_long("version", Switch, "print the version"),
    Choice {
        default: "127.0.0.1/32",
        ..only_long("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", Value, "what counts as loopback")
    },
    Choice { default: "istio-proxy", ..only_long("ENVOY_USER", Value, "user whose uid is the default of -u") },
    Choice {
        short: Some('m'),
        ..later("istio-inbound-interception-mode", &["", "REDIRECT"], "inbound mode other than REDIRECT")
    },
    Choice { short: Some('t'), ..later("istio-inbound-tproxy-mark", &["1337"], "mark of TPROXY mode") },
    Choice { short: Some('r'), ..later("istio-inbound-tproxy-route-table", &["133"], "routing table of TPROXY mode") },
    later_switch("redirect-dns", &["ISTIO_META_DNS_CAPTURE"], "capture of DNS"),
    later_switch("capture-all-dns", &[], "capture of all DNS"),
    later_switch("drop-invalid", &["INVALID_DROP"], "dropping of invalid packets"),
    later_switch("dual-stack", &["ISTIO_DUAL_STACK"], "IPv6 beside IPv4"),
    later_switch("native-nftables", &[], "native nftables rules"),
    later_switch("reconcile", &[], "replacing rules that differ"),
    later_switch("force-apply", &[], "applying over what is there"),
    later_switch("skip-rule-apply", &[], "validation without rules"),
    later_switch("run-validation", &[], "validation by a live connection"),
    later("iptables-probe-port", &["15002"], "port of the validation"),
    later("probe-timeout", &["5s"], "time of the validation"),
    later_switch("cni-mode", &[], "running from a CNI plugin"),
    later("network-namespace", &[""], "entering a namespace; use `ip netns exec` or `nsenter`"),
    later("ISTIO_OUTBOUND_OWNER_GROUPS", &["*"], "capture by group of the sender"),
    later("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", &[""], "exclusion by group of the sender"),
    later("DRY_RUN_FILE_PATH", &[""], "dry run into a file; redirect the output"),
];

const INTRODUCTION: &str = "\
meshdp-init installs the rules that redirect TCP of this network namespace into the sidecar.

Usage: meshdp-init [flags]     needs NET_ADMIN and iptables; lists are separated by commas, ports are numbers

Flags, with defaults in brackets:
";

const EXAMPLES: &str = "
Examples:
  meshdp-init -b '*' -i '*' -d 15090,15021,15020       everything in and out, as an injected pod
  meshdp-init -b 8080 -i 10.0.0.0/8 -x 10.9.0.0/16     one inbound port, one outbound range with a hole
  meshdp-init -b '*' -i '*' --dry-run                  show the rules without applying them
  ip netns exec shop meshdp-init -b '*' -i '*'         in another network namespace
  meshdp-init -b '*' -i '*' --proxy-mark 0x539         where the proxy has no user of its own (user namespaces)
  meshdp-init --cleanup-only                           remove the rules

Exit status: 0 rules in force (or already there, or removed), 1 refused, 2 wrong usage. XTABLES_LOCKFILE is honoured.
";

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
