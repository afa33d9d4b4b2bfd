//! Turns what the kernel tells about this process and its network namespace into one clear sentence each.
//!
//! In:      `/proc/self/status`, `/proc/self/net/if_inet6`.   Out: a `Failure` before anything is changed, or a warning.
//! Fails:   `Failure::NoNetAdmin`, the deployment's fault. What cannot be read is not held against anyone: the
//!          back end's own answer decides then.
//! Source:  capabilities(7), `net/ipv6/addrconf.c` for the columns of `if_inet6`.

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
