use proptest::prelude::*;
use serde_json::json;

use super::*;

fn set(endpoints: &[(u32, bool)]) -> EndpointSet {
    let endpoint = |(weight, healthy): &(u32, bool)| {
        serde_json::from_value(json!({
            "address": "10.0.0.1", "port": 80, "mtls": false, "tls_mode": "disabled", "identity": "",
            "workload": "", "namespace": "", "canonical_name": "", "canonical_revision": "", "locality": "",
            "network": "",
            "weight": weight,
            "health": if *healthy { "HEALTHY" } else { "UNHEALTHY" }, "capabilities": [],
        }))
        .unwrap()
    };
    EndpointSet::new(endpoints.iter().map(endpoint).collect())
}

/// Well spread numbers, the same on every run (splitmix64).
fn randoms(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|n| {
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[test]
fn without_load_shares_follow_the_weights() {
    let set = set(&[(1, true), (3, true), (9, false), (4, true), (0, true)]);
    let mut counts = [0_u32; 5];
    randoms(80_000).for_each(|random| counts[pick(&set, |_| 0, random).unwrap()] += 1);
    assert_eq!((counts[2], counts[4]), (0, 0), "unhealthy and weightless are never picked");
    for (index, share) in [(0, 10_000_u32), (1, 30_000), (3, 40_000)] {
        assert!(counts[index].abs_diff(share) < share / 20, "{counts:?}");
    }
}

#[test]
fn under_load_requests_in_flight_follow_the_weights() {
    // Requests that never end: what is in flight must come out in proportion.
    let set = set(&[(1, true), (2, true), (1, true)]);
    let mut in_flight = [0_u32; 3];
    for random in randoms(4000) {
        let index = pick(&set, |index| in_flight[index], random).unwrap();
        in_flight[index] += 1;
    }
    assert!(in_flight[0].abs_diff(1000) < 30 && in_flight[1].abs_diff(2000) < 30, "{in_flight:?}");
}

#[test]
fn the_busiest_of_equals_is_never_picked() {
    let set = set(&[(1, true); 5]);
    for random in randoms(2000) {
        assert_ne!(pick(&set, |index| u32::from(index == 3), random), Some(3));
    }
}

#[test]
fn both_of_two_are_compared_so_the_idle_one_is_always_found() {
    let set = set(&[(1, true), (1, true)]);
    assert!(randoms(1000).all(|random| pick(&set, |index| if index == 0 { 5 } else { 4 }, random) == Some(1)));
}

#[test]
fn extremes_do_not_overflow() {
    let set = set(&[(u32::MAX, true), (u32::MAX, true), (1, true)]);
    for random in [0, u64::MAX, u64::from(u32::MAX), u64::MAX << 32] {
        assert!(pick(&set, |_| u32::MAX, random).is_some());
    }
}

proptest! {
    #[test]
    fn only_healthy_endpoints_with_weight_are_picked(
        endpoints in proptest::collection::vec((0_u32..5, any::<bool>()), 0..8),
        loads in proptest::collection::vec(0_u32..9, 8),
        random: u64,
    ) {
        let set = set(&endpoints);
        match pick(&set, |index| loads[index], random) {
            Some(index) => prop_assert!(endpoints[index].0 > 0 && endpoints[index].1),
            None => prop_assert!(!endpoints.iter().any(|(weight, healthy)| *weight > 0 && *healthy)),
        }
    }
}

#[test]
fn lc_14_what_is_to_be_avoided_is_picked_only_where_there_is_nothing_else() {
    let set = set(&[(1, true), (1_000, true), (5, false), (1, true)]);
    for random in randoms(2_000) {
        assert_ne!(pick_avoiding(&set, |_| 0, |index| index == 1, random), Some(1), "however heavy it is");
        assert_eq!(
            pick_avoiding(&set, |_| 0, |index| index != 3, random),
            Some(3),
            "the unhealthy one is never picked"
        );
        assert_eq!(pick_avoiding(&set, |_| 0, |_| false, random), pick(&set, |_| 0, random));
        assert_eq!(
            pick_avoiding(&set, |_| 0, |_| true, random),
            pick(&set, |_| 0, random),
            "all are bad: no black hole"
        );
    }
    assert_eq!(pick_avoiding(&EndpointSet::default(), |_| 0, |_| true, 1), None);
}

#[test]
fn rt_07_the_others_share_what_an_avoided_endpoint_does_not_get() {
    let set = set(&[(1, true), (1, true), (1, true), (1, true)]);
    let mut counts = [0_u32; 4];
    randoms(30_000).for_each(|random| counts[pick_avoiding(&set, |_| 0, |index| index == 2, random).unwrap()] += 1);
    assert_eq!(counts[2], 0);
    assert!([0, 1, 3].iter().all(|&index| counts[index].abs_diff(10_000) < 500), "{counts:?}");
}
