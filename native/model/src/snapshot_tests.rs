use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::PortProtocol;
use crate::fixtures::{Sections, golden_bytes, golden_folder, transaction};

const RATINGS: &str = "outbound|9080||ratings.default.svc.cluster.local";
const PEERS: &str = "peers/10.244.0.0";
const SERVICE: &str = "service/default/ratings.default.svc.cluster.local/9080";

#[test]
fn every_golden_is_applied_and_has_the_digest_it_states() {
    let mut seen = 0;
    for entry in fs::read_dir(golden_folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let golden: Value = serde_json::from_slice(&bytes).unwrap();
        let snapshot = Snapshot::empty().apply(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(snapshot.digest(), golden["digest"], "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 1, "no golden was read");
}

#[test]
fn a_snapshot_of_the_schema_before_is_read_and_may_change_into_one_of_ours() {
    let bytes = golden_bytes("schema1/details.json");
    assert!(String::from_utf8_lossy(&bytes).contains(r#""schema":1"#));
    let before = Snapshot::empty().apply(&bytes).unwrap();
    let (cluster, endpoints) = before.cluster(RATINGS).unwrap();
    assert_eq!((cluster.protocol, cluster.h2_upgrade), (PortProtocol::Auto, false));
    assert_eq!(endpoints.iter().map(crate::Endpoint::is_meshdp).collect::<Vec<_>>(), [true, false]);
    let mut whole = Sections::golden();
    let callers = whole.0.remove(PEERS).unwrap();
    whole.0.insert("peers".to_owned(), callers);
    let name = format!("cluster/{RATINGS}");
    let put = BTreeMap::from([(name.clone(), whole.0[&name].clone())]);
    let after = before.apply(&transaction(before.digest(), &put, &[], &whole.digest())).unwrap();
    assert_eq!(after.cluster(RATINGS).unwrap().0.protocol, PortProtocol::Http);
}

#[test]
fn a_port_of_http_2_is_read_in_every_section_that_has_one() {
    let key = format!("cluster/{RATINGS}");
    let golden = ["inbound/9080", SERVICE, &key]
        .iter()
        .fold(Sections::golden(), |sections, name| sections.edited(name, "/protocol", json!("http2")));
    let snapshot = golden.edited(&key, "/h2_upgrade", json!(true)).snapshot();
    let cluster = snapshot.cluster(RATINGS).unwrap().0;
    assert_eq!((cluster.protocol, cluster.h2_upgrade), (PortProtocol::Http2, true));
    assert_eq!(snapshot.inbound(9080).unwrap().protocol, PortProtocol::Http2);
    let outbound = snapshot.outbound("240.240.0.4:9080".parse().unwrap());
    assert!(matches!(outbound, crate::listener::Outbound::Http { port: 9080 }), "{outbound:?}");
}

#[test]
fn the_digest_is_taken_over_names_and_section_digests() {
    let snapshot = Snapshot::empty().apply(&golden_bytes("details.json")).unwrap();
    let digest = |name: &str| hex::encode(Sha256::digest(snapshot.section_bytes(name).unwrap()));
    let text: Vec<String> = snapshot.sections().map(|name| format!("{name}\0{}\n", digest(name))).collect();
    assert_eq!(snapshot.digest(), hex::encode(Sha256::digest(text.concat())));
    // As sha256sum and python3 find it, so that both sides of this test cannot be wrong together.
    assert_eq!(snapshot.digest(), "c7f1cc7cfeee8a878acc83ca3314784628cc8f1cc10b1935f70bb50e68f8b06e");
}

#[test]
fn the_golden_is_read_in_full() {
    let snapshot = Sections::golden().snapshot();
    assert!(snapshot.is_configured());
    assert_eq!(&*snapshot.mesh().trust_domain, "cluster.local");
    assert_eq!(snapshot.workload().unwrap().labels["version"], "v1".into());
    assert_eq!(snapshot.telemetry().unwrap().access_log, crate::AccessLog::Json);
    let (cluster, endpoints) = snapshot.cluster(RATINGS).unwrap();
    assert_eq!(&*cluster.identities[0], "spiffe://cluster.local/ns/default/sa/bookinfo-ratings");
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.mtls).collect::<Vec<_>>(), [true, false]);
    assert_eq!(snapshot.inbound(9080).unwrap().mode, crate::MtlsMode::Permissive);
    assert_eq!(snapshot.inbound(9081).unwrap().port, 0, "another port is passed through");
}

#[test]
fn before_there_is_a_configuration_nothing_is_served() {
    let snapshot = Snapshot::empty();
    assert!(!snapshot.is_configured());
    assert!(snapshot.inbound(9080).is_none() && snapshot.workload().is_none());
    assert!(snapshot.authorize_connection(&crate::fixtures::inbound(None)).is_err());
}

#[test]
fn a_change_shares_what_did_not_change() {
    let before = Sections::golden();
    let first = before.snapshot();
    let after = before.clone().edited(&format!("endpoints/{RATINGS}"), "/endpoints/0/health", json!("UNHEALTHY"));
    let second = first.apply(&after.since(&before)).unwrap();
    assert_ne!(first.digest(), second.digest());
    assert!(Arc::ptr_eq(first.policies(), second.policies()));
    assert!(Arc::ptr_eq(&first.linked.services, &second.linked.services));
    assert!(Arc::ptr_eq(&first.linked.mesh, &second.linked.mesh));
    let (first, second) = (first.cluster(RATINGS).unwrap(), second.cluster(RATINGS).unwrap());
    assert!(Arc::ptr_eq(first.0, second.0), "the cluster did not change");
    assert!(!Arc::ptr_eq(first.1, second.1), "its endpoints did");
}

#[test]
fn a_change_of_endpoints_and_callers_leads_where_the_whole_snapshot_does() {
    let before = Sections::golden();
    let mut block: Value = serde_json::from_str(&before.0[PEERS]).unwrap();
    block["peers"][0]["address"] = json!("10.90.0.1");
    let moved = before.clone().with("peers/10.90.0.0", &block).without(PEERS);
    let moved = moved.edited(&format!("endpoints/{RATINGS}"), "/endpoints/0/address", json!("10.90.0.1"));
    assert!(Snapshot::empty().apply(&moved.whole()).is_err(), "the other caller is outside the block");
    block["peers"].as_array_mut().unwrap().truncate(1);
    let moved = moved.with("peers/10.90.0.0", &block);
    let (whole, changed) = (moved.snapshot(), before.snapshot().apply(&moved.since(&before)).unwrap());
    for snapshot in
        [&whole, &changed, &changed.apply(&before.since(&moved)).unwrap().apply(&moved.since(&before)).unwrap()]
    {
        assert_eq!(snapshot.digest(), moved.digest());
        assert_eq!(snapshot.cluster(RATINGS).unwrap().1[0].address, IpAddr::from([10, 90, 0, 1]));
        assert_eq!(&*snapshot.peer_at([10, 90, 0, 1].into(), None).unwrap().workload, "productpage-v1");
        assert!(snapshot.peer_at([10, 244, 0, 2].into(), None).is_none());
    }
}

#[test]
fn the_callers_of_schema_1_are_one_section() {
    let snapshot = Snapshot::empty().apply(&golden_bytes("schema1/details.json")).unwrap();
    assert!(snapshot.section_bytes("peers").is_some() && snapshot.peer_at([10, 244, 0, 2].into(), None).is_some());
}

#[test]
fn a_block_of_callers_has_one_name() {
    let golden = Sections::golden();
    let section: Value = serde_json::from_str(&golden.0[PEERS]).unwrap();
    for name in ["peers/10.244.0.1", "peers/10.244.0.0/24", "peers/x", "peers/", "peers/::ffff:10.244.0.0"] {
        let error = Snapshot::empty().apply(&golden.clone().without(PEERS).with(name, &section).whole()).unwrap_err();
        assert!(matches!(&error, SnapshotError::SectionMalformed { name: found, .. } if found == name), "{error}");
    }
}

#[test]
fn a_whole_snapshot_may_follow_on_anything_and_still_shares() {
    let first = Sections::golden().snapshot();
    let second = first.apply(&Sections::golden().edited("mesh", "/min_tls_version", json!("1.3")).whole()).unwrap();
    assert!(Arc::ptr_eq(first.policies(), second.policies()));
    assert_eq!(second.mesh().min_tls_version, crate::TlsVersion::Tls13);
}

#[test]
fn a_change_drops_sections_that_nothing_refers_to() {
    let before = Sections::golden();
    let after =
        before.clone().without(SERVICE).without(&format!("cluster/{RATINGS}")).without(&format!("endpoints/{RATINGS}"));
    let snapshot = before.snapshot().apply(&after.since(&before)).unwrap();
    assert!(snapshot.cluster(RATINGS).is_none());
    assert!(snapshot.section_bytes(SERVICE).is_none());
}

#[test]
fn a_base_that_is_not_in_force_is_refused() {
    let (before, after) = (Sections::golden(), Sections::golden().edited("telemetry", "/access_log", json!("off")));
    let error = Snapshot::empty().apply(&after.since(&before)).unwrap_err();
    assert_eq!(error, SnapshotError::BaseNotInForce { base: before.digest(), in_force: String::new() });
    let error = after.snapshot().apply(&after.since(&before)).unwrap_err();
    assert_eq!(error, SnapshotError::BaseNotInForce { base: before.digest(), in_force: after.digest() });
}

#[test]
fn a_result_with_another_digest_is_refused() {
    let sections = Sections::golden();
    let wrong = "0".repeat(64);
    let error = Snapshot::empty().apply(&transaction("", &sections.0, &[], &wrong)).unwrap_err();
    assert_eq!(error, SnapshotError::DigestDiffers { stated: wrong, found: sections.digest() });
}

#[test]
fn names_that_the_schema_does_not_know_are_refused() {
    for name in ["jwt", "inbound", "inbound/x", "inbound/09080", "cluster/", "endpoints/", "service/a/b", "secret/key"]
    {
        let error = Snapshot::empty().apply(&Sections::golden().with(name, &json!({})).whole()).unwrap_err();
        let (SnapshotError::SectionUnknown { name: found } | SnapshotError::SectionMalformed { name: found, .. }) =
            &error
        else {
            panic!("{name}: {error}");
        };
        assert_eq!(found, name);
    }
}

#[test]
fn a_name_that_contradicts_its_content_is_refused() {
    let golden = Sections::golden();
    for (name, pointer, value) in [
        ("inbound/9080", "/port", json!(9081)),
        ("inbound/passthrough", "/port", json!(1)),
        (PEERS, "/peers/0/address", json!("10.244.1.2")),
        (SERVICE, "/namespace", json!("other")),
        (&format!("cluster/{RATINGS}"), "/key", json!("outbound|1||x")),
    ] {
        let error = Snapshot::empty().apply(&golden.clone().edited(name, pointer, value).whole()).unwrap_err();
        assert!(matches!(&error, SnapshotError::SectionMalformed { name: found, .. } if found == name), "{error}");
    }
}

#[test]
fn each_section_that_always_exists_is_missed() {
    for name in ["mesh", "workload", "authz", "telemetry", "inbound/passthrough"] {
        let error = Snapshot::empty().apply(&Sections::golden().without(name).whole()).unwrap_err();
        assert_eq!(error, SnapshotError::SectionMissing { name: name.into() });
    }
}

#[test]
fn dangling_references_are_refused() {
    let (cluster, endpoints) = (format!("cluster/{RATINGS}"), format!("endpoints/{RATINGS}"));
    let golden = Sections::golden();
    for (sections, from, to) in [
        (golden.clone().without(&cluster).without(&endpoints), SERVICE, &cluster),
        (golden.clone().without(&endpoints), &cluster, &endpoints),
        (golden.clone().without(&cluster), &endpoints, &cluster),
    ] {
        let error = Snapshot::empty().apply(&sections.whole()).unwrap_err();
        assert_eq!(error, SnapshotError::ReferenceDangling { from: from.into(), to: to.clone() });
    }
}

#[test]
fn unknown_missing_and_ill_typed_fields_are_refused() {
    let golden = Sections::golden();
    let extra = |name: &str| {
        let mut section: Value = serde_json::from_str(&golden.0[name]).unwrap();
        section["surprise"] = json!(1);
        golden.clone().with(name, &section)
    };
    let mut cases: Vec<(String, Sections)> = golden.0.keys().map(|name| (name.clone(), extra(name))).collect();
    for (name, pointer, value) in [
        ("mesh", "/outbound_policy", json!("ALLOW_SOME")),
        ("mesh", "/min_tls_version", json!("1.1")),
        ("workload", "/identity", json!("spiffe://cluster.local/default/details")),
        (PEERS, "/peers/0/address", json!("10.0.0.1/8")),
        ("inbound/9080", "/mode", json!("strict")),
        ("inbound/9080", "/chains/0", json!({"name": "x"})),
        (SERVICE, "/rules/0/match", json!({"uri": "/"})),
        ("authz", "/policies/0/action", json!("CUSTOM")),
    ] {
        cases.push((name.into(), golden.clone().edited(name, pointer, value)));
    }
    for (name, sections) in cases {
        let error = Snapshot::empty().apply(&sections.whole()).unwrap_err();
        assert!(matches!(&error, SnapshotError::SectionMalformed { name: found, .. } if *found == name), "{error}");
    }
}

#[test]
fn malformed_transactions_are_refused() {
    let empty = BTreeMap::new();
    let golden = Sections::golden();
    let text = String::from_utf8(golden.whole()).unwrap();
    for (bytes, reason) in [
        (text.replace(r#""schema":2"#, r#""schema":2,"more":1"#), "unknown field"),
        (text.replace(r#","schema":2"#, ""), "missing field"),
        (text.replace(r#""telemetry":"#, r#""mesh":"#), "put twice"),
        (String::from_utf8(transaction("", &golden.0, &["mesh"], "")).unwrap(), "both put and dropped"),
        ("{".into(), "EOF"),
    ] {
        let error = Snapshot::empty().apply(bytes.as_bytes()).unwrap_err();
        assert!(matches!(&error, SnapshotError::TransactionMalformed { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    for schema in [0, 3] {
        let other = text.replace(r#""schema":2"#, &format!(r#""schema":{schema}"#));
        assert_eq!(Snapshot::empty().apply(other.as_bytes()).unwrap_err(), SnapshotError::SchemaUnsupported { schema });
    }
    let drop = golden.snapshot().apply(&transaction(&golden.digest(), &empty, &["inbound/1"], "")).unwrap_err();
    assert_eq!(drop, SnapshotError::DropOfAbsent { name: "inbound/1".into() });
}

#[test]
fn a_caller_is_named_by_address_and_identity() {
    let snapshot = Sections::golden().snapshot();
    let page = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";
    let name = |address: [u8; 4], identity| snapshot.peer_at(address.into(), identity).map(|peer| &*peer.workload);
    assert_eq!(name([10, 244, 0, 2], Some(page)), Some("productpage-v1"));
    assert_eq!(name([10, 244, 0, 2], None), Some("productpage-v1"));
    assert_eq!(name([10, 244, 0, 9], None), Some("outsider"));
    assert_eq!(name([10, 244, 0, 9], Some(page)), None, "an identity that is not known at this address");
    assert_eq!(name([10, 244, 0, 1], Some(page)), None);
}

#[test]
fn a_truncated_transaction_is_refused_wherever_it_ends() {
    let golden = Sections::golden().whole();
    for end in 0..golden.len() {
        assert!(Snapshot::empty().apply(&golden[..end]).is_err(), "{end}");
    }
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused(position: prop::sample::Index, byte: u8) {
        let mut bytes = Sections::golden().whole();
        let position = position.index(bytes.len());
        let changed = bytes[position] != byte;
        bytes[position] = byte;
        prop_assert_eq!(Snapshot::empty().apply(&bytes).is_err(), changed);
    }
}
