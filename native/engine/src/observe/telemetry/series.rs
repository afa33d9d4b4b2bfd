//! Istio's labels as borrowed keys, their one stored copy, and the cells that a worker counts in.
//!
//! In:      [`SeriesKey`], borrowed from the snapshot and the connection.
//! Out:     [`Labels`] (compared with keys without allocating) and [`Cells`] (relaxed atomics with one writer).
//! Source:  istio-semantics G.2.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which side of the call reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The caller's sidecar (outbound).
    Source,
    /// The called workload's sidecar (inbound).
    Destination,
}

/// What the sidecar spoke with the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// HTTP whose content type is gRPC's.
    Grpc,
    /// An opaque connection.
    Tcp,
}

/// What is known about the protection of the connection; always `Unknown` at the source, as Istio reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Security {
    /// Mutual TLS.
    MutualTls,
    /// Plaintext.
    None,
    /// Not known on this side.
    Unknown,
}

/// One end of a call. An empty string is reported as `unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party<'a> {
    /// Workload name.
    pub workload: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// SPIFFE identity, with `spiffe://`.
    pub principal: &'a str,
    /// The `app` label.
    pub app: &'a str,
    /// The `version` label.
    pub version: &'a str,
    /// Istio's canonical name.
    pub canonical_service: &'a str,
    /// Istio's canonical revision.
    pub canonical_revision: &'a str,
    /// The cluster's id, `Kubernetes` by default.
    pub cluster: &'a str,
}

/// The labels of one series, all borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// The caller.
    pub source: Party<'a>,
    /// The called workload.
    pub destination: Party<'a>,
    /// `destination_service`: the host, fully qualified.
    pub service: &'a str,
    /// `destination_service_name`.
    pub service_name: &'a str,
    /// `destination_service_namespace`.
    pub service_namespace: &'a str,
    /// What was spoken; `Tcp` makes a series of the TCP family.
    pub protocol: Protocol,
    /// How it was protected.
    pub security: Security,
    /// The status; 0 when the downstream saw none. Not a label of the TCP family.
    pub response_code: u16,
    /// Envoy's flags ([`crate::observe::outcome::Reason::flags`]).
    pub response_flags: &'static str,
    /// gRPC's status, empty for everything else.
    pub grpc_status: &'a str,
}

impl<'a> SeriesKey<'a> {
    /// The texts of the key, in the order of [`TEXT_LABELS`].
    fn texts(&self) -> [&'a str; TEXT_LABELS.len()] {
        let (s, d) = (&self.source, &self.destination);
        [
            s.workload,
            s.namespace,
            s.principal,
            s.app,
            s.version,
            s.canonical_service,
            s.canonical_revision,
            s.cluster,
            d.workload,
            d.namespace,
            d.principal,
            d.app,
            d.version,
            d.canonical_service,
            d.canonical_revision,
            d.cluster,
            self.service,
            self.service_name,
            self.service_namespace,
            self.grpc_status,
        ]
    }

    /// What is left of a key once a worker keeps no more of them apart: who reports, what was spoken, the class of the status.
    pub(super) fn other(&self) -> SeriesKey<'static> {
        let party = Party {
            workload: OTHER,
            namespace: OTHER,
            principal: OTHER,
            app: OTHER,
            version: OTHER,
            canonical_service: OTHER,
            canonical_revision: OTHER,
            cluster: OTHER,
        };
        SeriesKey {
            reporter: self.reporter,
            source: party,
            destination: party,
            service: OTHER,
            service_name: OTHER,
            service_namespace: OTHER,
            protocol: self.protocol,
            security: Security::Unknown,
            response_code: self.response_code.min(999) / 100 * 100,
            response_flags: "-",
            grpc_status: "",
        }
    }

    fn small(&self) -> Small {
        Small {
            reporter: self.reporter,
            protocol: self.protocol,
            security: self.security,
            code: self.response_code,
            flags: self.response_flags,
        }
    }

    /// The hash that [`Labels`] made from an equal key is stored under.
    pub(super) fn hash_with(&self, state: &impl BuildHasher) -> u64 {
        state.hash_one(self)
    }
}

/// The stored copy of one key: all texts in one allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    small: Small,
    text: Box<str>,
    /// Where each text ends in `text`, in the order of [`TEXT_LABELS`].
    ends: [u32; TEXT_LABELS.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Small {
    reporter: Reporter,
    protocol: Protocol,
    security: Security,
    code: u16,
    flags: &'static str,
}

impl Labels {
    /// Copies a key.
    pub(super) fn of(key: &SeriesKey<'_>) -> Self {
        let mut text = String::new();
        let mut ends = [0; TEXT_LABELS.len()];
        for (end, part) in ends.iter_mut().zip(key.texts()) {
            text.push_str(clip(part));
            *end = text.len() as u32;
        }
        Self { small: key.small(), text: text.into(), ends }
    }

    /// Whether this is the copy of `key`.
    pub(super) fn is(&self, key: &SeriesKey<'_>) -> bool {
        self.small == key.small() && self.texts().eq(key.texts().map(clip))
    }

    /// Whether the series belongs to the TCP family.
    pub(super) fn is_tcp(&self) -> bool {
        self.small.protocol == Protocol::Tcp
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let part = &self.text[start..end as usize];
            start = end as usize;
            part
        })
    }

    /// Every label with its value, in the order in which it is shown.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let mut pairs = vec![("reporter", self.small.reporter.word().to_owned())];
        pairs.extend(TEXT_LABELS.iter().zip(self.texts()).map(|(name, text)| match *name {
            GRPC_STATUS => (GRPC_STATUS, text.to_owned()),
            name => (name, known(text)),
        }));
        pairs.push(("request_protocol", self.small.protocol.word().to_owned()));
        pairs.push(("response_flags", self.small.flags.to_owned()));
        pairs.push(("connection_security_policy", self.small.security.word().to_owned()));
        if self.is_tcp() {
            pairs.retain(|(name, _)| *name != GRPC_STATUS);
        } else {
            pairs.push(("response_code", self.small.code.to_string()));
        }
        pairs
    }
}

/// What one series counts. Only the worker that owns it writes; anyone may read.
#[derive(Debug)]
pub(super) enum Cells {
    /// Requests.
    Request(Box<RequestCells>),
    /// Opaque connections.
    Tcp(TcpCells),
}

impl Cells {
    /// Cells of the family that `protocol` belongs to.
    pub(super) fn for_protocol(protocol: Protocol) -> Self {
        if protocol == Protocol::Tcp { Self::Tcp(TcpCells::default()) } else { Self::Request(Box::default()) }
    }
}

/// The cells of a request series.
#[derive(Debug, Default)]
pub(super) struct RequestCells {
    pub(super) total: Cell,
    pub(super) duration_us: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

/// The cells of a TCP series.
#[derive(Debug, Default)]
pub(super) struct TcpCells {
    pub(super) opened: Cell,
    pub(super) closed: Cell,
    pub(super) sent_bytes: Cell,
    pub(super) received_bytes: Cell,
}

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub(super) fn sub(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(amount), Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram over [`BUCKETS`]; the cells are not cumulative, the exposition is.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) cells: [Cell; BUCKETS.len() + 1],
    pub(super) sum: Cell,
}

impl Histogram {
    /// Counts `value`, which belongs to the first bucket whose bound times `scale` is not below it.
    pub(super) fn observe(&self, value: u64, scale: u64) {
        let index = BUCKETS.partition_point(|bound| bound.tenths * scale < value.saturating_mul(10));
        self.cells[index].add(1);
        self.sum.add(value);
    }
}

/// The upper bound of a bucket, exact in tenths, with the text that Prometheus reads.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) tenths: u64,
    pub(super) text: &'static str,
}

const fn bound(tenths: u64, text: &'static str) -> Bound {
    Bound { tenths, text }
}

impl Reporter {
    fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Security {
    fn word(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// A label's text, cut to [`MAX_LABEL_BYTES`] at a character's border.
fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_LABEL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The value of every label that is no longer kept apart.
pub(super) const OTHER: &str = "other";

/// The scale of a histogram of microseconds whose bounds are milliseconds.
pub(super) const MICROS_PER_MILLI: u64 = 1_000;

/// The longest text that a label keeps.
const MAX_LABEL_BYTES: usize = 512;

const GRPC_STATUS: &str = "grpc_response_status";

/// The labels whose values are texts of the key.
const TEXT_LABELS: [&str; 20] = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    GRPC_STATUS,
];

/// Envoy's default bounds for Prometheus, in milliseconds or bytes.
pub(super) const BUCKETS: [Bound; 19] = [
    bound(5, "0.5"),
    bound(10, "1"),
    bound(50, "5"),
    bound(100, "10"),
    bound(250, "25"),
    bound(500, "50"),
    bound(1_000, "100"),
    bound(2_500, "250"),
    bound(5_000, "500"),
    bound(10_000, "1000"),
    bound(25_000, "2500"),
    bound(50_000, "5000"),
    bound(100_000, "10000"),
    bound(300_000, "30000"),
    bound(600_000, "60000"),
    bound(3_000_000, "300000"),
    bound(6_000_000, "600000"),
    bound(18_000_000, "1800000"),
    bound(36_000_000, "3600000"),
];
