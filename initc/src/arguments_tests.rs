//! Tables for reading command line and environment.

use super::*;

type Words = &'static [&'static str];
type Environment = &'static [(&'static str, &'static str)];

fn read(words: &[&str], environment: &[(&str, &str)]) -> Result<Choices, UsageError> {
    let lookup =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Choices::read(words.iter().map(|&word| word.to_owned()).collect(), &lookup)
}

fn value(words: &[&str], environment: &[(&str, &str)], name: &'static str) -> String {
    read(words, environment).expect("a valid command line").value(name).value
}

#[test]
fn every_spelling_of_a_flag_is_read() {
    let table: [(&[&str], &str); 8] = [
        (&["-b", "80"], "80"),
        (&["-b80"], "80"),
        (&["-b=80"], "80"),
        (&["--istio-inbound-ports", "80"], "80"),
        (&["--istio-inbound-ports=80"], "80"),
        (&["-b", ""], ""),
        (&["-b", "80", "-b", "90"], "90"),
        (&[], ""),
    ];
    for (words, expected) in table {
        assert_eq!(value(words, &[], "istio-inbound-ports"), expected, "{words:?}");
    }
}

#[test]
fn switches_need_no_value_and_take_one_after_a_sign() {
    let table: [(&[&str], &str); 4] =
        [(&["-n"], "true"), (&["--dry-run"], "true"), (&["--dry-run=false"], "false"), (&["-n=false"], "false")];
    for (words, expected) in table {
        assert_eq!(value(words, &[], "dry-run"), expected, "{words:?}");
    }
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let environment = [("ISTIO_INBOUND_PORTS", "1"), ("ENVOY_PORT", "2"), ("PROXY_UID", "")];
    assert_eq!(value(&[], &environment, "istio-inbound-ports"), "1");
    assert_eq!(value(&["-b", "3"], &environment, "istio-inbound-ports"), "3");
    assert_eq!(value(&[], &environment, "envoy-port"), "15001", "-p has no variable, as in Istio");
    assert_eq!(value(&[], &environment, "proxy-uid"), "", "an empty variable is unset");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let table: [(Words, Environment, &str); 9] = [
        (&["-m", "TPROXY"], &[], "-m/--istio-inbound-interception-mode: `TPROXY`"),
        (&["--redirect-dns"], &[], "--redirect-dns"),
        (&[], &[("ISTIO_META_DNS_CAPTURE", "true")], "environment ISTIO_META_DNS_CAPTURE"),
        (&[], &[("INVALID_DROP", "1")], "environment INVALID_DROP"),
        (&[], &[("ISTIO_DUAL_STACK", "true")], "environment ISTIO_DUAL_STACK"),
        (&[], &[("ISTIO_OUTBOUND_OWNER_GROUPS", "java,202")], "environment ISTIO_OUTBOUND_OWNER_GROUPS"),
        (&["--native-nftables"], &[], "--native-nftables"),
        (&["--reconcile=true"], &[], "--reconcile"),
        (&["-t", "1"], &[], "-t/--istio-inbound-tproxy-mark"),
    ];
    for (words, environment, origin) in table {
        let message = read(words, environment).expect_err("refused").to_string();
        assert!(message.starts_with(origin) && message.contains("milestone M5"), "{message}");
    }
}

#[test]
fn what_comes_later_is_accepted_where_it_changes_nothing() {
    let words = ["-m", "REDIRECT", "--redirect-dns=false", "-t", "1337", "-r", "133", "--run-validation=false"];
    assert!(read(&words, &[("ISTIO_OUTBOUND_OWNER_GROUPS", "*"), ("ISTIO_DUAL_STACK", "false")]).is_ok());
}

#[test]
fn words_that_are_no_flags_are_refused() {
    for word in ["--nope", "-y", "run", "-", "-nx", "--ENVOY_USER=x", ""] {
        let message = read(&[word], &[]).expect_err("refused").to_string();
        assert!(message.contains(&format!("`{word}`")), "{message}");
    }
    assert_eq!(read(&["-b"], &[]).expect_err("refused").to_string(), "-b/--istio-inbound-ports: a value must follow");
}

#[test]
fn help_names_every_option_and_shows_examples() {
    let text = read(&["-h"], &[]).expect("help").text_asked_for().expect("a text");
    for option in OPTIONS {
        assert!(text.contains(option.name), "{} is not in the help", option.name);
    }
    assert!(text.contains("Examples:"));
}
