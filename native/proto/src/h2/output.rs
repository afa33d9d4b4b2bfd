//! The bytes that wait to be written, and how many of them the peer provoked.
//!
//! Limits: DATA stops at [`WATERMARK`]; answers to PING, SETTINGS and faults that wait at the same time are at most
//! [`MAX_REPLIES`]; heads and credit are bounded by the streams. Fails: [`Output::reply`]. Source: CVE-2019-9512, 9515.

/// DATA is appended while less than this waits.
pub(super) const WATERMARK: usize = 64 * 1024;
/// How many frames that the peer provoked may wait to be written.
const MAX_REPLIES: u32 = 1_000;

/// A buffer with a front.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    at: usize,
    /// Replies appended before `mark` and behind it; the first are forgotten when all bytes up to `mark` are written.
    replies: [u32; 2],
    /// Where in `bytes` the younger replies begin.
    mark: usize,
}

impl Output {
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Counts a reply that is about to be appended; false when too many wait.
    #[must_use]
    pub(super) fn reply(&mut self) -> bool {
        self.replies[1] += 1;
        self.replies[0] + self.replies[1] <= MAX_REPLIES
    }

    /// The first `n` bytes were written.
    pub(super) fn sent(&mut self, n: usize) {
        self.at += n;
        assert!(self.at <= self.bytes.len(), "wrote more than there was");
        if self.at >= self.mark {
            self.replies = [self.replies[1], 0];
            self.mark = self.bytes.len();
        }
        if self.at == self.bytes.len() {
            self.bytes.clear();
            (self.at, self.mark, self.replies) = (0, 0, [0, 0]);
        } else if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.mark -= self.at;
            self.at = 0;
        }
    }
}
