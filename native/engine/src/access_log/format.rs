//! Formats one entry as text or JSON into a buffer, without allocating.

use super::Entry;

#[derive(Debug, Default)]
pub(super) struct Clock {}

pub(super) fn text(_out: &mut Vec<u8>, _clock: &mut Clock, _entry: &Entry<'_>) {}
pub(super) fn json(_out: &mut Vec<u8>, _clock: &mut Clock, _entry: &Entry<'_>) {}
