//! The counters: golden exposition, buckets, the bound on series, summing over workers.

use super::*;

fn party(workload: &'static str) -> Party<'static> {
    Party {
        workload,
        namespace: "default",
        app: workload,
        version: "v1",
        canonical_service: workload,
        ..Party::default()
    }
}

fn key<'a>(protocol: Protocol, code: u16) -> SeriesKey<'a> {
    SeriesKey {
        reporter: Reporter::Destination,
        source: party("productpage"),
        destination: party("details"),
        service: "details.default.svc.cluster.local",
        service_name: "details",
        service_namespace: "default",
        protocol,
        security: Security::MutualTls,
        response_code: code,
        response_flags: "-",
        grpc_status: "",
    }
}

/// The value of the only line that starts with `name{` or `name ` and holds all of `labels`.
fn value(page: &str, name: &str, labels: &[&str]) -> String {
    let found: Vec<&str> = page
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
    found[0].rsplit(' ').next().expect("a value").to_owned()
}

#[test]
fn a_request_renders_as_istio_names_it() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let id = worker.series(&key(Protocol::Http, 200));
    worker.record_request(id, 12_345, 0, 178);
    let page = telemetry.prometheus();
    let labels = "reporter=\"destination\",source_workload=\"productpage\",source_workload_namespace=\"default\",\
        source_principal=\"unknown\",source_app=\"productpage\",source_version=\"v1\",source_canonical_service=\"productpage\",\
        source_canonical_revision=\"unknown\",source_cluster=\"unknown\",destination_workload=\"details\",\
        destination_workload_namespace=\"default\",destination_principal=\"unknown\",destination_app=\"details\",\
        destination_version=\"v1\",destination_canonical_service=\"details\",destination_canonical_revision=\"unknown\",\
        destination_cluster=\"unknown\",destination_service=\"details.default.svc.cluster.local\",\
        destination_service_name=\"details\",destination_service_namespace=\"default\",grpc_response_status=\"\",\
        request_protocol=\"http\",response_flags=\"-\",connection_security_policy=\"mutual_tls\",response_code=\"200\"";
    assert!(page.contains(&format!(
        "# HELP istio_requests_total Requests that ended.\n# TYPE istio_requests_total counter\nistio_requests_total{{{labels}}} 1\n"
    )));
    for (le, count) in [("10", "0"), ("25", "1"), ("+Inf", "1")] {
        let line = format!("istio_request_duration_milliseconds_bucket{{{labels},le=\"{le}\"}} {count}\n");
        assert!(page.contains(&line), "{line}");
    }
    assert!(page.contains(&format!("istio_request_duration_milliseconds_sum{{{labels}}} 12.345\n")));
    assert!(page.contains(&format!("istio_response_bytes_sum{{{labels}}} 178\n")));
    assert!(page.contains(&format!("istio_request_bytes_count{{{labels}}} 1\n")));
}

#[test]
fn the_exposition_of_nothing_is_this() {
    let page = Telemetry::new().prometheus().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    if std::env::var_os("MESHDP_WRITE").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/telemetry/empty.golden"), &page).expect("writable");
    }
    assert_eq!(page, include_str!("telemetry/empty.golden"));
}

#[test]
fn bounds_of_buckets_are_inclusive() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let id = worker.series(&key(Protocol::Http, 200));
    // 500 µs is the bound 0.5 itself; 501 µs is above it; an hour and a microsecond is above all.
    for micros in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
        worker.record_request(id, micros, micros, 0);
    }
    let page = telemetry.prometheus();
    let bucket = |le: &str| value(&page, "istio_request_duration_milliseconds_bucket", &[&format!("le=\"{le}\"")]);
    assert_eq!(["0.5", "1", "5", "1800000", "3600000", "+Inf"].map(bucket), ["2", "4", "4", "4", "5", "6"]);
    let bucket = |le: &str| value(&page, "istio_request_bytes_bucket", &[&format!("le=\"{le}\"")]);
    assert_eq!(["0.5", "250", "500", "1000", "3600000", "+Inf"].map(bucket), ["1", "1", "2", "4", "4", "6"]);
}

#[test]
fn equal_labels_share_a_series_and_workers_add_up() {
    let telemetry = Telemetry::new();
    let (mut first, mut second) = (telemetry.worker(), telemetry.worker());
    let id = first.series(&key(Protocol::Http, 200));
    assert_eq!(first.series(&key(Protocol::Http, 200)), id);
    assert_ne!(first.series(&key(Protocol::Http, 403)), id);
    let other = second.series(&key(Protocol::Http, 200));
    first.record_request(id, 1, 0, 0);
    second.record_request(other, 1, 0, 0);
    assert_eq!(value(&telemetry.prometheus(), "istio_requests_total", &["response_code=\"200\""]), "2");
    assert_eq!(telemetry.prometheus(), telemetry.prometheus());
}

#[test]
fn neighbouring_texts_do_not_run_together() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let with = |workload, namespace| SeriesKey {
        source: Party { workload, namespace, ..Party::default() },
        ..key(Protocol::Http, 200)
    };
    assert_ne!(worker.series(&with("ab", "c")), worker.series(&with("a", "bc")));
}

#[test]
fn a_tcp_connection_counts_without_a_status() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let id = worker.series(&key(Protocol::Tcp, 0));
    worker.tcp_opened(id);
    worker.tcp_moved(id, 100, 2_000);
    worker.tcp_moved(id, 1, 0);
    worker.tcp_closed(id);
    let page = telemetry.prometheus();
    assert_eq!(value(&page, "istio_tcp_received_bytes_total", &["request_protocol=\"tcp\""]), "101");
    assert_eq!(value(&page, "istio_tcp_sent_bytes_total", &[]), "2000");
    assert_eq!(value(&page, "istio_tcp_connections_opened_total", &[]), "1");
    assert_eq!(value(&page, "istio_tcp_connections_closed_total", &[]), "1");
    assert!(!page.contains("response_code=") && !page.contains("grpc_response_status="));
}

#[test]
fn beyond_the_bound_series_are_summed_under_other() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let names: Vec<String> = (0..MAX_SERIES + 50).map(|n| format!("w{n}")).collect();
    for name in &names {
        let source = Party { workload: name, ..Party::default() };
        let id = worker.series(&SeriesKey { source, ..key(Protocol::Http, 404) });
        worker.record_request(id, 1, 0, 0);
    }
    assert_eq!(worker.series.len(), MAX_SERIES + 1);
    let page = telemetry.prometheus();
    let other = [
        "source_workload=\"other\"",
        "destination_service=\"other\"",
        "response_code=\"400\"",
        "reporter=\"destination\"",
    ];
    assert_eq!(value(&page, "istio_requests_total", &other), "50");
    assert_eq!(value(&page, "meshdp_series_overflow_total", &[]), "50");
    // What was known before stays apart.
    let id =
        worker.series(&SeriesKey { source: Party { workload: "w0", ..Party::default() }, ..key(Protocol::Http, 404) });
    assert_eq!(id, SeriesId(0));
}

#[test]
fn label_values_are_escaped_and_bounded() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    let long = "\u{e4}".repeat(1_000);
    for principal in ["a\\b\"c\nd\re", &long] {
        let source = Party { principal, ..Party::default() };
        let id = worker.series(&SeriesKey { source, ..key(Protocol::Http, 200) });
        assert_eq!(worker.series(&SeriesKey { source, ..key(Protocol::Http, 200) }), id, "a cut label is found again");
        worker.record_request(id, 1, 0, 0);
    }
    let page = telemetry.prometheus();
    assert_eq!(value(&page, "istio_requests_total", &["source_principal=\"a\\\\b\\\"c\\nd_e\""]), "1");
    assert_eq!(value(&page, "istio_requests_total", &[&format!("source_principal=\"{}\"", "\u{e4}".repeat(256))]), "1");
}

#[test]
fn connections_denials_failures_and_the_sidecars_own() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    for direction in [Direction::Inbound, Direction::Inbound, Direction::Outbound] {
        worker.connection_opened(direction);
    }
    worker.connection_closed(Direction::Inbound, Reason::RbacDenied);
    worker.denied("default/deny-all");
    worker.denied("default/deny-all");
    worker.shadowed("deny", "denied", "default/\"x");
    worker.tls_failed(Reason::DownstreamTlsUntrusted);
    worker.panicked();
    telemetry.panicked();
    telemetry.config_swapped("abc");
    telemetry.config_swapped("def");
    telemetry.config_rejected();
    telemetry.certificate_installed(1_900_000_000);
    telemetry.certificate_alarm(80);
    telemetry.certificate_failed();
    telemetry.access_log_dropped().fetch_add(7, Relaxed);
    let page = telemetry.prometheus();
    for (name, labels, expected) in [
        ("meshdp_active_connections", "direction=\"inbound\"", "1"),
        ("meshdp_active_connections", "direction=\"outbound\"", "1"),
        ("meshdp_connections_total", "direction=\"inbound\",reason=\"rbac_denied\"", "1"),
        ("meshdp_requests_denied_total", "policy=\"default/deny-all\"", "2"),
        ("meshdp_policy_shadow_total", r#"action="deny",result="denied",policy="default/\"x""#, "1"),
        ("meshdp_tls_failures_total", "reason=\"downstream_tls_untrusted\"", "1"),
        ("meshdp_config_info", "digest=\"def\"", "1"),
        ("meshdp_config_swaps_total", "", "2"),
        ("meshdp_config_rejected_total", "", "1"),
        ("meshdp_certificate_expiry_seconds", "", "1900000000"),
        ("meshdp_certificate_alarm_percent", "", "80"),
        ("meshdp_certificates_installed_total", "", "1"),
        ("meshdp_certificate_failures_total", "", "1"),
        ("meshdp_access_log_dropped_total", "", "7"),
        ("meshdp_panics_total", "", "2"),
    ] {
        assert_eq!(value(&page, name, &[labels]), expected, "{name}");
    }
    let json = telemetry.json();
    assert_eq!(json["connections"]["inbound"]["ended"]["rbac_denied"], 1);
    assert_eq!(json["denied"]["default/deny-all"], 2);
    assert_eq!(json["config"]["digest"], "def");
}

#[test]
fn policies_are_bounded() {
    let telemetry = Telemetry::new();
    let mut worker = telemetry.worker();
    for n in 0..MAX_POLICIES + 3 {
        worker.denied(&format!("ns/p{n}"));
        worker.shadowed("allow", "denied", &format!("ns/p{n}"));
    }
    assert_eq!(value(&telemetry.prometheus(), "meshdp_requests_denied_total", &["policy=\"other\""]), "3");
    assert_eq!(value(&telemetry.prometheus(), "meshdp_policy_shadow_total", &["policy=\"other\""]), "3");
}

#[test]
fn a_connections_cache_asks_once_per_tag_and_forgets_the_oldest() {
    let tag = |status| CacheTag {
        epoch: 1,
        place: 8,
        status,
        reason: Reason::Completed,
        protocol: Protocol::Http,
        grpc_status: None,
    };
    let mut cache = SeriesCache::default();
    let mut asked = 0;
    let mut find = |cache: &mut SeriesCache, tag, id| {
        cache.find(tag, || {
            asked += 1;
            SeriesId(id)
        })
    };
    for status in 0..4 {
        find(&mut cache, tag(status), u32::from(status));
    }
    assert_eq!(find(&mut cache, tag(0), 99), SeriesId(0));
    assert_eq!(find(&mut cache, CacheTag { epoch: 2, ..tag(0) }, 7), SeriesId(7));
    assert_eq!(find(&mut cache, tag(0), 8), SeriesId(8), "the oldest made room");
    assert_eq!(asked, 6);
}
