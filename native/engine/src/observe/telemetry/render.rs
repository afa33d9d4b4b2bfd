//! Turns the counters of all workers into Prometheus' text exposition and into JSON.
//!
//! In:      [`Telemetry`].
//! Out:     text and JSON, sorted: equal counters give equal bytes.
//! Source:  Prometheus text exposition format 0.0.4; istio-semantics G.2.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value};

use super::series::{BUCKETS, Cells, Histogram, Labels, RequestCells, TcpCells};
use super::{Block, ByReason, Direction, Telemetry, locked};
use crate::observe::outcome::Reason;

/// The text exposition.
pub(super) fn prometheus(telemetry: &Telemetry) -> String {
    let sums = Sums::gather(telemetry);
    let mut page = Page::default();
    page.requests(&sums);
    page.tcp(&sums);
    page.family("istio_build", "gauge", "The proxy's version.");
    page.line("istio_build", &format!("component=\"proxy\",tag=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    page.connections(&sums);
    page.sidecar(telemetry, &sums);
    page.text
}

/// The JSON of `/stats`.
pub(super) fn json(telemetry: &Telemetry) -> Value {
    let sums = Sums::gather(telemetry);
    let mut requests = Vec::new();
    let mut tcp = Vec::new();
    for (labels, sum) in &sums.series {
        let names: Map<String, Value> =
            labels.pairs().into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        match sum {
            Sum::Request(sum) => requests.push(serde_json::json!({
                "labels": names, "total": sum.total, "duration_us": sum.duration_us.sum,
                "request_bytes": sum.request_bytes.sum, "response_bytes": sum.response_bytes.sum,
            })),
            Sum::Tcp(sum) => tcp.push(serde_json::json!({
                "labels": names, "opened": sum.opened, "closed": sum.closed,
                "sent_bytes": sum.sent_bytes, "received_bytes": sum.received_bytes,
            })),
        }
    }
    let ways = DIRECTIONS.map(|way| {
        let ended = by_reason(&sums.closed[way as usize]);
        (way.word().to_owned(), serde_json::json!({"active": sums.active[way as usize], "ended": ended}))
    });
    serde_json::json!({
        "requests": requests, "tcp": tcp,
        "connections": Map::from_iter(ways),
        "upstream_http2": sums.shared_upstreams,
        "denied": sums.denied,
        "shadow": sums.shadow,
        "tls_failures": by_reason(&sums.tls_failures),
        "config": {
            "digest": *locked(&telemetry.config),
            "swaps": telemetry.config_swaps.load(Relaxed),
            "rejected": telemetry.config_rejected.load(Relaxed),
        },
        "certificate_expiry": telemetry.certificate_expiry.load(Relaxed),
        "certificates": {
            "alarm_percent": telemetry.certificate_alarm.load(Relaxed),
            "installed": telemetry.certificates_installed.load(Relaxed),
            "failures": telemetry.certificate_failures.load(Relaxed),
        },
        "access_log_dropped": telemetry.access_log_dropped.load(Relaxed),
        "panics": sums.panics + telemetry.panics.load(Relaxed),
        "series_overflow": sums.overflowed,
    })
}

fn by_reason(counts: &[u64; Reason::COUNT]) -> BTreeMap<&'static str, u64> {
    Reason::all().map(|reason| (reason.code(), counts[reason as usize])).filter(|(_, count)| *count > 0).collect()
}

/// All workers' counters, added up.
struct Sums {
    series: BTreeMap<Labels, Sum>,
    denied: BTreeMap<String, u64>,
    /// By labels, as Prometheus has them.
    shadow: BTreeMap<String, u64>,
    active: [u64; 2],
    shared_upstreams: u64,
    closed: [[u64; Reason::COUNT]; 2],
    tls_failures: [u64; Reason::COUNT],
    panics: u64,
    overflowed: u64,
}

impl Sums {
    fn gather(telemetry: &Telemetry) -> Self {
        let mut sums = Self {
            series: BTreeMap::new(),
            denied: BTreeMap::new(),
            shadow: BTreeMap::new(),
            active: [0; 2],
            shared_upstreams: 0,
            closed: [[0; Reason::COUNT]; 2],
            tls_failures: [0; Reason::COUNT],
            panics: 0,
            overflowed: 0,
        };
        for block in locked(&telemetry.workers).iter() {
            sums.add(block);
        }
        sums
    }

    fn add(&mut self, block: &Block) {
        // The workers' lock is held for copying pointers only, not for adding.
        let series: Vec<Arc<super::Series>> = locked(&block.series).clone();
        for one in series {
            self.series.entry(one.labels.clone()).or_insert_with(|| Sum::like(&one.cells)).add(&one.cells);
        }
        for (policy, cell) in locked(&block.policies).iter() {
            *self.denied.entry(policy.to_string()).or_default() += cell.read();
        }
        for (labels, cell) in locked(&block.shadows).iter() {
            *self.shadow.entry(labels.to_string()).or_default() += cell.read();
        }
        for way in DIRECTIONS.map(|way| way as usize) {
            self.active[way] += block.active[way].read();
            add_reasons(&mut self.closed[way], &block.closed[way]);
        }
        self.shared_upstreams += block.shared_upstreams.read();
        add_reasons(&mut self.tls_failures, &block.tls_failures);
        self.panics += block.panics.read();
        self.overflowed += block.overflowed.read();
    }
}

fn add_reasons(sums: &mut [u64; Reason::COUNT], cells: &ByReason) {
    for (sum, cell) in sums.iter_mut().zip(&cells.0) {
        *sum += cell.read();
    }
}

/// One series over all workers.
enum Sum {
    Request(Box<RequestSum>),
    Tcp(TcpSum),
}

#[derive(Default)]
struct RequestSum {
    total: u64,
    duration_us: HistogramSum,
    request_bytes: HistogramSum,
    response_bytes: HistogramSum,
}

#[derive(Default)]
struct TcpSum {
    opened: u64,
    closed: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

#[derive(Default)]
struct HistogramSum {
    cells: [u64; BUCKETS.len() + 1],
    sum: u64,
}

impl Sum {
    fn like(cells: &Cells) -> Self {
        match cells {
            Cells::Request(_) => Self::Request(Box::default()),
            Cells::Tcp(_) => Self::Tcp(TcpSum::default()),
        }
    }

    /// Equal labels have equal protocols, hence equal families.
    fn add(&mut self, cells: &Cells) {
        match (self, cells) {
            (Self::Request(sum), Cells::Request(cells)) => sum.add(cells),
            (Self::Tcp(sum), Cells::Tcp(cells)) => sum.add(cells),
            _ => debug_assert!(false, "one label set in two families"),
        }
    }
}

impl RequestSum {
    fn add(&mut self, cells: &RequestCells) {
        self.total += cells.total.read();
        self.duration_us.add(&cells.duration_us);
        self.request_bytes.add(&cells.request_bytes);
        self.response_bytes.add(&cells.response_bytes);
    }
}

impl TcpSum {
    fn add(&mut self, cells: &TcpCells) {
        self.opened += cells.opened.read();
        self.closed += cells.closed.read();
        self.sent_bytes += cells.sent_bytes.read();
        self.received_bytes += cells.received_bytes.read();
    }
}

impl HistogramSum {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, cell) in self.cells.iter_mut().zip(&histogram.cells) {
            *sum += cell.read();
        }
        self.sum += histogram.sum.read();
    }
}

/// Which number of a TCP series a family shows.
type ReadTcp = fn(&TcpSum) -> u64;

/// The exposition while it grows.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn requests(&mut self, sums: &Sums) {
        let series: Vec<(String, &RequestSum)> = sums
            .series
            .iter()
            .filter_map(|(labels, sum)| match sum {
                Sum::Request(sum) => Some((label_text(labels), &**sum)),
                Sum::Tcp(_) => None,
            })
            .collect();
        self.family("istio_requests_total", "counter", "Requests that ended.");
        for (labels, sum) in &series {
            self.line("istio_requests_total", labels, sum.total);
        }
        self.family("istio_request_duration_milliseconds", "histogram", "Duration of requests, in milliseconds.");
        for (labels, sum) in &series {
            let millis = format!("{}.{:03}", sum.duration_us.sum / 1_000, sum.duration_us.sum % 1_000);
            self.histogram("istio_request_duration_milliseconds", labels, &sum.duration_us.cells, &millis);
        }
        self.family("istio_request_bytes", "histogram", "Size of request bodies, in bytes.");
        for (labels, sum) in &series {
            self.histogram("istio_request_bytes", labels, &sum.request_bytes.cells, &sum.request_bytes.sum.to_string());
        }
        self.family("istio_response_bytes", "histogram", "Size of response bodies, in bytes.");
        for (labels, sum) in &series {
            self.histogram(
                "istio_response_bytes",
                labels,
                &sum.response_bytes.cells,
                &sum.response_bytes.sum.to_string(),
            );
        }
    }

    fn tcp(&mut self, sums: &Sums) {
        let series: Vec<(String, &TcpSum)> = sums
            .series
            .iter()
            .filter_map(|(labels, sum)| match sum {
                Sum::Tcp(sum) => Some((label_text(labels), sum)),
                Sum::Request(_) => None,
            })
            .collect();
        let families: [(&str, &str, ReadTcp); 4] = [
            ("istio_tcp_connections_opened_total", "Opaque connections that opened.", |sum| sum.opened),
            ("istio_tcp_connections_closed_total", "Opaque connections that closed.", |sum| sum.closed),
            ("istio_tcp_sent_bytes_total", "Bytes sent to the downstream of opaque connections.", |sum| sum.sent_bytes),
            ("istio_tcp_received_bytes_total", "Bytes received from the downstream of opaque connections.", |sum| {
                sum.received_bytes
            }),
        ];
        for (name, help, read) in families {
            self.family(name, "counter", help);
            for (labels, sum) in &series {
                self.line(name, labels, read(sum));
            }
        }
    }

    fn connections(&mut self, sums: &Sums) {
        self.family("meshdp_active_connections", "gauge", "Downstream connections that are open.");
        for way in DIRECTIONS {
            self.line("meshdp_active_connections", &format!("direction=\"{}\"", way.word()), sums.active[way as usize]);
        }
        let help = "HTTP/2 connections to upstreams that are open.";
        self.single("meshdp_upstream_http2_connections", "gauge", help, sums.shared_upstreams);
        self.family("meshdp_connections_total", "counter", "Downstream connections that ended, by reason.");
        for way in DIRECTIONS {
            for (code, count) in by_reason(&sums.closed[way as usize]) {
                let labels = format!("direction=\"{}\",reason=\"{code}\"", way.word());
                self.line("meshdp_connections_total", &labels, count);
            }
        }
        self.family("meshdp_requests_denied_total", "counter", "Requests and connections that a policy denied.");
        for (policy, count) in &sums.denied {
            self.line("meshdp_requests_denied_total", &format!("policy=\"{}\"", escape(policy)), *count);
        }
        self.family("meshdp_policy_shadow_total", "counter", "What policies in dry run or of action AUDIT said.");
        for (labels, count) in &sums.shadow {
            self.line("meshdp_policy_shadow_total", labels, *count);
        }
        self.family("meshdp_tls_failures_total", "counter", "TLS handshakes that failed.");
        for (code, count) in by_reason(&sums.tls_failures) {
            self.line("meshdp_tls_failures_total", &format!("reason=\"{code}\""), count);
        }
    }

    fn sidecar(&mut self, telemetry: &Telemetry, sums: &Sums) {
        self.family("meshdp_config_info", "gauge", "The digest of the configuration in force.");
        let digest = locked(&telemetry.config).clone();
        if !digest.is_empty() {
            self.line("meshdp_config_info", &format!("digest=\"{}\"", escape(&digest)), 1);
        }
        let swaps = telemetry.config_swaps.load(Relaxed);
        self.single("meshdp_config_swaps_total", "counter", "Configurations that came into force.", swaps);
        let rejected = telemetry.config_rejected.load(Relaxed);
        self.single("meshdp_config_rejected_total", "counter", "Configurations that were refused.", rejected);
        self.certificates(telemetry);
        let dropped = telemetry.access_log_dropped.load(Relaxed);
        self.single("meshdp_access_log_dropped_total", "counter", "Access log lines that were dropped.", dropped);
        let panics = sums.panics + telemetry.panics.load(Relaxed);
        self.single("meshdp_panics_total", "counter", "Panics that ended one connection.", panics);
        let help = "Look-ups of label sets beyond the bound, counted under `other`.";
        self.single("meshdp_series_overflow_total", "counter", help, sums.overflowed);
    }

    fn certificates(&mut self, telemetry: &Telemetry) {
        let expiry = telemetry.certificate_expiry.load(Relaxed);
        let help = "When the sidecar's certificate expires, in seconds since 1970; 0 without one.";
        self.single("meshdp_certificate_expiry_seconds", "gauge", help, expiry);
        let alarm = telemetry.certificate_alarm.load(Relaxed);
        let help =
            "How much of the certificate's life is gone without a new one, in steps: 0, 50, 80, 95, 100 percent.";
        self.single("meshdp_certificate_alarm_percent", "gauge", help, alarm);
        let installed = telemetry.certificates_installed.load(Relaxed);
        let help = "Certificates and trust bundles that came into use.";
        self.single("meshdp_certificates_installed_total", "counter", help, installed);
        let failures = telemetry.certificate_failures.load(Relaxed);
        self.single("meshdp_certificate_failures_total", "counter", "Attempts that brought no certificate.", failures);
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        // A String takes all that is written to it, here and below.
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &str, cells: &[u64], sum: &str) {
        let mut count = 0;
        for (cell, bound) in cells.iter().zip(BUCKETS.iter().map(|bound| bound.text).chain(["+Inf"])) {
            count += cell;
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

fn label_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.pairs().iter().map(|(name, text)| format!("{name}=\"{}\"", escape(text))).collect();
    pairs.join(",")
}

/// A label's value; control characters but the line feed become `_`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c if c.is_control() => escaped.push('_'),
            c => escaped.push(c),
        }
    }
    escaped
}

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];
