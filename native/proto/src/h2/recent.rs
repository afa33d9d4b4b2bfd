//! How the streams ended that have no slot any more: for frames that are late, and for frames that should not be.
//!
//! Limits: [`OURS`] and [`THEIRS`] identifiers; nothing is allocated before the first reset. What is older is forgotten
//! and treated like a stream that we reset long ago. Source: RFC 9113 5.1 (closed).

use super::error::StreamId;

/// How many streams that we reset are remembered: frames of theirs may be under way.
const OURS: usize = 128;
/// How many streams that the peer ended or reset are remembered: frames on them are its fault.
const THEIRS: usize = 16;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides ended it: anything but late `WINDOW_UPDATE` and `RST_STREAM` is a fault of the connection.
    Complete,
    /// The peer reset it: DATA and HEADERS are faults.
    ByPeer,
    /// We reset it: frames may be late.
    ByUs,
}

/// The last streams that ended, in rings.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ours: Vec<StreamId>,
    ours_next: usize,
    theirs: [(u32, bool); THEIRS],
    theirs_next: usize,
}

impl Recent {
    pub(super) fn note(&mut self, id: StreamId, ended: Ended) {
        match ended {
            Ended::ByUs if self.ours.len() < OURS => self.ours.push(id),
            Ended::ByUs => {
                self.ours[self.ours_next] = id;
                self.ours_next = (self.ours_next + 1) % OURS;
            }
            Ended::Complete | Ended::ByPeer => {
                self.theirs[self.theirs_next] = (id.0, ended == Ended::ByPeer);
                self.theirs_next = (self.theirs_next + 1) % THEIRS;
            }
        }
    }

    pub(super) fn find(&self, id: StreamId) -> Option<Ended> {
        if let Some((_, reset)) = self.theirs.iter().find(|(theirs, _)| *theirs == id.0) {
            return Some(if *reset { Ended::ByPeer } else { Ended::Complete });
        }
        self.ours.contains(&id).then_some(Ended::ByUs)
    }

    /// Whether this stream may be one that we reset before those that are remembered.
    pub(super) fn may_have_forgotten(&self, id: StreamId) -> bool {
        self.ours.len() == OURS && self.ours.iter().all(|ours| id < *ours)
    }
}
