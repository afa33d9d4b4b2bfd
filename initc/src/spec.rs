//! Turns the values given for the options into settings that cannot be wrong.
//!
//! In:      `Choices` and the text of `/etc/passwd`.   Out: `Settings`, read by `plan`.
//! Limits:  `LIST_LIMIT` entries a list; ports 1 to 65535; every word that reaches a rule is checked here, so no
//!          value can add a rule of its own.
//! Fails:   `UsageError`: the caller's fault.
//! Source:  lists split on `,` with empty entries dropped, no trimming, no ranges of ports, as in Istio.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::arguments::{Choices, Given, UsageError};

/// Everything the rules depend on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) outbound_port: u16,
    pub(crate) inbound_port: u16,
    pub(crate) tunnel_port: u16,
    pub(crate) proxy: Proxy,
    pub(crate) inbound_ports: Selection<u16>,
    pub(crate) inbound_ports_excluded: Vec<u16>,
    pub(crate) outbound_ranges: Selection<Range>,
    pub(crate) outbound_ranges_excluded: Vec<Range>,
    pub(crate) outbound_ports: Vec<u16>,
    pub(crate) outbound_ports_excluded: Vec<u16>,
    pub(crate) rerouted_interfaces: Vec<String>,
    pub(crate) excluded_interfaces: Vec<String>,
    pub(crate) loopback: Range,
    pub(crate) forced_binary: Option<&'static str>,
    pub(crate) dry_run: bool,
    pub(crate) cleanup_only: bool,
}

/// What tells the proxy's own traffic from its application's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// Who made the socket. Invariant: both lists hold something.
    Owners { uids: Vec<u32>, gids: Vec<u32> },
    /// The mark that it puts on its sockets, which takes `NET_ADMIN` and so is out of the application's reach.
    /// Invariant: not 0, the mark of everybody's packets.
    Mark(u32),
}

/// What to capture: everything, or these; none at all is an empty list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection<T> {
    All,
    Only(Vec<T>),
}

/// An IPv4 range, host bits kept as given. Invariant: `prefix` ≤ 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Settings {
    pub(crate) fn decode(choices: &Choices, passwd: &str) -> Result<Self, UsageError> {
        Ok(Self {
            outbound_port: port(choices.value("envoy-port"))?,
            inbound_port: port(choices.value("inbound-capture-port"))?,
            tunnel_port: port(choices.value("inbound-tunnel-port"))?,
            proxy: proxy(choices, passwd)?,
            inbound_ports: selection(&choices.value("istio-inbound-ports"), port)?,
            inbound_ports_excluded: list(&choices.value("istio-local-exclude-ports"), port)?,
            outbound_ranges: selection(&choices.value("istio-service-cidr"), captured_range)?,
            outbound_ranges_excluded: excluded_ranges(&choices.value("istio-service-exclude-cidr"))?,
            outbound_ports: list(&choices.value("istio-outbound-ports"), port)?,
            outbound_ports_excluded: list(&choices.value("istio-local-outbound-ports-exclude"), port)?,
            rerouted_interfaces: list(&choices.value("kube-virt-interfaces"), interface)?,
            excluded_interfaces: list(&choices.value("istio-exclude-interfaces"), interface)?,
            loopback: loopback(choices.value("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"))?,
            forced_binary: forced_binary(choices.value("force-iptables-binary"))?,
            dry_run: switch(choices.value("dry-run"))?,
            cleanup_only: switch(choices.value("cleanup-only"))?,
        })
    }
}

/// Deviation: Istio knows owners alone; in a user namespace the proxy may have no user of its own.
fn proxy(choices: &Choices, passwd: &str) -> Result<Proxy, UsageError> {
    let given = choices.value("proxy-mark");
    if given.value.is_empty() {
        let uid = proxy_uid(choices, passwd);
        return Ok(Proxy::Owners { gids: ids(or(choices.value("proxy-gid"), &uid))?, uids: ids(uid)? });
    }
    let mut owners = ["proxy-uid", "proxy-gid"].map(|name| choices.value(name)).into_iter();
    match owners.find(|owner| !owner.value.is_empty()) {
        Some(other) => Err(UsageError::Both { one: given, other }),
        None => mark(given).map(Proxy::Mark),
    }
}

/// The uids given, else the uid of the proxy's user, else 1337.
fn proxy_uid(choices: &Choices, passwd: &str) -> Given {
    let user = choices.value("ENVOY_USER").value;
    let known = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(&user)).then(|| fields.nth(1)).flatten()
    });
    let default = Given { value: known.unwrap_or(PROXY_UID).to_owned(), origin: "default of -u/--proxy-uid".into() };
    or(choices.value("proxy-uid"), &default)
}

fn or(given: Given, default: &Given) -> Given {
    if given.value.is_empty() { default.clone() } else { given }
}

fn selection<T>(given: &Given, one: fn(Given) -> Result<T, UsageError>) -> Result<Selection<T>, UsageError> {
    if given.value == "*" {
        return Ok(Selection::All);
    }
    list(given, one).map(Selection::Only)
}

fn list<T>(given: &Given, one: fn(Given) -> Result<T, UsageError>) -> Result<Vec<T>, UsageError> {
    let entries = entries(given)?;
    entries.into_iter().map(one).collect()
}

fn entries(given: &Given) -> Result<Vec<Given>, UsageError> {
    let entry = |value: &str| Given { value: value.to_owned(), origin: given.origin.clone() };
    let entries: Vec<Given> = given.value.split(',').filter(|value| !value.is_empty()).map(entry).collect();
    if entries.len() > LIST_LIMIT {
        return Err(UsageError::TooMany { origin: given.origin.clone(), count: entries.len(), limit: LIST_LIMIT });
    }
    Ok(entries)
}

fn port(given: Given) -> Result<u16, UsageError> {
    let port = number(&given.value).filter(|&port| port != 0);
    port.ok_or(UsageError::Invalid {
        given,
        expected: "a port from 1 to 65535 (`*` only where all may be meant, and alone)",
    })
}

/// Without one the proxy would capture its own traffic for ever.
fn ids(given: Given) -> Result<Vec<u32>, UsageError> {
    let ids = list(&given, id)?;
    if ids.is_empty() {
        return Err(UsageError::Invalid { given, expected: "at least one numeric id" });
    }
    Ok(ids)
}

fn id(given: Given) -> Result<u32, UsageError> {
    number(&given.value).ok_or(UsageError::Invalid { given, expected: "a numeric id such as 1337; write names as ids" })
}

/// A packet without a mark has mark 0: with it, everybody's traffic would be the proxy's.
fn mark(given: Given) -> Result<u32, UsageError> {
    let hexadecimal =
        given.value.strip_prefix("0x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let mark = hexadecimal.map_or_else(|| number(&given.value), |digits| u32::from_str_radix(digits, 16).ok());
    let expected = "a mark from 1 to 0xffffffff, such as 0x539 or 1337";
    mark.filter(|&mark| mark != 0).ok_or(UsageError::Invalid { given, expected })
}

/// Decimal digits alone: the standard parser would also take a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Deviation: Istio passes any word on to iptables; here it must be a name the kernel accepts, `+` ends a prefix.
fn interface(given: Given) -> Result<String, UsageError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:+".contains(&byte);
    let name = &given.value;
    let valid = name.len() <= INTERFACE_NAME_LIMIT && name.bytes().all(allowed) && !name.starts_with(['-', '+']);
    if valid {
        return Ok(given.value);
    }
    Err(UsageError::Invalid { given, expected: "the name of an interface: at most 15 letters, digits and ._-@: signs" })
}

fn captured_range(given: Given) -> Result<Range, UsageError> {
    match range(given)? {
        Ok(range) => Ok(range),
        Err(given) => Err(UsageError::NotYet { given, what: "capture of IPv6" }),
    }
}

/// An IPv6 range needs no rule here: before M5 no IPv6 traffic is captured, so all of it is excluded already.
fn excluded_ranges(given: &Given) -> Result<Vec<Range>, UsageError> {
    let ranges = list(given, range)?;
    Ok(ranges.into_iter().filter_map(Result::ok).collect())
}

/// An IPv4 range; a well-formed IPv6 range comes back as it was given.
fn range(given: Given) -> Result<Result<Range, Given>, UsageError> {
    let parts = given.value.split_once('/').filter(|(_, prefix)| *prefix == "0" || !prefix.starts_with('0'));
    let Some((address, prefix)) = parts.and_then(|(address, prefix)| Some((address, number::<u8>(prefix)?))) else {
        return Err(UsageError::Invalid { given, expected: RANGE });
    };
    match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(address), _) if prefix <= 32 => Ok(Ok(Range { address, prefix })),
        (Err(_), Ok(_)) if prefix <= 128 => Ok(Err(given)),
        _ => Err(UsageError::Invalid { given, expected: RANGE }),
    }
}

fn loopback(given: Given) -> Result<Range, UsageError> {
    let expected = "an IPv4 loopback range of prefix 8 to 32, such as 127.0.0.1/32";
    match range(given.clone()) {
        Ok(Ok(range)) if range.address.is_loopback() && range.prefix >= 8 => Ok(range),
        _ => Err(UsageError::Invalid { given, expected }),
    }
}

fn forced_binary(given: Given) -> Result<Option<&'static str>, UsageError> {
    match given.value.as_str() {
        "" => Ok(None),
        "legacy" => Ok(Some("iptables-legacy")),
        "nft" => Ok(Some("iptables-nft")),
        _ => Err(UsageError::Invalid { given, expected: "`legacy` or `nft`" }),
    }
}

fn switch(given: Given) -> Result<bool, UsageError> {
    match given.value.as_str() {
        "true" | "TRUE" | "True" | "t" | "T" | "1" => Ok(true),
        "" | "false" | "FALSE" | "False" | "f" | "F" | "0" => Ok(false),
        _ => Err(UsageError::Invalid { given, expected: "`true` or `false`" }),
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

const PROXY_UID: &str = "1337";
const LIST_LIMIT: usize = 4096;
/// IFNAMSIZ less its terminating zero.
const INTERFACE_NAME_LIMIT: usize = 15;
const RANGE: &str =
    "ranges with a prefix length such as 10.0.0.0/8 (one address: 10.0.0.1/32; `*` only for -i, and alone)";

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
