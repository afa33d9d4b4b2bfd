//! One TLS connection over one socket: ciphertext to plaintext and back, without a buffer while idle.
//!
//! In: readiness of the socket. Out: plaintext appended to the caller's buffer, records written to the socket.
//! Limits: one socket read at a time (`READ_BYTES`), one sealed batch at a time (`BATCH_BYTES`), `PENDING_BYTES` of one
//! unfinished record or handshake message. Nothing new is sealed before the last batch is in the socket.
//! Fails: with an `io::Error` that carries a [`TlsFailure`]; a FIN without `close_notify` is `UnexpectedEof`, never an end.
//! Source: RFC 8446 section 6.1 (closure), attack cases TL-18, TL-22, TL-23.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::failure::TlsFailure;
use super::session::{Advance, Opened, RECORD_PLAINTEXT, Sealed, Session};
use super::verify::RootId;
use crate::stream::{nothing_arrived, uninterrupted};

/// A TLS connection. Both directions are polled by one task. It lives in a box from its start: the futures that carry it
/// through its handshake would otherwise keep room for it for ever.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Session,
    /// Received bytes of an unfinished record or handshake message; no capacity when there are none.
    unfinished: Vec<u8>,
    /// Opened plaintext beyond what the reader asked for; no capacity when there is none.
    plaintext: Vec<u8>,
    /// Sealed bytes that the socket did not take yet; no capacity when there are none.
    sealed: Vec<u8>,
    peer_closed: bool,
    /// Nothing more may be sealed: we ended our side, or a sealed byte was lost with the socket.
    closing: bool,
    /// What ended the session. Its buffers may be out of step with rustls then, so nothing is opened any more.
    broken: Option<TlsFailure>,
    /// The mesh's root that the peer's chain led to, and its last second; a server outside the mesh proves none.
    proof: Option<(RootId, u64)>,
}

impl TlsStream {
    /// `prefix` is what was read from the socket before, by the sniffer.
    pub(crate) fn new(tcp: TcpStream, session: Session, prefix: Vec<u8>) -> Box<Self> {
        Box::new(Self {
            tcp,
            session,
            unfinished: prefix,
            plaintext: Vec::new(),
            sealed: Vec::new(),
            peer_closed: false,
            closing: false,
            broken: None,
            proof: None,
        })
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The protocol both agreed on, if any.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.alpn()
    }

    /// Notes what the handshake proved of the peer.
    pub(crate) fn proven(&mut self, root: RootId, until_unix: u64) {
        self.proof = Some((root, until_unix));
    }

    /// The mesh's root that the peer's chain led to, and the last second of the peer's certificate.
    pub(crate) fn proof(&self) -> Option<(&RootId, u64)> {
        self.proof.as_ref().map(|(root, until_unix)| (root, *until_unix))
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Runs the handshake to its end, ours flushed.
    pub(crate) async fn handshake(&mut self) -> Result<(), TlsFailure> {
        poll_fn(|cx| Poll::Ready(self.begin(cx))).await?;
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Opens the prefix, which may already hold a whole `ClientHello`; a client seals its own.
    fn begin(&mut self, cx: &mut Context<'_>) -> Result<(), TlsFailure> {
        let mut prefix = std::mem::take(&mut self.unfinished);
        let begun = self.open(&mut prefix, &mut Vec::new(), 0);
        if begun.is_err() {
            // The alert goes out if the socket takes it now; nobody waits for it.
            let _ = self.poll_flush(cx);
        }
        begun
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsFailure>> {
        loop {
            let flushed = match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.last_words(cx).unwrap_or(error.into()))),
                flushing => flushing.is_ready(),
            };
            if !self.session.is_handshaking() && flushed {
                return Poll::Ready(Ok(()));
            }
            if self.peer_closed {
                return Poll::Ready(Err(TlsFailure::PeerClosed));
            }
            if self.session.is_handshaking() {
                ready!(self.poll_fill(cx, &mut Vec::new(), 0))?;
            } else {
                return Poll::Pending;
            }
        }
    }

    /// Where a write fails, the peer may have said why.
    fn last_words(&mut self, cx: &mut Context<'_>) -> Option<TlsFailure> {
        match self.poll_fill(cx, &mut Vec::new(), 0) {
            Poll::Ready(Err(said)) => Some(said.into()),
            _ => None,
        }
    }

    /// Appends at most `limit` bytes to `buf`; 0 means that the peer ended its side with `close_notify`.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(limit > 0, "a read of nothing would look like the end");
        let start = buf.len();
        if !self.plaintext.is_empty() {
            take_front(&mut self.plaintext, buf, limit);
        }
        while buf.len() == start && !self.peer_closed {
            let filled = ready!(self.poll_fill(cx, buf, limit));
            // What came before an error is delivered before it; the next read says it again.
            if buf.len() == start {
                filled?;
            }
        }
        Poll::Ready(Ok(buf.len() - start))
    }

    /// Seals at most `BATCH_PLAINTEXT` of `bytes` and offers them to the socket; what it does not take waits for
    /// [`TlsStream::poll_flush`] or the next write.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let batch = &bytes[..bytes.len().min(BATCH_PLAINTEXT)];
        let sealing = lend(&WRITE_BUFFER, |sealed| {
            sealed.clear();
            self.seal(sealed, |session, records, opened, sealed| session.seal(batch, records, opened, sealed))?;
            let sent = poll_send(&mut self.tcp, cx, sealed.records())?;
            hold_back(&mut self.sealed, &sealed.records()[sent..]);
            Ok(batch.len())
        });
        self.closing |= sealing.is_err();
        Poll::Ready(sealing)
    }

    /// Brings every sealed byte into the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sealed.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let sending = poll_send(&mut self.tcp, cx, &self.sealed);
        match sending {
            Ok(sent) if sent < self.sealed.len() => {
                self.sealed.drain(..sent);
                return Poll::Pending;
            }
            Ok(_) => {}
            Err(_) => self.closing = true,
        }
        give_spare(&mut self.sealed);
        Poll::Ready(sending.map(drop))
    }

    /// Ends our side: `close_notify`, then FIN. Reading may go on.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            let mut sealed = Sealed::default();
            self.seal(&mut sealed, Session::close)?;
            self.sealed.extend_from_slice(sealed.records());
        }
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Whether a pool may keep this connection: open both ways and not a byte under way.
    pub(crate) fn is_idle_clean(&self) -> bool {
        let open = !self.peer_closed && !self.closing && self.broken.is_none();
        let quiet = self.unfinished.is_empty() && self.plaintext.is_empty() && self.sealed.is_empty();
        open && quiet && nothing_arrived(&self.tcp)
    }

    /// Reads once from the socket and opens what came. Ready does not promise plaintext: it may have been a fragment.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut Vec<u8>, limit: usize) -> Poll<io::Result<()>> {
        if let Some(failure) = &self.broken {
            return Poll::Ready(Err(failure.clone().into()));
        }
        let read = lend(&READ_BUFFER, |lent| {
            let kept = self.unfinished.len();
            let want = kept + READ_BYTES.min(limit.max(RECORD_PLAINTEXT) + RECORD_EXTRA);
            lent.resize(lent.len().max(want), 0);
            lent[..kept].copy_from_slice(&self.unfinished);
            let read = match poll_socket(&mut self.tcp, cx, &mut lent[kept..want]) {
                Poll::Ready(read) => read.map_err(TlsFailure::from)?,
                Poll::Pending => return Poll::Pending,
            };
            if read == 0 {
                return Poll::Ready(Err(TlsFailure::PeerClosed));
            }
            Poll::Ready(self.open(&mut lent[..kept + read], buf, limit))
        });
        let read = ready!(read);
        self.broken = read.as_ref().err().cloned();
        // What the protocol owes the peer, an answer or an alert, neither holds back nor fails the reader.
        let _ = self.poll_flush(cx);
        Poll::Ready(read.map_err(io::Error::from))
    }

    /// Seals by `with`, which may find records in `unfinished` that were not consumed yet.
    fn seal<F>(&mut self, sealed: &mut Sealed, with: F) -> Result<(), TlsFailure>
    where
        F: FnOnce(&mut Session, &mut [u8], &mut Opened<'_>, &mut Sealed) -> Result<Advance, TlsFailure>,
    {
        if let Some(failure) = &self.broken {
            return Err(failure.clone());
        }
        let mut opened = Opened { into: &mut Vec::new(), room: 0, overflow: &mut self.plaintext };
        match with(&mut self.session, &mut self.unfinished, &mut opened, sealed) {
            Ok(advance) => {
                self.unfinished.drain(..advance.consumed);
                self.peer_closed |= advance.closed;
                Ok(())
            }
            Err(failure) => {
                self.broken = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// Opens `received`, which starts with `unfinished`, and keeps the tail that ends no record.
    fn open(&mut self, received: &mut [u8], buf: &mut Vec<u8>, limit: usize) -> Result<(), TlsFailure> {
        let mut opened = Opened { into: buf, room: limit, overflow: &mut self.plaintext };
        let advance = lend(&WRITE_BUFFER, |sealed| {
            sealed.clear();
            let advance = self.session.advance(received, &mut opened, sealed);
            hold_back(&mut self.sealed, sealed.records());
            advance
        })?;
        self.peer_closed |= advance.closed;
        // RFC 8446 section 6.1: what follows `close_notify` is ignored.
        let tail = if self.peer_closed { &[] } else { &received[advance.consumed..] };
        if tail.len() > PENDING_BYTES {
            return Err(TlsFailure::Protocol(format!("an unfinished message of {} bytes", tail.len())));
        }
        self.unfinished.clear();
        hold_back(&mut self.unfinished, tail);
        if tail.is_empty() {
            give_spare(&mut self.unfinished);
        }
        if self.sealed.len() > SEALED_BYTES {
            return Err(TlsFailure::Protocol("the peer asks for answers and does not read them".to_owned()));
        }
        Ok(())
    }
}

/// One read. tokio remembers a short read, so the next one waits instead of asking the kernel in vain.
fn poll_socket(tcp: &mut TcpStream, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(space);
    ready!(uninterrupted(|| Pin::new(&mut *tcp).poll_read(cx, &mut space)))?;
    Poll::Ready(Ok(space.filled().len()))
}

/// Writes until the socket is full (the waker is then registered) or `bytes` are gone; the count written.
fn poll_send(tcp: &mut TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match uninterrupted(|| Pin::new(&mut *tcp).poll_write(cx, &bytes[sent..])) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(count)) => sent += count,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(sent)
}

/// Keeps bytes until the next read or write, in a spare buffer of the worker if there is one.
fn hold_back(kept: &mut Vec<u8>, bytes: &[u8]) {
    if kept.capacity() == 0 && !bytes.is_empty() {
        *kept = SPARE.with_borrow_mut(|spare| spare.pop().unwrap_or_default());
    }
    kept.extend_from_slice(bytes);
}

/// Leaves `kept` without capacity.
fn give_spare(kept: &mut Vec<u8>) {
    let mut buffer = std::mem::take(kept);
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if buffer.capacity() > 0 && spare.len() < SPARES {
            spare.push(buffer);
        }
    });
}

fn take_front(from: &mut Vec<u8>, into: &mut Vec<u8>, limit: usize) {
    if from.len() <= limit {
        into.append(from);
        *from = Vec::new();
    } else {
        into.extend_from_slice(&from[..limit]);
        from.drain(..limit);
    }
}

thread_local! {
    /// The worker's buffer for ciphertext that was just read. It is back before any poll returns.
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The worker's buffer for records that are written at once.
    static WRITE_BUFFER: Cell<Sealed> = Cell::default();
    /// Empty buffers that held what a socket did not take, or an unfinished record.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn lend<B: Default, T>(pool: &'static LocalKey<Cell<B>>, with: impl FnOnce(&mut B) -> T) -> T {
    let mut buffer = pool.take();
    let result = with(&mut buffer);
    pool.set(buffer);
    result
}

/// Spare buffers of a worker, each of at most `SEALED_BYTES`.
const SPARES: usize = 8;
/// The most ciphertext of one socket read.
const READ_BYTES: usize = 64 << 10;
/// The plaintext of one write: four full records.
const BATCH_PLAINTEXT: usize = 4 * RECORD_PLAINTEXT;
/// What may wait for a socket that takes nothing: one batch of ours, and as much again in answers the protocol owes.
const SEALED_BYTES: usize = 2 * BATCH_PLAINTEXT;
/// RFC 8446 section 5.2: what a record may be larger than its plaintext, with its header.
const RECORD_EXTRA: usize = 256 + 5;
/// rustls joins handshake messages of at most 64 KiB; one more record may be unfinished behind it.
const PENDING_BYTES: usize = 96 << 10;

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
