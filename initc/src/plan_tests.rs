//! The order of the rules, spot by spot; whole documents are compared with Istio's by the conformance tests.

use super::*;
use crate::arguments::Choices;

/// The rules for this command line, one line each, without the table.
fn lines(words: &[&str]) -> Vec<String> {
    let words = words.iter().map(|&word| word.to_owned()).collect();
    let choices = Choices::read(words, &|_| None).expect("a valid command line");
    let settings = Settings::decode(&choices, "").expect("valid settings");
    let verb = |rule: &Rule| if rule.position == Position::First { "first" } else { "last" };
    plan(&settings).iter().map(|rule| format!("{} {} {}", verb(rule), rule.chain, rule.args)).collect()
}

/// Asserts that exactly these lines stand together, in this order.
fn assert_run(words: &[&str], expected: &[&str]) {
    let lines = lines(words);
    assert!(lines.windows(expected.len()).any(|run| run == expected), "{words:?}\n{lines:#?}\nlacks {expected:#?}");
}

#[test]
fn inbound_all_returns_excluded_ports_first() {
    let expected = [
        "last PREROUTING -p tcp -j ISTIO_INBOUND",
        "last ISTIO_INBOUND -p tcp --dport 15020 -j RETURN",
        "last ISTIO_INBOUND -p tcp --dport 22 -j RETURN",
        "last ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        "last OUTPUT -j ISTIO_OUTPUT",
    ];
    assert_run(&["-b", "*", "-d", "15020,22"], &expected);
}

#[test]
fn an_inbound_list_ignores_exclusions_and_none_captures_nothing() {
    let expected = [
        "last PREROUTING -p tcp -j ISTIO_INBOUND",
        "last ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_IN_REDIRECT",
        "last OUTPUT -j ISTIO_OUTPUT",
    ];
    assert_run(&["-b", "80", "-d", "80"], &expected);
    assert!(lines(&["-d", "80"]).iter().all(|line| !line.contains("PREROUTING") && !line.contains("dport 80 ")));
}

#[test]
fn excluded_outbound_ports_stand_before_everything_about_the_proxy() {
    let expected = [
        "last OUTPUT -j ISTIO_OUTPUT",
        "last ISTIO_OUTPUT -p tcp --dport 53 -j RETURN",
        "last ISTIO_OUTPUT -p udp --dport 53 -j RETURN",
        "last ISTIO_OUTPUT -p tcp --dport 54 -j RETURN",
        "last ISTIO_OUTPUT -p udp --dport 54 -j RETURN",
        "last ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
    ];
    assert_run(&["-o", "53,54"], &expected);
}

/// The whole document of an injected workload whose proxy is told by a mark: owner matches become mark matches, in
/// their places; everything else is Istio's.
#[test]
fn a_mark_stands_where_the_owners_stood() {
    let golden = [
        "last ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
        "last ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "last ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
        "last PREROUTING -p tcp -j ISTIO_INBOUND",
        "last ISTIO_INBOUND -p tcp --dport 15020 -j RETURN",
        "last ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT",
        "last OUTPUT -j ISTIO_OUTPUT",
        "last ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN",
        "last ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark --mark 0x539 -j ISTIO_IN_REDIRECT",
        "last ISTIO_OUTPUT -o lo -m mark ! --mark 0x539 -j RETURN",
        "last ISTIO_OUTPUT -m mark --mark 0x539 -j RETURN",
        "last ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
        "last ISTIO_OUTPUT -j ISTIO_REDIRECT",
    ];
    assert_eq!(lines(&["-b", "*", "-d", "15020", "-i", "*", "--proxy-mark", "1337"]), golden);
}

#[test]
fn only_what_tells_the_proxy_differs_between_owner_and_mark() {
    let shapes: [&[&str]; 4] = [
        &["-b", "*", "-i", "*"],
        &["-b", "80,443", "-i", "10.0.0.0/8", "-x", "10.9.0.0/16"],
        &["-i", "127.1.2.3/32,10.0.0.0/8", "-q", "25", "-o", "53"],
        &["-k", "net1", "-c", "eth1", "-i", "*"],
    ];
    for shape in shapes {
        let owners = lines(&[shape, &["-u", "1337", "-g", "1337"]].concat());
        let marked = lines(&[shape, &["--proxy-mark", "0x539"]].concat());
        let by_uid = owners.iter().filter(|line| !line.contains("--gid-owner"));
        let renamed: Vec<String> =
            by_uid.map(|line| line.replace("owner ", "mark ").replace("--uid-mark 1337", "--mark 0x539")).collect();
        assert_eq!(renamed, marked, "{shape:?}");
    }
}

#[test]
fn a_captured_loopback_range_drops_the_shortcut_over_loopback() {
    let shortcut = |line: &String| line.contains("-o lo -m owner ! --");
    assert_eq!(lines(&["-i", "10.0.0.0/8"]).iter().filter(|line| shortcut(line)).count(), 2);
    assert_eq!(lines(&["-i", "10.0.0.0/8,127.1.2.3/32"]).iter().filter(|line| shortcut(line)).count(), 0);
    assert_eq!(lines(&["-i", "*"]).iter().filter(|line| shortcut(line)).count(), 2);
}

#[test]
fn exclusions_stand_before_captures() {
    let expected = [
        "last ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN",
        "last ISTIO_OUTPUT -d 10.9.0.0/16 -j RETURN",
        "last ISTIO_OUTPUT -p tcp --dport 25 -j ISTIO_REDIRECT",
        "last ISTIO_OUTPUT -j ISTIO_REDIRECT",
    ];
    assert_run(&["-i", "*", "-x", "10.9.0.0/16", "-q", "25"], &expected);
}

#[test]
fn excluded_interfaces_come_first_in_both_directions() {
    let expected = [
        "last PREROUTING -i eth1 -j RETURN",
        "last OUTPUT -o eth1 -j RETURN",
        "first PREROUTING -i net1 -j RETURN",
        "last ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
    ];
    assert_run(&["-c", "eth1", "-k", "net1"], &expected);
}

#[test]
fn rerouted_interfaces_are_redirected_range_by_range() {
    let expected = [
        "first PREROUTING -i a -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "first PREROUTING -i b -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "last ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "first PREROUTING -i a -d 11.0.0.0/8 -j ISTIO_REDIRECT",
    ];
    assert_run(&["-k", "a,b", "-i", "10.0.0.0/8,11.0.0.0/8"], &expected);
    assert_run(
        &["-k", "a", "-i", "*"],
        &["last ISTIO_OUTPUT -j ISTIO_REDIRECT", "first PREROUTING -i a -j ISTIO_REDIRECT"],
    );
}

#[test]
fn only_jumps_to_our_chains_count_as_jumps() {
    let rule = |args: &str| Rule { table: "nat", chain: "OUTPUT", position: Position::Append, args: args.to_owned() };
    assert_eq!(rule("-p tcp -j ISTIO_OUTPUT").jumps_to(), Some("ISTIO_OUTPUT"));
    assert_eq!(rule("-i eth0 -j RETURN").jumps_to(), None);
    assert_eq!(rule("-p tcp -j REDIRECT --to-ports 15001").jumps_to(), None);
}
