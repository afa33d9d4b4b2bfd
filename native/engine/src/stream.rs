//! One connection's bytes, plain or TLS, polled so that one task can pump both directions.
//!
//! In: a socket, or a TLS connection after its handshake. Out: bytes appended to a lent buffer, bytes taken from one.
//! Limits: a read appends what the caller allows; a write takes what the socket or one sealed batch holds.
//! Fails: with `io::Error`; over TLS an end without `close_notify` is `UnexpectedEof`, so truncation never looks complete.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::tls::TlsStream;
use crate::tls::verify::RootId;
use crate::worker::buffers::{Buffers, FIRST};

/// One connection, either side of the proxy.
pub(crate) enum Stream {
    /// Bytes as they are on the wire.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Appends at most `limit` (above zero) bytes to `buf`; 0 is a clean end of the peer's side.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_read_plain(tcp, cx, buf, limit),
            Self::Tls(tls) => tls.poll_read(cx, buf, limit),
        }
    }

    /// Takes some of `bytes`. Over TLS they may still wait for [`Stream::poll_flush`].
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => uninterrupted(|| Pin::new(&mut *tcp).poll_write(cx, bytes)),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    /// Brings all that was taken into the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Ends our side (`close_notify` where there is TLS, then FIN). Reading may go on.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }

    /// Makes the end a reset: bytes that end with the connection must not look complete.
    pub(crate) fn abort(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// [`Stream::poll_read`] as a future.
    pub(crate) async fn read(&mut self, buf: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf, limit)).await
    }

    /// Writes all of `bytes` and flushes.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match ready!(self.poll_write(cx, bytes))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    taken => bytes = &bytes[taken..],
                }
            }
            self.poll_flush(cx)
        })
        .await
    }

    /// [`Stream::poll_shutdown`] as a future.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// [`Stream::poll_read`] into a buffer that is lent for the read: while nothing comes, none is held.
    pub(crate) fn poll_read_lent(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
        limit: usize,
        buffers: &Buffers,
    ) -> Poll<io::Result<usize>> {
        if buf.capacity() == 0 {
            *buf = buffers.lend_for(limit);
        }
        let read = self.poll_read(cx, buf, limit);
        if read.is_pending() && buf.is_empty() {
            buffers.give(std::mem::take(buf));
        }
        read
    }

    /// Whether a pool may keep this connection: nothing unread, nothing unsent, not ended.
    pub(crate) fn is_idle_clean(&self) -> bool {
        match self {
            Self::Plain(tcp) => nothing_arrived(tcp),
            Self::Tls(tls) => tls.is_idle_clean(),
        }
    }

    /// Whether HTTP/2 is spoken to a peer that was offered it. One that names no version is spoken to as was `declared`, as
    /// Envoy does; one that names HTTP/2 by Istio's word for it would take HTTP/1.1 amiss.
    pub(crate) fn takes_http2(&self, declared: bool) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(tls) => matches!(tls.alpn(), Some(b"h2" | b"istio-h2")) || declared,
        }
    }

    /// Whether HTTP/2 is spoken from here: agreed on in the handshake; over plain bytes by prior knowledge.
    pub(crate) fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(tls) => tls.alpn() == Some(b"h2"),
        }
    }

    /// Whether nothing has told which version of HTTP is spoken, so that its first bytes may.
    pub(crate) fn may_speak_http2(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(tls) => tls.alpn().is_none(),
        }
    }

    /// What the peer's certificate led to and until when it is valid; plain bytes and servers outside the mesh prove nothing.
    pub(crate) fn proof(&self) -> Option<(&RootId, u64)> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.proof(),
        }
    }

    /// The socket if its bytes are the connection's bytes, so that the kernel may move them.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(_) => None,
        }
    }

    /// The socket, for its addresses and options.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }
}

/// Whether neither bytes nor an end wait to be read, asked by whoever does not wait. tokio lets a task ask 128 times in a row
/// and answers "nothing yet" from then on: a sweep over more connections would never see those that have ended.
/// Where tokio knows of nothing, the kernel is not asked; after a read that was filled exactly it knows nothing, and is asked.
pub(crate) fn nothing_arrived(tcp: &TcpStream) -> bool {
    let mut byte = [0];
    let asked = coop::unconstrained(poll_fn(|cx| tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte))));
    pin!(asked).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Reads into spare capacity. tokio remembers a short read, so the next one waits instead of asking the kernel in vain.
fn poll_read_plain(
    tcp: &mut TcpStream,
    cx: &mut Context<'_>,
    buf: &mut Vec<u8>,
    limit: usize,
) -> Poll<io::Result<usize>> {
    debug_assert!(limit > 0, "a read of nothing would look like the end");
    // A message uses what is left of its lent buffer before that grows.
    let room = if limit <= FIRST { limit.min(LEAST_ROOM) } else { limit };
    if buf.capacity() - buf.len() < room {
        buf.reserve(limit);
    }
    uninterrupted(|| {
        let mut bounded = AsyncReadExt::take(&mut *tcp, limit as u64);
        // The future holds no state between polls: it may be made anew for each.
        pin!(bounded.read_buf(buf)).poll(cx)
    })
}

/// Makes a system call again that a signal interrupted (signal(7)); tokio takes that for a failure.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    loop {
        match call() {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A read into less room than this is not worth its system call.
const LEAST_ROOM: usize = 1_024;
