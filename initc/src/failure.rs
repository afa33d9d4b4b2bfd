//! Why the rules were not put in force: one sentence each, with the cure.
//!
//! In:      `probe`, `backend` and `apply`.   Out: `main` prints it and exits with 1.

use std::fmt;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The process may not change this network namespace.
    NoNetAdmin,
    /// Not one of these programs is installed.
    NoIptables { looked_for: String },
    /// Programs are installed, none of them works here; what each of them said.
    NoneWorks { said: String },
    /// Both back ends hold chains of ours, so that packets would meet two sets of rules.
    TwoBackEnds { first: String, second: String },
    /// The rules in force cannot be read.
    Unreadable { program: String, said: String },
    /// Chains or rules of an earlier run are there and differ from the plan.
    Residue { program: String, differences: Vec<String> },
    /// iptables-restore refused the document; nothing of it is in force.
    Refused { program: String, said: String },
    /// What was read back after applying differs from the plan.
    ReadBack { program: String, differences: Vec<String> },
    /// Chains of ours are still there after the removal.
    NotRemoved { program: String, chains: Vec<String> },
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetAdmin => write!(
                out,
                "the capability NET_ADMIN is missing, nothing was changed; run as root, or give the container \
                 `capabilities: {{add: [NET_ADMIN, NET_RAW]}}`"
            ),
            Self::NoIptables { looked_for } => write!(
                out,
                "iptables is not installed (looked for {looked_for} in PATH and the sbin folders), nothing was changed; \
                 install it with `apt-get install iptables` or add it to the image"
            ),
            Self::NoneWorks { said } => write!(
                out,
                "iptables does not work here, nothing was changed; it needs NET_ADMIN (legacy also NET_RAW) and the kernel \
                 modules nf_tables or iptable_nat: {said}"
            ),
            Self::TwoBackEnds { first, second } => write!(
                out,
                "both {first} and {second} hold ISTIO_ chains, nothing was changed; remove both with `meshdp-init --cleanup-only`"
            ),
            Self::Unreadable { program, said } => {
                write!(out, "{program} cannot read the rules, nothing was changed: {said}")
            }
            Self::Residue { program, differences } => write!(
                out,
                "rules of an earlier run are there and differ from the plan ({program}), nothing was changed; remove them with \
                 `meshdp-init --cleanup-only`:\n  {}",
                shorten(differences)
            ),
            Self::Refused { program, said } => write!(
                out,
                "{program} refused the rules and applied none of them; the kernel needs the owner match, connection tracking \
                 and REDIRECT (modules xt_owner, nf_conntrack, xt_REDIRECT), and in a user namespace the ids of -u and -g \
                 must be mapped: {said}"
            ),
            Self::ReadBack { program, differences } => write!(
                out,
                "{program} accepted the rules, but what is in force differs; another program is changing them? Start again \
                 with `meshdp-init --cleanup-only`:\n  {}",
                shorten(differences)
            ),
            Self::NotRemoved { program, chains } => write!(
                out,
                "{program} still holds {} after the removal; a rule of someone else jumps there: see `{program}-save`",
                chains.join(", ")
            ),
        }
    }
}

fn shorten(differences: &[String]) -> String {
    let mut shown = differences.iter().take(SHOWN_LIMIT).cloned().collect::<Vec<_>>();
    if let Some(rest) = differences.len().checked_sub(SHOWN_LIMIT).filter(|&rest| rest > 0) {
        shown.push(format!("and {rest} more"));
    }
    shown.join("\n  ")
}

const SHOWN_LIMIT: usize = 10;
