//! A request target becomes the one path that policy, routing and the upstream see.
//!
//! In: the target as sent and Istio's normalisation mode. Out: `path?query` appended to the caller's buffer, fragment cut.
//! Limits: those of the request line; the output is at most three times the input. Fails: [`TargetFault`].
//! Source: Istio `pathNormalization` (Envoy: escaped slashes, then canonical path, then merged slashes), RFC 3986 6.2.2.

use crate::refusal::{Refusal, TargetFault};
use std::ops::Range;

/// Istio's path normalisation modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMode {
    /// Only the fragment is cut.
    None,
    /// Dot segments, unreserved escapes, backslashes.
    Base,
    /// `Base`, then runs of slashes become one.
    MergeSlashes,
    /// `%2f` and `%5c` are decoded first, then as `MergeSlashes`.
    DecodeAndMergeSlashes,
}

/// What [`normalise`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathParts {
    /// How many bytes of the output are the path; the rest is empty or `?query`.
    pub path_len: usize,
    /// The authority of an absolute target, as a range of the target; it wins over Host.
    pub authority: Option<Range<usize>>,
}

/// Writes the normalised `path?query` of `target` to `out`, which it clears first.
pub fn normalise(target: &[u8], mode: PathMode, out: &mut Vec<u8>) -> Result<PathParts, Refusal> {
    out.clear();
    if target == b"*" {
        return Err(Refusal::new(404, TargetFault::Asterisk));
    }
    if !target.iter().fold(true, |good, byte| good & (0x21..=0x7e).contains(byte)) {
        return Err(Refusal::new(400, TargetFault::Byte));
    }
    let (authority, origin) = split_authority(target)?;
    let origin = &origin[..memchr::memchr(b'#', origin).unwrap_or(origin.len())];
    let (path, query) = origin.split_at(memchr::memchr(b'?', origin).unwrap_or(origin.len()));
    match path {
        [] if authority.is_some() => out.push(b'/'),
        [b'/', ..] => write_path(path, mode, out)?,
        _ => return Err(Refusal::new(400, TargetFault::Form)),
    }
    let path_len = out.len();
    out.extend_from_slice(query);
    Ok(PathParts { path_len, authority })
}

/// Whether the target begins like an absolute http URL; the scheme is compared without regard to case.
pub(crate) fn has_http_scheme(target: &[u8]) -> bool {
    scheme_len(target).is_some()
}

/// Whether these bytes are a host name or address with an optional port (RFC 3986 3.2.2, without escapes and userinfo).
pub fn is_authority(bytes: &[u8]) -> bool {
    let (host_ok, port) = if let [b'[', rest @ ..] = bytes {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        (std::str::from_utf8(&rest[..end]).is_ok_and(is_ipv6), &rest[end + 1..])
    } else {
        let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
        (end > 0 && bytes[..end].iter().all(|byte| is_host_byte(*byte)), &bytes[end..])
    };
    host_ok && is_port_suffix(port)
}

/// CONNECT needs `host:port`. RFC 9112 3.2.3.
pub(crate) fn check_authority_form(target: &[u8]) -> Result<(), Refusal> {
    let with_port = target.last().is_some_and(u8::is_ascii_digit)
        && memchr::memrchr(b':', target).is_some_and(|colon| target[colon + 1..].iter().all(u8::is_ascii_digit));
    if with_port && is_authority(target) { Ok(()) } else { Err(Refusal::new(400, TargetFault::Form)) }
}

/// Splits `http://authority` off an absolute target.
fn split_authority(target: &[u8]) -> Result<(Option<Range<usize>>, &[u8]), Refusal> {
    let Some(start) = scheme_len(target) else { return Ok((None, target)) };
    let end = target[start..]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .map_or(target.len(), |at| start + at);
    // A fragment right after the authority leaves origins to disagree about where the host ends.
    if !is_authority(&target[start..end]) || target.get(end) == Some(&b'#') {
        return Err(Refusal::new(400, TargetFault::Authority));
    }
    Ok((Some(start..end), &target[end..]))
}

fn scheme_len(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme))
        .map(<[u8]>::len)
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
        )
}

fn is_port_suffix(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0, |port: u32, digit| port * 10 + u32::from(digit - b'0')) <= 65_535
        }
        _ => false,
    }
}

fn write_path(path: &[u8], mode: PathMode, out: &mut Vec<u8>) -> Result<(), Refusal> {
    if mode == PathMode::None || is_plain(path) {
        out.extend_from_slice(path);
        return Ok(());
    }
    let mut writer = PathWriter { out, lone_percent: None, segment_start: 1 };
    writer.write(path, mode == PathMode::DecodeAndMergeSlashes)?;
    if matches!(mode, PathMode::MergeSlashes | PathMode::DecodeAndMergeSlashes) {
        merge_slashes(out);
    }
    Ok(())
}

/// Makes one slash of each run. A path of nothing but slashes keeps two, its first and its last, as in Envoy.
fn merge_slashes(out: &mut Vec<u8>) {
    let only_slashes = out.len() > 1 && out.iter().all(|byte| *byte == b'/');
    out.dedup_by(|later, earlier| *later == b'/' && *earlier == b'/');
    if only_slashes {
        out.push(b'/');
    }
}

/// Whether no rule of any mode can change this path: the common case is one pass and one copy.
fn is_plain(path: &[u8]) -> bool {
    path.iter().all(|byte| PASSES[*byte as usize] && *byte != b'%')
        && !path.windows(2).any(|pair| matches!(pair, [b'/', b'.' | b'/']))
}

struct PathWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Where the last `%` stands that begins no escape.
    lone_percent: Option<usize>,
    /// Where the current segment begins in `out`.
    segment_start: usize,
}

impl PathWriter<'_> {
    fn write(&mut self, path: &[u8], decode_slashes: bool) -> Result<(), Refusal> {
        let mut at = 0;
        while at < path.len() {
            let (byte, width) = match escape_at(path, at) {
                Some(0) => return Err(Refusal::new(400, TargetFault::Normalisation)),
                Some(decoded) => (decoded, 3),
                None => (path[at], 1),
            };
            let rest = &path[at + width..];
            match byte {
                b'/' | b'\\' if width == 1 || decode_slashes => self.end_segment(true),
                b'%' if width == 1 => {
                    self.lone_percent = Some(self.out.len());
                    self.out.push(b'%');
                }
                _ if width == 3 && is_unreserved(byte) => self.push_decoded(byte, rest),
                _ if width == 3 => self.out.extend_from_slice(&path[at..at + 3]),
                _ if PASSES[byte as usize] => self.out.push(byte),
                _ => self.push_escaped(byte),
            }
            at += width;
        }
        self.end_segment(false);
        Ok(())
    }

    /// Resolves `.` and `..` now that the segment is whole, then begins the next one. RFC 3986 5.2.4.
    /// Parameters on a dot segment do not hide it (Envoy since CVE-2026-73551); on any other segment they stay.
    fn end_segment(&mut self, slash: bool) {
        if self.out.is_empty() {
            self.out.push(b'/');
            return;
        }
        match &self.out[self.segment_start..] {
            b"." | [b'.', b';', ..] => self.out.truncate(self.segment_start),
            b".." | [b'.', b'.', b';', ..] => self.leave_segment(),
            _ if slash => self.out.push(b'/'),
            _ => {}
        }
        self.segment_start = self.out.len();
        self.lone_percent = None;
    }

    /// Removes the current segment and the one before it, never the root.
    fn leave_segment(&mut self) {
        let parent = &self.out[..self.segment_start - 1];
        let keep = memchr::memrchr(b'/', parent).map_or(1, |slash| slash + 1);
        self.out.truncate(keep);
    }

    /// Writes a decoded byte; where it would complete an escape begun by a lone `%`, that `%` becomes `%25`, so that
    /// nothing is decoded twice.
    fn push_decoded(&mut self, byte: u8, rest: &[u8]) {
        self.out.push(byte);
        let Some(percent) = self.lone_percent else { return };
        let nested = match self.out.len() - percent {
            2 => byte.is_ascii_hexdigit() && rest.first().is_some_and(u8::is_ascii_hexdigit),
            3 => self.out[percent + 1].is_ascii_hexdigit() && byte.is_ascii_hexdigit(),
            _ => false,
        };
        if nested {
            self.out.splice(percent..=percent, *b"%25");
        }
    }

    fn push_escaped(&mut self, byte: u8) {
        self.out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// The byte that `%hh` at this place stands for.
fn escape_at(path: &[u8], at: usize) -> Option<u8> {
    match path.get(at..at + 3)? {
        [b'%', high, low] => Some(hex_value(*high)? << 4 | hex_value(*low)?),
        _ => None,
    }
}

fn hex_value(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Bytes that stand in a path as they are; the others are percent-encoded. What Envoy's URL library encodes.
const PASSES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(byte as u8, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        byte += 1;
    }
    table
};
