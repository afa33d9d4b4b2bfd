//! From the bytes of a request head to the verdict on it: what the data plane, the command line and the tests all run.
//!
//! In: a buffer that begins with a request head, the connection's facts, a snapshot.
//! Out: `Head` (where things are in the buffer) and then a `Permit` or a `Denial`.
//! Limits: `http1_head::Limits`.  Fails: `Refusal`, with the status to answer.
//! Nothing here allocates once the scratch has grown to the largest head seen.

use std::net::IpAddr;

use meshdp_model::authz::{Denial, Permit};
use meshdp_model::facts::{ConnectionFacts, HeaderValues, RequestFacts};
use meshdp_model::jwt::Authenticated;
use meshdp_model::sections::PathNormalization;
use meshdp_model::snapshot::Snapshot;
use meshdp_proto::HeadScan;
use meshdp_proto::http1_fields::{FieldTable, Known, Span};
use meshdp_proto::http1_head::{Limits, RequestHead, parse_request};
use meshdp_proto::path::{PathMode, normalise};
use meshdp_proto::refusal::Refusal;

/// Reused between requests: header positions and the normalised target.
#[derive(Default)]
pub struct Scratch {
    /// Positions of the request's fields.
    pub fields: FieldTable,
    /// Positions of the response's fields.
    pub response_fields: FieldTable,
    /// The normalised target of the request being decided.
    pub target: Vec<u8>,
    /// Room for one composed header value.
    pub composed: Vec<u8>,
    /// What is left of the cookies that were withheld because a token lay among them.
    pub cookie: Vec<u8>,
    /// Counts reads: who remembers the number of its own knows whether another head has been read since.
    pub reads: u64,
}

/// A parsed request head; positions refer to the buffer it was read from.
#[derive(Debug, Clone)]
pub struct Head {
    /// Lengths, framing and spans.
    pub head: RequestHead,
    /// Length of the path within the normalised target; the query follows.
    pub path_len: usize,
    /// Authority of the target if it had one, else the Host field.
    pub authority: Option<Span>,
    /// The target carried its own authority, which replaces Host (RFC 9112 §3.2.2).
    pub authority_in_target: bool,
}

/// Reads the head at the start of `buffer`; `None` when it is not whole.
///
/// # Errors
/// A refusal with its status when the bytes break a rule.
pub fn read_head(
    buffer: &[u8],
    limits: &Limits,
    mode: PathMode,
    scratch: &mut Scratch,
) -> Result<Option<Head>, Refusal> {
    scratch.fields.resume(None);
    read_on(buffer, limits, mode, scratch)
}

/// As `read_head` for bytes that are still coming: `scan` is kept beside them, because the scratch serves every
/// connection of the worker between two reads of this one.
///
/// # Errors
/// A refusal with its status when the bytes break a rule.
pub(crate) fn read_head_from(
    buffer: &[u8],
    limits: &Limits,
    mode: PathMode,
    (scan, scratch): (&mut Option<HeadScan>, &mut Scratch),
) -> Result<Option<Head>, Refusal> {
    scratch.fields.resume(scan.take());
    let read = read_on(buffer, limits, mode, scratch);
    if matches!(read, Ok(None)) {
        *scan = Some(scratch.fields.suspend());
    }
    read
}

fn read_on(buffer: &[u8], limits: &Limits, mode: PathMode, scratch: &mut Scratch) -> Result<Option<Head>, Refusal> {
    scratch.reads += 1;
    scratch.cookie.clear();
    let Some(head) = parse_request(buffer, limits, &mut scratch.fields)? else { return Ok(None) };
    scratch.target.clear();
    let parts = normalise(head.target.of(buffer), mode, &mut scratch.target)?;
    let in_target = parts
        .authority
        .map(|range| Span { start: head.target.start + range.start as u32, end: head.target.start + range.end as u32 });
    Ok(Some(Head {
        authority: in_target.or(head.host),
        authority_in_target: in_target.is_some(),
        path_len: parts.path_len,
        head,
    }))
}

/// The path mode that a mesh's setting stands for.
pub fn path_mode(normalization: PathNormalization) -> PathMode {
    match normalization {
        PathNormalization::None => PathMode::None,
        PathNormalization::Base => PathMode::Base,
        PathNormalization::MergeSlashes => PathMode::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes => PathMode::DecodeAndMergeSlashes,
    }
}

/// Whether two modes make the same of a target. Allocates: for the requests that are under way at a swap of the mode.
pub(crate) fn is_normalised_alike(target: &[u8], (one, other): (PathMode, PathMode)) -> bool {
    let form = |mode| {
        let mut form = Vec::new();
        normalise(target, mode, &mut form).ok().map(|_| form)
    };
    form(one).is_some_and(|normal| form(other) == Some(normal))
}

/// A head together with the bytes it points into.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The buffer that `head` was read from.
    pub buffer: &'a [u8],
    /// The parsed head.
    pub head: &'a Head,
    /// Its fields.
    pub fields: &'a FieldTable,
    /// The normalised target.
    pub target: &'a [u8],
    /// What its tokens have shown.
    pub tokens: Option<&'a Authenticated>,
    /// What is left of cookies that were withheld.
    pub cookie: &'a [u8],
}

impl<'a> View<'a> {
    /// A head together with the text it points into; valid until the next head is read into the scratch.
    pub fn new(head: &'a Head, buffer: &'a [u8], scratch: &'a Scratch, tokens: Option<&'a Authenticated>) -> Self {
        Self { buffer, head, fields: &scratch.fields, target: &scratch.target, tokens, cookie: &scratch.cookie }
    }

    /// The request method.
    pub fn method(&self) -> &'a [u8] {
        self.head.head.method.of(self.buffer)
    }

    /// The normalised path without its query: what policy sees is what is forwarded.
    pub fn path(&self) -> &'a [u8] {
        &self.target[..self.head.path_len]
    }

    /// The authority that routing and policy use.
    pub fn authority(&self) -> &'a [u8] {
        self.head.authority.map_or(&[], |span| span.of(self.buffer))
    }

    /// The value of the first field of this kind.
    pub fn first(&self, known: Known) -> Option<&'a [u8]> {
        self.fields.iter().find(|field| field.known == known).map(|field| field.value.of(self.buffer))
    }

    /// The address policies call remote: the last element of x-forwarded-for if that is an address, else the peer
    /// (spec/istio-observed.md item 7).
    pub fn remote_ip(&self, peer: IpAddr) -> IpAddr {
        let last = self.fields.iter().rfind(|field| field.known == Known::XForwardedFor);
        last.and_then(|field| last_address(field.value.of(self.buffer))).unwrap_or(peer)
    }

    /// What policy may see of the request.
    pub fn facts(&'a self, connection: &ConnectionFacts) -> RequestFacts<'a> {
        RequestFacts {
            method: self.method(),
            path: self.path(),
            authority: self.authority(),
            remote_ip: self.remote_ip(connection.source.ip()),
            headers: self,
            claims: self.tokens.and_then(Authenticated::claims),
        }
    }

    /// Judges the request.
    ///
    /// # Errors
    /// The denial, naming the policy.
    pub fn authorize(&self, snapshot: &Snapshot, connection: &ConnectionFacts) -> Result<Permit, Denial> {
        snapshot.authorize_request(connection, &self.facts(connection))
    }
}

impl HeaderValues for View<'_> {
    fn visit(&self, name_lower: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        let whole: &[u8] = match name_lower {
            ":authority" | "host" => self.authority(),
            ":method" => self.method(),
            ":path" => self.target,
            _ => {
                // A field that Connection lists is not forwarded, so policy does not see it either.
                if self.fields.values(self.buffer, name_lower).any(&mut *each) {
                    return;
                }
                if name_lower == "cookie" && !self.cookie.is_empty() && each(self.cookie) {
                    return;
                }
                let mut added = self.tokens.into_iter().flat_map(Authenticated::headers);
                let _ = added.any(|(name, value)| name == name_lower && each(value));
                return;
            }
        };
        each(whole);
    }
}

fn last_address(list: &[u8]) -> Option<IpAddr> {
    let last = list.rsplit(|&byte| byte == b',').next()?;
    std::str::from_utf8(last).ok()?.trim_matches([' ', '\t']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_swap_of_the_mode_changes_is_not_alike() {
        let alike = |target: &[u8]| is_normalised_alike(target, (PathMode::MergeSlashes, PathMode::Base));
        assert!(alike(b"/a/b?c=//d") && alike(b"/a/../b"));
        assert!(!alike(b"/a//b") && !alike(b"//admin"));
        assert!(!is_normalised_alike(b"no path", (PathMode::None, PathMode::None)), "what cannot be read is not alike");
    }

    #[test]
    fn the_last_forwarded_address_counts() {
        assert_eq!(last_address(b"1.1.1.1, 2.2.2.2"), "2.2.2.2".parse().ok());
        assert_eq!(last_address(b"1.1.1.1, 2.2.2.2:80"), None);
        assert_eq!(last_address(b"1.1.1.1,"), None);
        assert_eq!(last_address(b"::ffff:1.2.3.4"), "::ffff:1.2.3.4".parse().ok());
    }
}
