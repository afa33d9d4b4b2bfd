//! What waits to be sent on an HTTP/1.1 connection: a head, and pieces of a body in their framing.
//!
//! In: an encoded head, payload appended in place.  Out: bytes handed to the stream, head and first piece in one write.
//! Limits: one piece; what was sent is forgotten, unless it may have to be sent again.
//! Fails: with the stream's error.
//! A chunk's size is known only behind its payload: room is left in front of it, and the head moves up to close the gap.

use std::io;
use std::task::{Context, Poll, ready};

use crate::http::transfer::Piece;
use crate::stream::Stream;

/// The bytes under way in one direction.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// Where they begin: behind the gap that the first chunk's size has left.
    start: usize,
    sent: usize,
    /// Where the payload of the piece begins.
    payload: usize,
    /// Bytes of it.
    count: usize,
    chunked: bool,
    /// Nothing but a head waits.
    only_head: bool,
    /// What was sent is kept, in case that it must be sent again.
    kept: bool,
    /// Handed to the kernel.
    flushed: bool,
    written: u64,
}

impl Outgoing {
    /// Begins with `bytes`. `kept`: they stay when they are sent, and the whole body if it is one piece, until
    /// [`Outgoing::forget`].
    pub(crate) fn new(bytes: Vec<u8>, kept: bool) -> Self {
        let (start, sent, payload, count, written) = (0, 0, 0, 0, 0);
        Self { bytes, start, sent, payload, count, chunked: false, only_head: false, kept, flushed: false, written }
    }

    /// The buffer that a head is to be appended to; pieces that follow are framed as chunks, or not at all.
    pub(crate) fn begin_head(&mut self, chunked: bool) -> &mut Vec<u8> {
        (self.chunked, self.only_head, self.flushed) = (chunked, true, false);
        &mut self.bytes
    }

    /// Nothing waits, or nothing but a head that the next piece may go with.
    pub(crate) fn hungry(&self) -> bool {
        self.only_head || self.sent == self.bytes.len()
    }

    /// The buffer that payload is to be appended to.
    pub(crate) fn open_piece(&mut self) -> &mut Vec<u8> {
        if !self.kept {
            self.forget();
        }
        self.payload = self.bytes.len();
        if self.chunked {
            self.payload += SIZE_ROOM;
            self.bytes.resize(self.payload, 0);
        }
        &mut self.bytes
    }

    /// Frames what was appended; how many bytes that was.
    pub(crate) fn close_piece(&mut self, piece: Piece, trailers: &[u8]) -> usize {
        let count = self.bytes.len() - self.payload;
        self.count = count;
        let last = piece == Piece::Last;
        self.kept &= last || count == 0;
        if self.chunked {
            if count > 0 {
                self.frame_chunk(count);
            } else {
                self.bytes.truncate(self.payload - SIZE_ROOM);
            }
            if last {
                self.bytes.extend_from_slice(b"0\r\n");
                self.bytes.extend_from_slice(trailers);
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
        if count > 0 || last {
            (self.only_head, self.flushed) = (false, false);
        }
        count
    }

    /// Forgets what was sent.
    pub(crate) fn forget(&mut self) {
        self.kept = false;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            (self.start, self.sent) = (0, 0);
        }
    }

    /// Ready once everything is with the kernel.
    pub(crate) fn poll_sent(&mut self, context: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        if self.flushed || self.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.bytes.len() {
            match ready!(stream.poll_write(context, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.sent += count;
                    self.written += count as u64;
                    // What is half sent takes nothing in front of its rest.
                    self.only_head = false;
                }
            }
        }
        ready!(stream.poll_flush(context))?;
        self.flushed = true;
        if !self.kept {
            self.forget();
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes handed to the stream.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Takes the buffer.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        (self.start, self.sent) = (0, 0);
        std::mem::take(&mut self.bytes)
    }

    /// Takes the buffer with nothing in it but the payload of the one piece that there was.
    pub(crate) fn take_payload(&mut self) -> Vec<u8> {
        self.bytes.truncate(self.payload + self.count);
        self.bytes.drain(..self.payload.min(self.bytes.len()));
        self.take()
    }

    /// Writes the size in front of the payload, against it, and moves what stands before up to it.
    fn frame_chunk(&mut self, count: usize) {
        let mut size = [0; SIZE_ROOM];
        let mut at = SIZE_ROOM - 2;
        size[at..].copy_from_slice(b"\r\n");
        let mut left = count;
        while left > 0 || at == SIZE_ROOM - 2 {
            at -= 1;
            size[at] = b"0123456789abcdef"[left & 15];
            left >>= 4;
        }
        let head_end = self.payload - SIZE_ROOM;
        self.bytes.copy_within(self.start..head_end, self.start + at);
        self.bytes[head_end + at..self.payload].copy_from_slice(&size[at..]);
        self.start += at;
        self.sent += at;
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Room for the size of a chunk and its line end: a piece is far below 2^32 bytes.
const SIZE_ROOM: usize = 10;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn sockets() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it accepts");
        (Stream::Plain(near), listener.accept().await.expect("it came").0)
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime").block_on(test);
    }

    /// Sends all that waits, and says what arrives at the other end.
    async fn sent(outgoing: &mut Outgoing, near: &mut Stream, far: &TcpStream) -> String {
        poll_fn(|context| outgoing.poll_sent(context, near)).await.expect("it takes them");
        let mut told = vec![0; 4_096];
        far.readable().await.expect("there is something");
        let count = far.try_read(&mut told).expect("there is something");
        String::from_utf8_lossy(&told[..count]).into_owned()
    }

    fn piece(outgoing: &mut Outgoing, payload: &[u8], piece: Piece) {
        outgoing.open_piece().extend_from_slice(payload);
        assert_eq!(outgoing.close_piece(piece, b""), payload.len());
    }

    #[test]
    fn a_head_leaves_with_the_first_chunk_and_sizes_have_no_padding() {
        run(async {
            let (mut near, far) = sockets().await;
            let mut outgoing = Outgoing::new(Vec::new(), false);
            outgoing.begin_head(true).extend_from_slice(b"HEAD\r\n\r\n");
            assert!(outgoing.hungry());
            piece(&mut outgoing, b"", Piece::Part);
            piece(&mut outgoing, b"hello", Piece::Part);
            assert!(!outgoing.hungry());
            assert_eq!(sent(&mut outgoing, &mut near, &far).await, "HEAD\r\n\r\n5\r\nhello\r\n");
            piece(&mut outgoing, &[b'a'; 0x123], Piece::Part);
            let chunk = sent(&mut outgoing, &mut near, &far).await;
            assert!(chunk.starts_with("123\r\naaa") && chunk.ends_with("aaa\r\n"), "{chunk}");
            outgoing.open_piece();
            assert_eq!(outgoing.close_piece(Piece::Last, b"x: 1\r\n"), 0);
            assert_eq!(sent(&mut outgoing, &mut near, &far).await, "0\r\nx: 1\r\n\r\n");
        });
    }

    #[test]
    fn a_piece_that_is_kept_can_be_taken_again_after_it_was_sent() {
        run(async {
            for (chunked, framed) in [(true, "2\r\nab\r\n0\r\n\r\n"), (false, "ab")] {
                let (mut near, far) = sockets().await;
                let mut outgoing = Outgoing::new(b"HEAD ".to_vec(), true);
                outgoing.begin_head(chunked);
                assert_eq!(sent(&mut outgoing, &mut near, &far).await, "HEAD ");
                piece(&mut outgoing, b"ab", Piece::Last);
                assert_eq!(sent(&mut outgoing, &mut near, &far).await, framed);
                assert_eq!(outgoing.take_payload(), b"ab");
            }
        });
    }
}
