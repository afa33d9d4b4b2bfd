//! Turns what the kernel tells about this process and its network namespace into one clear sentence each.
//!
//! In:      `/proc/self/status`, `/proc/self/net/if_inet6`, `/proc/self/net/tcp`.   Out: a `Failure` before anything is changed, or a warning.
//! Fails:   `Failure::NoNetAdmin`, the deployment's fault. What cannot be read is not held against anyone: the
//!          back end's own answer decides then.
//! Source:  capabilities(7), `net/ipv6/addrconf.c` for the columns of `if_inet6`.

use std::net::SocketAddrV4;

use crate::failure::Failure;

/// Fails when this process is not allowed to change the network namespace it is in.
pub(crate) fn require_net_admin() -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match has_net_admin(&status) {
        Some(false) => Err(Failure::NoNetAdmin),
        Some(true) | None => Ok(()),
    }
}

/// A warning when this namespace can talk IPv6 to others: that traffic is not captured before M5.
pub(crate) fn uncaptured_ipv6() -> Option<String> {
    let addresses = std::fs::read_to_string("/proc/self/net/if_inet6").ok()?;
    routable_ipv6(&addresses).map(|(address, interface)| {
        format!(
            "{interface} has the IPv6 address {address}; IPv6 traffic is not captured before milestone M5 and passes \
             unfiltered; switch it off with `sysctl -w net.ipv6.conf.all.disable_ipv6=1` in this namespace"
        )
    })
}

/// A warning that names the TCP connections which were there before the rules: the kernel goes on without asking them.
pub(crate) fn older_connections() -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").ok()?;
    let found = established(&table);
    let shown: Vec<String> =
        found.iter().take(SHOWN_LIMIT).map(|(local, remote)| format!("{local} to {remote}")).collect();
    let more = found.len().saturating_sub(SHOWN_LIMIT);
    let rest = if more == 0 { String::new() } else { format!(", and {more} more") };
    (!found.is_empty()).then(|| {
        format!(
            "{} connections are older than the rules and stay as they are, unfiltered, until they end: {}{rest}; end them, or \
             install the rules before the application starts",
            found.len(),
            shown.join(", ")
        )
    })
}

/// Columns: number, local and remote address as hexadecimal `ADDRESS:PORT` in the machine's byte order, state. Those to
/// loopback are never redirected.
fn established(table: &str) -> Vec<(SocketAddrV4, SocketAddrV4)> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, remote, ESTABLISHED] = columns[..] else { return None };
        Some((socket_address(local)?, socket_address(remote)?))
    });
    rows.filter(|(_, remote)| !remote.ip().is_loopback()).collect()
}

fn socket_address(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?;
    Some(SocketAddrV4::new(address.to_ne_bytes().into(), u16::from_str_radix(port, 16).ok()?))
}

/// The effective set as the kernel prints it; `None` when there is no such line.
fn has_net_admin(status: &str) -> Option<bool> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim();
    u64::from_str_radix(digits, 16).ok().map(|effective| effective & (1 << CAP_NET_ADMIN) != 0)
}

/// Columns: address, interface index, prefix length, scope, flags, interface name.
fn routable_ipv6(addresses: &str) -> Option<(std::net::Ipv6Addr, &str)> {
    addresses.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, _, interface] = columns[..] else { return None };
        let address = u128::from_str_radix(address, 16).ok()?;
        (![SCOPE_LINK, SCOPE_HOST].contains(&scope)).then_some((address.into(), interface))
    })
}

const CAP_NET_ADMIN: u32 = 12;
const ESTABLISHED: &str = "01";
const SHOWN_LIMIT: usize = 10;
const SCOPE_LINK: &str = "20";
const SCOPE_HOST: &str = "10";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_admin_is_bit_twelve_of_the_effective_set() {
        let table = [
            ("CapPrm:\t0000003fffffffff\nCapEff:\t0000000000001000\n", Some(true)),
            ("CapEff:\t0000003fffffefff\n", Some(false)),
            ("CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n", Some(false)),
            ("Name:\tx\n", None),
            ("CapEff:\tnot hexadecimal\n", None),
        ];
        for (status, expected) in table {
            assert_eq!(has_net_admin(status), expected, "{status}");
        }
    }

    #[test]
    fn only_established_connections_to_elsewhere_are_older_than_the_rules() {
        let address = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let (own, peer, loopback) = (address([10, 0, 0, 1]), address([10, 0, 0, 2]), address([127, 0, 0, 1]));
        let table = format!(
            "  sl  local_address rem_address   st\n   0: {own}:1F90 00000000:0000 0A 0\n   1: {own}:A000 {peer}:0050 01 0\n   \
             2: {loopback}:A001 {loopback}:0050 01 0\n   3: {own}:A002 {peer}:0050 06 0\n   garbage\n"
        );
        let found: Vec<String> =
            established(&table).iter().map(|(local, remote)| format!("{local} {remote}")).collect();
        assert_eq!(found, ["10.0.0.1:40960 10.0.0.2:80"]);
    }

    #[test]
    fn only_routable_ipv6_addresses_are_reported() {
        let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link_local = "fe800000000000000000000000000001 02 40 20 80     eth0\n";
        let global = "fd000000000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(routable_ipv6(&[loopback, link_local].concat()), None);
        let found =
            routable_ipv6(&[loopback, link_local, global].concat()).map(|(address, name)| format!("{address} {name}"));
        assert_eq!(found.as_deref(), Some("fd00::7 eth0"));
    }
}
