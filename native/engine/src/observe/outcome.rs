//! How a connection or a request ended: one stable reason, the status that was answered, what moved and how long it took.
//!
//! In:      every stage that ends a connection or a request names a [`Reason`].
//! Out:     the access log, the counters, the admin answers and `docs/reasons.md` (generated, a test compares it).
//! Source:  Envoy's response flags are kept beside each reason; the rows stand in `reasons.rs`.

use std::borrow::Cow;

pub use crate::observe::reasons::Row;
use crate::observe::reasons::TABLE;

/// Why a connection or a request ended. The code of each is stable: logs, metrics and the documentation use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// It ended as its two ends wanted.
    Completed,
    /// The downstream went away before the end.
    DownstreamClosed,
    /// Nothing moved for the idle time-out.
    IdleTimeout,
    /// No protocol could be told in time from the first bytes.
    SniffTimeout,
    /// A request head or body did not arrive in time.
    RequestTimeout,
    /// The request broke the framing or the grammar.
    MalformedRequest,
    /// The request head is larger than what is accepted.
    RequestHeadTooLarge,
    /// The TLS handshake with the downstream failed.
    DownstreamTlsFailed,
    /// The downstream showed no certificate where one is demanded.
    DownstreamTlsNoCertificate,
    /// The downstream's certificate was not accepted.
    DownstreamTlsUntrusted,
    /// The downstream did not finish its handshake in time.
    DownstreamTlsTimeout,
    /// No filter chain of the port takes this connection (for example plaintext under STRICT).
    FilterChainNotFound,
    /// A policy denied it.
    RbacDenied,
    /// Its token is not accepted.
    TokenRefused,
    /// It lost its permit when the configuration changed.
    PolicyChanged,
    /// The peer's certificate no longer leads to a root that is trusted.
    TrustChanged,
    /// No rule of the service matches the request.
    NoRoute,
    /// The route names a cluster that does not exist.
    ClusterNotFound,
    /// The destination is not in the registry and the mesh says `REGISTRY_ONLY`.
    RegistryOnlyBlocked,
    /// The destination is this very sidecar.
    LoopRefused,
    /// The kernel could not say where the connection was going.
    OriginalDestinationUnknown,
    /// No configuration is in force yet.
    NoConfiguration,
    /// The sidecar has no certificate yet.
    NotReady,
    /// The sidecar's own certificate has expired.
    CredentialsExpired,
    /// A bound on connections or memory was reached.
    Overload,
    /// The sidecar is draining.
    Drain,
    /// The operation is not supported here (an upgrade, a method).
    Unsupported,
    /// An invariant of ours broke.
    Bug,
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// The connection to the upstream could not be made.
    UpstreamConnectFailed,
    /// The connection to the upstream was not made in time.
    UpstreamConnectTimeout,
    /// The TLS handshake with the upstream failed.
    UpstreamTlsFailed,
    /// The upstream's certificate was not accepted.
    UpstreamTlsUntrusted,
    /// The upstream proved an identity that is not among the expected ones.
    UpstreamTlsIdentity,
    /// The upstream did not finish its handshake in time.
    UpstreamTlsTimeout,
    /// What TLS with the upstream needs cannot be used.
    UpstreamTlsUnusable,
    /// The upstream closed before it answered.
    UpstreamResetBeforeResponse,
    /// The upstream closed in the middle of its answer.
    UpstreamClosedMidResponse,
    /// The upstream's answer broke the framing or the grammar.
    MalformedResponse,
    /// The upstream did not answer in time.
    UpstreamTimeout,
}

impl Reason {
    /// How many reasons exist.
    pub const COUNT: usize = TABLE.len();

    /// Every reason, in the order of the table.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|row| row.reason)
    }

    /// The row of the table that describes this reason.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The stable code, in snake case.
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// Envoy's response flags for an HTTP request that ended so; `-` when Envoy has none.
    pub fn flags(self) -> &'static str {
        self.row().flags_http
    }

    /// Envoy's response flags for an opaque connection that ended so.
    pub fn flags_tcp(self) -> &'static str {
        self.row().flags_tcp
    }

    /// The status that is answered when the answer is ours and not yet begun; 0 when none can be.
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// Who caused it.
    pub fn side(self) -> Side {
        self.row().side
    }

    /// Whether another endpoint may be tried, provided that the request itself may be repeated.
    pub fn retryable(self) -> bool {
        self.row().retryable
    }
}

/// Who caused an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer that connected to us.
    Downstream,
    /// The peer we connected to.
    Upstream,
    /// This sidecar and its configuration.
    Local,
}

impl Side {
    /// The word used in documents and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Local => "local",
        }
    }
}

/// How one connection or one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// The HTTP status the downstream saw; 0 when it saw none.
    pub status: u16,
    /// What a person needs beside the reason: the policy that denied, the rule of grammar that was broken.
    pub detail: Cow<'static, str>,
    /// Bytes received from the downstream (bodies for a request).
    pub bytes_in: u64,
    /// Bytes sent to the downstream (bodies for a request).
    pub bytes_out: u64,
    /// From the first byte to the end, in microseconds.
    pub duration_us: u64,
    /// How a call of gRPC ended, by its own account or by ours.
    pub grpc_status: Option<u8>,
}

impl Outcome {
    /// An outcome with the reason's own status, no detail and nothing moved.
    pub fn of(reason: Reason) -> Self {
        let (status, detail) = (reason.status(), Cow::Borrowed(""));
        Self { reason, status, detail, bytes_in: 0, bytes_out: 0, duration_us: 0, grpc_status: None }
    }

    /// The same with a detail; a literal costs no allocation.
    #[must_use]
    pub fn because(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same with the status that the downstream really saw.
    #[must_use]
    pub fn answered(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

/// The documentation page of all reasons, in Markdown.
pub fn reasons_page() -> String {
    let mut page = String::from(PAGE_HEAD);
    for row in &TABLE {
        page.push_str(&row_text(row));
    }
    page
}

fn row_text(row: &Row) -> String {
    let flags = if row.flags_http == row.flags_tcp {
        format!("`{}`", row.flags_http)
    } else {
        format!("`{}` (TCP `{}`)", row.flags_http, row.flags_tcp)
    };
    let status = if row.status == 0 { "none".to_owned() } else { row.status.to_string() };
    let retry = if row.retryable { "yes" } else { "no" };
    format!(
        "\n## `{}`\n\n{}\n\n* Cause: {}. Answer: {status}. Envoy's flags: {flags}. Another endpoint may be tried: {retry}.\n* {}\n",
        row.code,
        row.sentence,
        row.side.word(),
        row.cure
    )
}

const PAGE_HEAD: &str = "# Reasons: how a connection or a request ended

Generated from the table in `native/engine/src/observe/reasons.rs` by `MESHDP_WRITE=1 cargo test -p meshdp-engine reasons_page`; do not edit.
The code stands in the access log, in the metrics (`meshdp_connections_total{reason}`) and in the admin answers. Codes are never renamed.
\"Answer\" is the HTTP status when the answer is the sidecar's own and has not begun; opaque connections are closed.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum_and_codes_are_unique() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.reason as usize, index, "{} is out of order", row.code);
            assert!(row.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{} is not snake case", row.code);
            assert!(row.sentence.ends_with('.') && row.cure.ends_with('.'), "{} lacks a sentence", row.code);
            assert_eq!(TABLE.iter().filter(|other| other.code == row.code).count(), 1, "{} stands twice", row.code);
        }
        assert_eq!(Reason::COUNT, Reason::UpstreamTimeout as usize + 1);
    }

    #[test]
    fn only_upstream_and_local_ends_may_be_retried() {
        for row in TABLE.iter().filter(|row| row.retryable) {
            assert_ne!(row.side, Side::Downstream, "{}", row.code);
        }
        assert!(!Reason::RbacDenied.retryable() && !Reason::UpstreamClosedMidResponse.retryable());
    }

    #[test]
    fn the_reasons_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");
        if std::env::var_os("MESHDP_WRITE").is_some() {
            std::fs::write(path, reasons_page()).expect("docs/reasons.md is writable");
        }
        let written = std::fs::read_to_string(path).expect("docs/reasons.md exists");
        assert_eq!(written, reasons_page(), "run MESHDP_WRITE=1 cargo test -p meshdp-engine reasons_page");
    }

    #[test]
    fn an_outcome_starts_from_the_reason() {
        let outcome = Outcome::of(Reason::RbacDenied).because("default/details-viewer");
        assert_eq!((outcome.status, outcome.reason.code(), outcome.reason.flags()), (403, "rbac_denied", "-"));
        assert_eq!(Outcome::of(Reason::Completed).answered(204).status, 204);
    }
}
