//! Patterns: regular expressions and path templates into matchers of whole byte strings, linear in the text.
//!
//! In:      texts of policy values, from `matching` and `reference`.      Out: `Pattern`.
//! Limits:  `PATTERN_SIZE_LIMIT_BYTES` compiled.
//! Fails:   a sentence, which becomes `SnapshotError::SectionMalformed`.
//! Source:  istio-semantics D.3; RFC 3986 3.3 (`pchar`); RE2 syntax, of which `regex` takes what Istio's compiler
//!          emits.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// A compiled pattern. It matches whole texts only.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Compiles a regular expression.
    pub(crate) fn regex(expression: &str, fold_case: bool) -> Result<Self, String> {
        // First alone: `a)|(b` is no expression, and inside the group below it would become one that is not anchored.
        build(expression)?;
        // The flag is part of the text, so that a list of patterns is built with it too.
        let flag = if fold_case { "(?i)" } else { "" };
        build(&format!(r"{flag}\A(?:{expression})\z")).map(Self)
    }

    /// Compiles a path template: `{*}` is one segment that is not empty, `{**}` any number of bytes of a path.
    pub(crate) fn template(template: &str) -> Result<Self, String> {
        let segments =
            template.strip_prefix('/').ok_or_else(|| format!("the template {template:?} starts with '/'"))?;
        let mut expression = r"\A".to_owned();
        let mut ended = false;
        for segment in segments.split('/') {
            expression.push('/');
            let operator = matches!(segment, "{*}" | "{**}");
            if operator && ended {
                return Err(format!("in the template {template:?} nothing but text follows {{**}}"));
            }
            match segment {
                "{*}" => expression.push_str(SEGMENT),
                "{**}" => expression.push_str(ANY_PATH),
                text if text.bytes().all(is_literal_byte) => expression.push_str(&regex::escape(text)),
                _ => {
                    return Err(format!("the template {template:?} holds {{*}}, {{**}} or plain text between slashes"));
                }
            }
            ended |= segment == "{**}";
        }
        expression.push_str(r"\z");
        build(&expression).map(Self)
    }

    /// Whether the whole text matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

/// Many patterns, of which usually none matches: an automaton of many says so before each is asked.
#[derive(Debug)]
pub(crate) struct PatternList<T> {
    patterns: Vec<(Pattern, T)>,
    parts: Vec<Part>,
}

/// Patterns beside one another with their automaton; without one each is asked.
#[derive(Debug)]
struct Part {
    range: Range<usize>,
    any: Option<RegexSet>,
}

impl<T> PatternList<T> {
    /// Takes patterns with what they stand for.
    pub(crate) fn new(patterns: Vec<(Pattern, T)>) -> Self {
        let expressions: Vec<&str> = patterns.iter().map(|(pattern, _)| pattern.0.as_str()).collect();
        let mut parts = Vec::new();
        if !expressions.is_empty() {
            divide(&expressions, 0..expressions.len(), &mut parts);
        }
        Self { patterns, parts }
    }

    /// What all patterns stand for.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.patterns.iter_mut().map(|(_, value)| value)
    }

    /// What the patterns that match the text stand for.
    pub(crate) fn matching<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        let possible = self.parts.iter().filter(|part| part.any.as_ref().is_none_or(|any| any.is_match(text)));
        let patterns = possible.flat_map(|part| &self.patterns[part.range.clone()]);
        patterns.filter(|(pattern, _)| pattern.matches(text)).map(|(_, value)| value)
    }
}

/// One automaton for all if it is within its bound, else for each half.
fn divide(expressions: &[&str], range: Range<usize>, parts: &mut Vec<Part>) {
    let mut builder = RegexSetBuilder::new(&expressions[range.clone()]);
    builder.unicode(false).size_limit(PATTERN_LIST_SIZE_LIMIT_BYTES).dfa_size_limit(PATTERN_LIST_SIZE_LIMIT_BYTES);
    let any = if range.len() < PATTERNS_WORTH_A_LIST { None } else { builder.build().ok() };
    if any.is_some() || range.len() < PATTERNS_WORTH_A_LIST {
        return parts.push(Part { range, any });
    }
    let middle = range.start + range.len() / 2;
    divide(expressions, range.start..middle, parts);
    divide(expressions, middle..range.end, parts);
}

/// Bytes and not code points: RE2's classes such as `\d` are ASCII, and header values need not be UTF-8.
fn build(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(PATTERN_SIZE_LIMIT_BYTES)
        .dfa_size_limit(PATTERN_SIZE_LIMIT_BYTES)
        .build()
        .map_err(|error| format!("the pattern {expression:?} does not compile: {error}"))
}

fn is_literal_byte(byte: u8) -> bool {
    byte != b'*' && (byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;=:@".contains(&byte))
}

/// One segment of RFC 3986 3.3, `segment-nz`; `%` stands for percent-encoded bytes.
const SEGMENT: &str = r"[A-Za-z0-9._~%!$&'()*+,;=:@\-]+";

/// Segments with their slashes, or nothing.
const ANY_PATH: &str = r"[A-Za-z0-9._~%!$&'()*+,;=:@\-/]*";

/// Compiled size of one pattern, and of its cache.
const PATTERN_SIZE_LIMIT_BYTES: usize = 256 << 10;

/// Compiled size of one automaton of a list.
const PATTERN_LIST_SIZE_LIMIT_BYTES: usize = 4 << 20;

const PATTERNS_WORTH_A_LIST: usize = 4;

#[cfg(test)]
#[path = "patterns_tests.rs"]
mod tests;
