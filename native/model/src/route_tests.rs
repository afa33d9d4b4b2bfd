use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::facts::{ConnectionFacts, Direction};
use crate::fixtures::{Sections, inbound};

const RATINGS: &str = "outbound|9080||ratings.default.svc.cluster.local";
const SERVICE: &str = "service/default/ratings.default.svc.cluster.local/9080";

fn permit(snapshot: &Snapshot) -> Permit {
    snapshot.permit_outbound(&ConnectionFacts { direction: Direction::Outbound, ..inbound(None) })
}

fn by_host(snapshot: &Snapshot, port: u16, authority: &str) -> String {
    match snapshot.route_request(&permit(snapshot), port, authority.as_bytes(), None, 0) {
        Route::Cluster { cluster, service, rule, .. } => format!("{} {} {rule}", service.name, cluster.key),
        Route::Passthrough => "passthrough".to_owned(),
        Route::Blocked => "blocked".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn hosts_are_matched_with_and_without_port_and_case() {
    let snapshot = Sections::golden().snapshot();
    let ratings = format!("ratings {RATINGS} default");
    for authority in [
        "ratings",
        "ratings:9080",
        "RATINGS.Default",
        "ratings.default.svc",
        "ratings.default.svc.cluster.local",
        "ratings.default.svc.cluster.local.",
        "ratings.default.svc.cluster.local.:9080",
        "240.240.0.4",
        "240.240.0.4:9080",
    ] {
        assert_eq!(by_host(&snapshot, 9080, authority), ratings, "{authority}");
    }
    for authority in [
        "",
        ":9080",
        "ratings:9081",
        "ratings:",
        "ratings:+9080",
        "ratings:9080:9080",
        "ratings ",
        "rating",
        "xratings",
        "[ratings",
    ] {
        assert_eq!(by_host(&snapshot, 9080, authority), "passthrough", "{authority}");
    }
    assert_eq!(by_host(&snapshot, 9081, "ratings"), "passthrough", "another port");
}

#[test]
fn literals_and_wildcards_name_services() {
    let sections = Sections::golden().edited(SERVICE, "/domains", json!(["fd00::4", "*.ratings", "*.b.ratings"]));
    let snapshot = sections.snapshot();
    for (authority, found) in [
        ("[fd00::4]", true),
        ("[FD00::4]:9080", true),
        ("[fd00::4]:1", false),
        ("a.ratings:9080", true),
        ("a.B.Ratings", true),
        ("ratings", false),
        ("xratings", false),
    ] {
        assert_eq!(by_host(&snapshot, 9080, authority) != "passthrough", found, "{authority}");
    }
}

#[test]
fn the_first_service_to_claim_a_domain_has_it_and_exact_beats_wildcard() {
    let service = |host: &str, domains: &[&str]| {
        json!({"host": host, "namespace": "a", "name": host, "port": 9080, "protocol": "http", "addresses": [],
            "domains": domains, "rules": [{"name": "r", "match": {}, "clusters": [{"key": RATINGS, "weight": 1}]}]})
    };
    let snapshot = Sections::golden()
        .with("service/a/one/9080", &service("one", &["ratings", "*.x", "*.long.x"]))
        .with("service/a/two/9080", &service("two", &["ratings", "exact.x", "*.x"]))
        .snapshot();
    let name = |authority: &str| by_host(&snapshot, 9080, authority).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(name("ratings"), "one");
    assert_eq!(name("exact.x"), "two");
    assert_eq!(name("other.x"), "one");
}

#[test]
fn a_service_named_by_its_address_takes_any_host() {
    let snapshot = Sections::golden().snapshot();
    let service = snapshot.services().by_authority(9080, b"ratings").unwrap();
    let route = snapshot.route_request(&permit(&snapshot), 9080, b"elsewhere.example", Some(service), 0);
    assert!(matches!(route, Route::Cluster { .. }), "{route:?}");
}

#[test]
fn unknown_hosts_follow_the_outbound_policy() {
    let closed = Sections::golden().edited("mesh", "/outbound_policy", json!("REGISTRY_ONLY")).snapshot();
    assert_eq!(by_host(&closed, 9080, "elsewhere.example"), "blocked");
    assert!(matches!(closed.route_unknown(&permit(&closed)), Route::Blocked));
    assert!(by_host(&closed, 9080, "ratings").starts_with("ratings "));
}

#[test]
fn having_nowhere_to_go_says_why() {
    let route = |pointer: &str, name: &str, value: Value| {
        let snapshot = Sections::golden().edited(name, pointer, value).snapshot();
        match snapshot.route_request(&permit(&snapshot), 9080, b"ratings", None, 0) {
            Route::NoEndpoints { .. } => "no endpoints",
            Route::NoCluster { .. } => "no cluster",
            Route::NoRule { .. } => "no rule",
            _ => "somewhere",
        }
    };
    let endpoints = format!("endpoints/{RATINGS}");
    assert_eq!(route("/endpoints", &endpoints, json!([])), "no endpoints");
    assert_eq!(route("/endpoints/0/health", &endpoints, json!("UNHEALTHY")), "somewhere");
    assert_eq!(route("/rules", SERVICE, json!([])), "no rule");
    assert_eq!(route("/rules/0/clusters", SERVICE, json!([])), "no cluster");
    let twice = json!([{"key": RATINGS, "weight": 0}, {"key": RATINGS, "weight": 0}]);
    assert_eq!(route("/rules/0/clusters", SERVICE, twice), "no cluster");
    assert_eq!(route("/rules/0/clusters", SERVICE, json!([{"key": RATINGS, "weight": 0}])), "somewhere");
}

fn weighted(weights: &[u32]) -> RouteRule {
    let clusters: Vec<_> =
        (0..).zip(weights).map(|(n, weight): (i32, _)| json!({"key": n.to_string(), "weight": weight})).collect();
    serde_json::from_value(json!({"name": "r", "match": {}, "clusters": clusters})).unwrap()
}

#[test]
fn clusters_are_chosen_by_weight() {
    let rule = weighted(&[1, 0, 3]);
    let steps = 4000_u64;
    let chosen = |n: u64| choose_cluster(&rule, (n << 32) / steps * (1 << 32) + 7).unwrap().to_owned();
    let count = |key: &str| (0..steps).filter(|&n| chosen(n) == key).count();
    assert_eq!((count("0"), count("1"), count("2")), (1000, 0, 3000));
}

proptest! {
    #[test]
    fn a_cluster_without_weight_is_never_chosen(weights in proptest::collection::vec(0_u32..4, 2..6), random: u64) {
        let rule = weighted(&weights);
        match choose_cluster(&rule, random) {
            Some(key) => prop_assert!(weights[key.parse::<usize>().unwrap()] > 0),
            None => prop_assert!(weights.iter().all(|&weight| weight == 0)),
        }
    }
}
