//! Requests, installations, refusals and rebuilds.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use rcgen::date_time_ymd;
use rustls::pki_types::CertificateSigningRequestDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::*;
use crate::tls::pki::{ALICE, Authority, BOB, Clock, NOW, policy, svid};

fn store() -> CredentialStore {
    CredentialStore::with_clock(Arc::new(Clock(NOW)))
}

/// The key of a request, as a CA reads it.
struct RequestKey(Vec<u8>);

impl rcgen::PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// What a CA that believes the request answers.
fn sign(ca: &Authority, request: &[u8]) -> String {
    let der = CertificateSigningRequestDer::from_pem_slice(request).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    let info = request.certification_request_info;
    let names = info.iter_attributes().map(|attribute| format!("{:?}", attribute.parsed_attribute()));
    assert!(names.collect::<String>().contains(ALICE), "the request names the identity");
    ca.sign(&svid(ALICE), &RequestKey(info.subject_pki.subject_public_key.data.to_vec()))
}

#[test]
fn a_request_is_signed_and_installed() {
    let (ca, store) = (Authority::new("root"), store());
    assert!(store.load().is_none());
    let request = store.csr(Some(ALICE)).unwrap();
    assert!(request.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----"));
    let chain = sign(&ca, &request);
    let made = store.install(chain.as_bytes(), ca.bundle().as_bytes(), None, &policy(), NOW).unwrap();
    assert_eq!(made.identity(), ALICE);
    assert_eq!((made.not_before_unix(), made.not_after_unix()), (1_780_272_000, 1_782_864_000));
    assert_eq!(store.load().unwrap().epoch, made.epoch);
}

#[test]
fn ca_01_a_rotation_keeps_trust_and_raises_the_epoch() {
    let (ca, store) = (Authority::new("root"), store());
    let bundle = ca.bundle();
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let chain = sign(&ca, &store.csr(Some(ALICE)).unwrap());
        let made = store.install(chain.as_bytes(), bundle.as_bytes(), None, &policy(), NOW).unwrap();
        epochs.push((made.epoch, made.trust_epoch()));
    }
    assert!(epochs.is_sorted_by(|old, new| old.0 < new.0 && old.1 == new.1), "{epochs:?}");
}

#[test]
fn ca_06_the_same_certificate_with_a_new_bundle() {
    let (ca, next, store) = (Authority::new("root"), Authority::new("next"), store());
    let chain = sign(&ca, &store.csr(Some(ALICE)).unwrap());
    let old = store.install(chain.as_bytes(), ca.bundle().as_bytes(), None, &policy(), NOW).unwrap();
    let both = ca.bundle() + &next.bundle();
    let new = store.install(chain.as_bytes(), both.as_bytes(), None, &policy(), NOW).unwrap();
    assert_ne!(old.trust_epoch(), new.trust_epoch());
    let wrong_order = store.install(chain.as_bytes(), next.bundle().as_bytes(), None, &policy(), NOW);
    assert!(matches!(wrong_order, Err(CredentialError::Untrusted(_))));
    assert_eq!(store.load().unwrap().epoch, new.epoch, "the last good ones stay");
}

#[test]
fn ca_06_a_bundle_alone_under_which_we_would_be_refused_changes_nothing() {
    let (ca, next, store) = (Authority::new("root"), Authority::new("next"), store());
    assert_eq!(store.trust(ca.bundle().as_bytes(), NOW).err(), Some(CredentialError::NoKey));
    let chain = sign(&ca, &store.csr(Some(ALICE)).unwrap());
    let old = store.install(chain.as_bytes(), ca.bundle().as_bytes(), None, &policy(), NOW).unwrap();
    let both = ca.bundle() + &next.bundle();
    let new = store.trust(both.as_bytes(), NOW).unwrap();
    assert_ne!(old.trust_epoch(), new.trust_epoch());
    let (before, after) = (old.facts(), new.facts());
    assert_eq!((&before.serial, &before.issuer), (&after.serial, &after.issuer));
    assert_eq!((before.roots.len(), after.roots.len()), (1, 2));
    assert_eq!(before.issuer, after.roots[0].fingerprint);
    assert!(matches!(store.trust(next.bundle().as_bytes(), NOW), Err(CredentialError::Untrusted(_))));
    assert!(matches!(store.trust(b"", NOW), Err(CredentialError::Bundle(_))));
    assert_eq!(store.load().unwrap().epoch, new.epoch, "the last good ones stay");
    assert_eq!(store.trust(both.as_bytes(), NOW).unwrap().epoch, new.epoch, "the same bundle changes nothing");
}

#[test]
fn ca_06_a_peer_is_trusted_as_long_as_its_root_is() {
    let (ca, next, store) = (Authority::new("root"), Authority::new("next"), store());
    let pair = ca.issue(&svid(ALICE));
    let (chain, key) = (pair.chain.as_bytes(), Some(pair.key.as_bytes()));
    let both = ca.bundle() + &next.bundle();
    let made = store.install(chain, both.as_bytes(), key, &policy(), NOW).unwrap();
    let peer = crate::tls::pki::chain(&next.issue(&svid(BOB)));
    let root = made.root_of(&peer[0], &peer[1..], Role::Client).unwrap();
    assert!(made.trusts(&root));
    assert!(!store.trust(ca.bundle().as_bytes(), NOW).unwrap().trusts(&root));
}

#[test]
fn ca_03_expiry_is_told_by_the_clock_of_the_store() {
    let ca = Authority::new("root");
    let pair = ca.issue(&svid(ALICE));
    let (chain, key) = (pair.chain.as_bytes(), Some(pair.key.as_bytes()));
    for (clock, expired) in [(NOW, false), (1_782_863_999, false), (1_782_864_000, true), (NOW + 400 * 86_400, true)] {
        let store = CredentialStore::with_clock(Arc::new(Clock(clock)));
        let made = store.install(chain, ca.bundle().as_bytes(), key, &policy(), NOW).unwrap();
        assert_eq!(made.have_expired(), expired, "{clock}");
    }
}

#[test]
fn ca_05_refusals_keep_what_is_in_use() {
    let (ca, other, store) = (Authority::new("root"), Authority::new("other"), store());
    let good = ca.issue(&svid(ALICE));
    let install = |chain: &str, bundle: &str, key: &str, now| {
        store.install(chain.as_bytes(), bundle.as_bytes(), Some(key.as_bytes()), &policy(), now).err()
    };
    assert_eq!(install(&good.chain, &ca.bundle(), &good.key, NOW), None);
    let epoch = store.load().unwrap().epoch;
    let (end, start) = (1_782_864_000, 1_780_272_000);
    let stranger = ca.issue(&svid(BOB));
    let mut two = svid(ALICE);
    two.subject_alt_names.push(crate::tls::pki::uri_name(BOB));
    let two = ca.issue(&two);
    let mut decade = svid(ALICE);
    decade.not_after = date_time_ymd(2036, 6, 1);
    let decade = ca.issue(&decade);
    let too_long = CredentialError::Lifetime(Lifetime::TooLong { days: 3_653 });
    let cases = [
        (install(&decade.chain, &ca.bundle(), &decade.key, NOW), Some(too_long)),
        (install(&good.chain, &ca.bundle(), &stranger.key, NOW), Some(CredentialError::KeyMismatch)),
        (
            install(&good.chain, &ca.bundle(), &good.key, end + 5),
            Some(CredentialError::Lifetime(Lifetime::Ended { seconds: 5 })),
        ),
        (
            install(&good.chain, &ca.bundle(), &good.key, start - 7),
            Some(CredentialError::Lifetime(Lifetime::Begins { seconds: 7 })),
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    assert!(matches!(install(&good.chain, &other.bundle(), &good.key, NOW), Some(CredentialError::Untrusted(_))));
    assert!(matches!(install(&two.chain, &ca.bundle(), &two.key, NOW), Some(CredentialError::NotAnSvid(_))));
    assert!(matches!(install("", &ca.bundle(), &good.key, NOW), Some(CredentialError::Chain(_))));
    assert!(matches!(install(&good.chain, "", &good.key, NOW), Some(CredentialError::Bundle(_))));
    assert!(matches!(install(&good.chain, &ca.bundle(), "", NOW), Some(CredentialError::Key(_))));
    assert_eq!(store.load().unwrap().epoch, epoch);
}

#[test]
fn ca_05_another_identity_than_the_requested() {
    let (ca, store) = (Authority::new("root"), store());
    let chain = sign(&ca, &store.csr(Some(ALICE)).unwrap());
    store.csr(Some(BOB)).unwrap();
    let old_key = store.install(chain.as_bytes(), ca.bundle().as_bytes(), None, &policy(), NOW);
    assert_eq!(old_key.err(), Some(CredentialError::KeyMismatch), "a newer request replaced the key");
    let pair = ca.issue(&svid(ALICE));
    let key = Some(pair.key.as_bytes());
    let found = store.install(pair.chain.as_bytes(), ca.bundle().as_bytes(), key, &policy(), NOW).err();
    assert_eq!(found, Some(CredentialError::Identity { expected: BOB.to_owned(), found: ALICE.to_owned() }));
    assert!(store.load().is_none());
}

#[test]
fn without_any_key_there_is_nothing_to_install() {
    let (ca, store) = (Authority::new("root"), store());
    let chain = ca.issue(&svid(ALICE)).chain;
    let found = store.install(chain.as_bytes(), ca.bundle().as_bytes(), None, &policy(), NOW).err();
    assert_eq!(found, Some(CredentialError::NoKey));
}

#[test]
fn the_chain_ends_with_its_first_certificate_to_end() {
    let (ca, store) = (Authority::new("root"), store());
    let mut short = crate::tls::pki::authority("short");
    short.not_after = date_time_ymd(2026, 6, 20);
    let pair = ca.sub(short).issue(&svid(ALICE));
    let key = Some(pair.key.as_bytes());
    let made = store.install(pair.chain.as_bytes(), ca.bundle().as_bytes(), key, &policy(), NOW).unwrap();
    assert_eq!(made.not_after_unix(), NOW + 5 * 86_400);
}

#[test]
fn a_rebuild_follows_the_policy_alone() {
    let (ca, store) = (Authority::new("root"), store());
    assert!(store.rebuild(&policy()).unwrap().is_none());
    let pair = ca.issue(&svid(ALICE));
    let key = Some(pair.key.as_bytes());
    let old = store.install(pair.chain.as_bytes(), ca.bundle().as_bytes(), key, &policy(), NOW).unwrap();
    assert_eq!(store.rebuild(&policy()).unwrap().unwrap().epoch, old.epoch, "the same policy changes nothing");
    let wider = TrustPolicy { trust_domains: vec!["cluster.local".to_owned(), "td2".to_owned()], ..policy() };
    let new = store.rebuild(&wider).unwrap().unwrap();
    assert!(new.epoch > old.epoch && new.trust_epoch() == old.trust_epoch());
    assert_eq!((new.identity(), new.policy()), (ALICE, &wider));
}

#[test]
fn client_configurations_are_made_once_per_service() {
    let ca = Authority::new("root");
    let credentials = ca.credentials(ALICE);
    let (bob, nobody) = ([BOB.to_owned()], []);
    let first = credentials.client_config(&bob).unwrap();
    assert!(Arc::ptr_eq(&first, &credentials.client_config(&bob).unwrap()));
    assert!(!Arc::ptr_eq(&first, &credentials.client_config(&nobody).unwrap()));
}

#[test]
fn ca_11_no_error_and_no_debug_text_holds_the_key() {
    let (ca, store) = (Authority::new("root"), store());
    let pair = ca.issue(&svid(ALICE));
    let key = Some(pair.key.as_bytes());
    let found = store.install(b"", ca.bundle().as_bytes(), key, &policy(), NOW).err().unwrap();
    let secret = pair.key.lines().nth(1).unwrap();
    assert!(!format!("{found} {found:?}").contains(secret));
}
