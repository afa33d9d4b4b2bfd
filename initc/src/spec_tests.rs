//! Tables for turning values into settings.

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nother-proxy:x:4242:1:::\n";

type Words = &'static [&'static str];
type Environment = &'static [(&'static str, &'static str)];

fn decode(words: &[&str], environment: &[(&str, &str)]) -> Result<Settings, UsageError> {
    let lookup =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Settings::decode(&Choices::read(words.iter().map(|&word| word.to_owned()).collect(), &lookup)?, PASSWD)
}

fn settings(words: &[&str]) -> Settings {
    decode(words, &[]).expect("valid settings")
}

fn range(address: [u8; 4], prefix: u8) -> Range {
    Range { address: address.into(), prefix }
}

#[test]
fn defaults_are_those_of_istio() {
    let defaults = settings(&[]);
    assert_eq!((defaults.outbound_port, defaults.inbound_port, defaults.tunnel_port), (15001, 15006, 15008));
    assert_eq!(defaults.proxy, Proxy::Owners { uids: vec![1337], gids: vec![1337] });
    assert_eq!(defaults.inbound_ports, Selection::Only(Vec::new()));
    assert_eq!(defaults.outbound_ranges, Selection::Only(Vec::new()));
    assert_eq!(defaults.loopback, range([127, 0, 0, 1], 32));
    assert_eq!((defaults.forced_binary, defaults.dry_run, defaults.cleanup_only), (None, false, false));
}

#[test]
fn the_uid_is_that_of_the_proxys_user_and_the_gid_follows_the_uid() {
    let table: [(Words, Environment, &[u32], &[u32]); 5] = [
        (&[], &[("ENVOY_USER", "other-proxy")], &[4242], &[4242]),
        (&[], &[("ENVOY_USER", "nobody-here")], &[1337], &[1337]),
        (&["-u", "3,4"], &[], &[3, 4], &[3, 4]),
        (&["-u", "3,4", "-g", "1,2"], &[], &[3, 4], &[1, 2]),
        (&[], &[("PROXY_GID", "7")], &[1337], &[7]),
    ];
    for (words, environment, uids, gids) in table {
        let settings = decode(words, environment).expect("valid settings");
        let owners = Proxy::Owners { uids: uids.to_vec(), gids: gids.to_vec() };
        assert_eq!(settings.proxy, owners, "{words:?} {environment:?}");
    }
}

#[test]
fn a_mark_stands_for_the_owners_and_is_never_that_of_everybodys_packets() {
    for (written, mark) in [("0x539", 1337), ("1337", 1337), ("0xFFFFFFFF", u32::MAX), ("1", 1)] {
        assert_eq!(settings(&["--proxy-mark", written]).proxy, Proxy::Mark(mark));
    }
    assert_eq!(decode(&[], &[("PROXY_MARK", "0x539")]).expect("valid settings").proxy, Proxy::Mark(1337));
    for written in ["0", "0x0", "0x", "0x100000000", "4294967296", "-1", "+1", "0x539/0xff", "mark", "1 -j ACCEPT"] {
        let said = decode(&["--proxy-mark", written], &[]).expect_err(written).to_string();
        assert!(said.contains("expected a mark from 1 to 0xffffffff"), "{said}");
    }
    for owner in [&["-u", "5"], &["-g", "5"]] {
        let said = decode(&[&["--proxy-mark", "5"][..], owner].concat(), &[]).expect_err("both").to_string();
        assert!(said.starts_with("--proxy-mark: `5` cannot be used with -"), "{said}");
    }
}

#[test]
fn lists_drop_empty_entries_and_keep_order_and_host_bits() {
    let settings = settings(&["-b", "6000,,7000,", "-i", "10.1.2.3/8,172.16.0.0/16", "-c", "eth1,eth0", "-q", ","]);
    assert_eq!(settings.inbound_ports, Selection::Only(vec![6000, 7000]));
    assert_eq!(settings.outbound_ranges, Selection::Only(vec![range([10, 1, 2, 3], 8), range([172, 16, 0, 0], 16)]));
    assert_eq!(settings.excluded_interfaces, ["eth1", "eth0"]);
    assert_eq!(settings.outbound_ports, Vec::<u16>::new());
}

#[test]
fn excluded_ipv6_ranges_need_no_rule_and_captured_ones_are_refused() {
    let excluded = settings(&["-x", "fd04:3e42::/64,10.0.0.0/8"]).outbound_ranges_excluded;
    assert_eq!(excluded, [range([10, 0, 0, 0], 8)]);
    let message = decode(&["-i", "10.0.0.0/8,fd04:3e42::/64"], &[]).expect_err("refused").to_string();
    assert!(message.contains("`fd04:3e42::/64`") && message.contains("M5"), "{message}");
}

#[test]
fn in10_values_that_could_harm_are_refused_with_flag_value_and_cure() {
    let table = [
        ("-b", "0", "port"),
        ("-b", "65536", "port"),
        ("-b", "80;id", "port"),
        ("-b", "80,*", "port"),
        ("-b", " 80", "port"),
        ("-b", "+80", "port"),
        ("-d", "80-90", "port"),
        ("-p", "", "port"),
        ("-u", "root", "id"),
        ("-u", ",", "id"),
        ("-u", "4294967296", "id"),
        ("-i", "10.0.0.0", "prefix"),
        ("-i", "10.0.0.0/33", "prefix"),
        ("-i", "10.0.0.0/08", "prefix"),
        ("-i", "10.0.0.0/", "prefix"),
        ("-i", "10.0.0/8", "prefix"),
        ("-i", "*,10.0.0.0/8", "prefix"),
        ("-x", "*", "prefix"),
        ("-x", "fd00::/129", "prefix"),
        ("-c", "eth0\n-A OUTPUT -j ACCEPT", "interface"),
        ("-c", "eth0 -j", "interface"),
        ("-c", "-j", "interface"),
        ("-k", "a-name-of-sixteen", "interface"),
        ("--force-iptables-binary", "iptables", "legacy"),
        ("--dry-run=maybe", "", "true"),
    ];
    for (flag, value, cure) in table {
        let words = if flag.contains('=') { vec![flag] } else { vec![flag, value] };
        let message = decode(&words, &[]).expect_err("refused").to_string();
        assert!(message.contains(cure) && !message.contains('\n'), "{flag} {value}: {message}");
        assert!(message.contains(flag.split('=').next().unwrap_or(flag)), "{flag} {value}: {message}");
    }
}

#[test]
fn in10_lists_are_long_but_bounded() {
    let list =
        |count: usize| (0..count).map(|at| format!("10.{}.{}.0/24", at / 256, at % 256)).collect::<Vec<_>>().join(",");
    let Selection::Only(ranges) = settings(&["-i", &list(1000)]).outbound_ranges else { panic!("a list was given") };
    assert_eq!(ranges.len(), 1000);
    let message = decode(&["-i", &list(LIST_LIMIT + 1)], &[]).expect_err("refused").to_string();
    assert!(message.contains("4097 entries, at most 4096"), "{message}");
}

#[test]
fn the_loopback_range_must_be_loopback() {
    let loopback = |value| decode(&[], &[("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", value)]);
    assert_eq!(loopback("127.0.0.1/8").expect("valid").loopback, range([127, 0, 0, 1], 8));
    for value in ["192.168.1.1/24", "127.0.0.1/7", "127.0.0.1", "::1/128", "10.0.0.0/8"] {
        let message = loopback(value).expect_err("refused").to_string();
        assert!(message.starts_with("environment ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"), "{message}");
    }
}
