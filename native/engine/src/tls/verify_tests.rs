//! Chains and time, without sockets.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use rcgen::date_time_ymd;

use super::super::config::provider;
use super::super::pki::{ALICE, Authority, NOW, Pair, authority, chain, svid};
use super::*;

fn trust(bundle: &str) -> Trust {
    Trust::parse(bundle.as_bytes(), 1, provider(true).signature_verification_algorithms).unwrap()
}

fn verify(trust: &Trust, pair: &Pair, role: Role, now_unix: u64) -> Result<(), &'static str> {
    let chain = chain(pair);
    trust.verify(&chain[0], &chain[1..], role, now_unix).map(drop).map_err(|failure| failure.code())
}

#[test]
fn tl_03_both_boundary_seconds_are_valid() {
    let ca = Authority::new("root");
    let mut params = svid(ALICE);
    params.not_before = date_time_ymd(2026, 6, 14);
    params.not_after = date_time_ymd(2026, 6, 15);
    let pair = ca.issue(&params);
    let (first, last) = (NOW - 86_400, NOW);
    for (now, verdict) in
        [(first - 1, Err("tls_expired")), (first, Ok(())), (last, Ok(())), (last + 1, Err("tls_expired"))]
    {
        assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, now), verdict, "{now}");
    }
}

#[test]
fn what_was_verified_ends_with_its_validity() {
    let ca = Authority::new("root");
    let mut short = authority("short");
    short.not_after = date_time_ymd(2026, 6, 16);
    let pair = ca.sub(short).issue(&svid(ALICE));
    let trust = trust(&ca.bundle());
    assert_eq!(verify(&trust, &pair, Role::Client, NOW), Ok(()));
    assert_eq!(verify(&trust, &pair, Role::Client, NOW + 86_400), Ok(()), "the intermediate's last second");
    assert_eq!(verify(&trust, &pair, Role::Client, NOW + 86_401), Err("tls_expired"), "though it was remembered");
    assert_eq!(verify(&trust, &pair, Role::Client, NOW - 40 * 86_400), Err("tls_expired"), "the clock stepped back");
}

#[test]
fn one_role_does_not_open_the_other() {
    let ca = Authority::new("root");
    let mut params = svid(ALICE);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let (trust, pair) = (trust(&ca.bundle()), ca.issue(&params));
    assert_eq!(verify(&trust, &pair, Role::Server, NOW), Ok(()));
    assert_eq!(verify(&trust, &pair, Role::Client, NOW), Err("tls_untrusted_chain"));
}

#[test]
fn a_root_past_its_end_leads_nowhere() {
    let mut old = authority("root");
    old.not_after = date_time_ymd(2026, 6, 10);
    let ca = Authority::with(old);
    let pair = ca.issue(&svid(ALICE));
    assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, NOW), Err("tls_expired"));
    assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, NOW - 6 * 86_400), Ok(()));
}

#[test]
fn two_roots_both_lead() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let trust = trust(&(first.bundle() + &second.bundle()));
    for ca in [&first, &second] {
        assert_eq!(verify(&trust, &ca.issue(&svid(ALICE)), Role::Client, NOW), Ok(()));
    }
}

#[test]
fn the_chain_may_carry_its_root() {
    let ca = Authority::new("root");
    let mut pair = ca.sub(authority("sub")).issue(&svid(ALICE));
    pair.chain += &ca.bundle();
    assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, NOW), Ok(()));
}

#[test]
fn only_so_many_chains_are_remembered() {
    let ca = Authority::new("root");
    let trust = trust(&ca.bundle());
    let pair = ca.issue(&svid(ALICE));
    verify(&trust, &pair, Role::Client, NOW).unwrap();
    let leaf = &chain(&pair)[0];
    let key = trust.chain_key(leaf, &[], Role::Client);
    assert!(trust.lock().find(&key).is_some());
    for other in 0..VERIFIED_CHAINS {
        trust.lock().put(sha256(&other.to_be_bytes()), (Validity { from: 0, until: 0 }, [0; 32]));
    }
    assert!(trust.lock().find(&key).is_none());
    let other_bundle = Trust { epoch: 2, ..self::trust(&ca.bundle()) };
    assert_ne!(other_bundle.chain_key(leaf, &[], Role::Client), key, "the key is bound to the bundle");
}

#[test]
fn a_bundle_without_certificates_is_none() {
    for bundle in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(Trust::parse(bundle.as_bytes(), 1, provider(true).signature_verification_algorithms).is_err());
    }
}

#[test]
fn tl_09_a_padded_chain_is_not_even_looked_at() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let mut pair = ca.issue(&svid(ALICE));
    pair.chain += &other.bundle().repeat(CHAIN_CERTIFICATES - 1);
    assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, NOW), Ok(()));
    pair.chain += &other.bundle();
    assert_eq!(verify(&trust(&ca.bundle()), &pair, Role::Client, NOW), Err("tls_untrusted_chain"));
}
