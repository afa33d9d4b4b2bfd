//! Peers of our HTTP/2 for tests: the `h2` crate over one of our streams, and a hand that writes frames.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use meshdp_proto::h2::hpack::{Encoder, Indexing};
use meshdp_proto::h2::{Config, Role};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::driver::{Driver, Ended};
use super::shared::Shared;
use super::stream::{StreamEnd, StreamHandle};
use crate::stream::Stream;
use crate::tls::pki::{ALICE, Authority, BOB, sockets};
use crate::tls::{self, ClientAlpn, ExpectedPeer, ServerAlpn};
use crate::worker::buffers::Buffers;

/// Both ends of a connection, (ours that dialled, the other that accepted).
pub(super) async fn pair(secured: bool) -> (Stream, Stream) {
    let (near, far) = sockets().await;
    if !secured {
        return (Stream::Plain(near), Stream::Plain(far));
    }
    let ca = Authority::new("root");
    let (alice, bob, peer) = (ca.credentials(ALICE), ca.credentials(BOB), ExpectedPeer { identities: &[] });
    let serve = tls::accept(far, Vec::new(), &bob, ServerAlpn::Http2);
    let (far, near) = tokio::join!(serve, tls::connect(near, &alice, "bob", &peer, ClientAlpn::Http2));
    (Stream::Tls(near.unwrap().0), Stream::Tls(far.unwrap().0))
}

/// Our connection in a role, driven by a task of its own, which says how it ended.
pub(super) fn ours(role: Role, stream: Stream) -> (Rc<Shared>, tokio::task::JoinHandle<Ended>) {
    let shared = Shared::new(role, &Config::default(), &Rc::<Buffers>::default(), None);
    let mut driver = Driver::new(stream, Rc::clone(&shared), Vec::new());
    let driving = spawn_local(async move {
        let ended = poll_fn(|context| driver.poll(context, 0)).await;
        let _ = driver.stream.shutdown().await;
        ended
    });
    (shared, driving)
}

/// A server of the `h2` crate that sends every body back, with its own trailers.
pub(super) async fn echo(far: impl AsyncRead + AsyncWrite + Unpin + 'static, builder: h2::server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(answer(request, respond));
    }
}

async fn answer(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let response = http::Response::builder().status(200).header("x-path", path).body(()).unwrap();
    let Ok(mut send) = respond.send_response(response, false) else { return };
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        if send.send_data(piece, false).is_err() {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", http::HeaderValue::from_static("all"));
    let _ = send.send_trailers(trailers);
}

/// The field block of a request for `path`.
pub(super) fn request(path: &str) -> impl FnOnce(&mut Encoder, &mut Vec<u8>) {
    move |encoder, out| {
        encoder.field(b":method", b"POST", Indexing::Add, out);
        encoder.field(b":scheme", b"http", Indexing::Add, out);
        encoder.field(b":authority", b"bob", Indexing::Add, out);
        encoder.field(b":path", path.as_bytes(), Indexing::Without, out);
    }
}

/// Sends all of `body` and the end, and reads the answer's body and trailers meanwhile.
pub(super) async fn exchange(stream: &mut StreamHandle, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), StreamEnd> {
    let (mut sent, mut ended) = (0, false);
    let (mut head, mut answer, mut trailers) = (Vec::new(), Vec::new(), Vec::new());
    poll_fn(|context| {
        while !ended {
            match stream.poll_send_data(context, &body[sent..], true) {
                Poll::Ready(count) => sent += count?,
                Poll::Pending => break,
            }
            ended = sent == body.len();
        }
        if head.is_empty() {
            ready!(stream.poll_head(context, &mut head))?;
        }
        while !ready!(stream.poll_data(context, &mut answer, 40_000))?.end {}
        stream.take_trailers(&mut trailers);
        Poll::Ready(Ok(()))
    })
    .await?;
    Ok((answer, trailers))
}

/// Bytes that look like no others.
pub(super) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed >> 11).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A peer whose frames a test writes itself.
pub(super) struct Hand {
    pub(super) tcp: TcpStream,
}

impl Hand {
    /// A frame. Settings to begin with: `frame(4, 0, 0, &[])`.
    pub(super) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.tcp.write_all(&frame).await.unwrap();
    }

    /// SETTINGS with one parameter.
    pub(super) async fn setting(&mut self, name: u16, value: u32) {
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.frame(4, 0, 0, &payload).await;
    }

    /// The next frame that is neither SETTINGS nor `WINDOW_UPDATE`; `None` at the end. The client's preface is to be read first.
    pub(super) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            let mut header = [0; 9];
            self.tcp.read_exact(&mut header).await.ok()?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            self.tcp.read_exact(&mut payload).await.unwrap();
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            if !matches!(header[3], 4 | 8) {
                return Some((header[3], header[4], stream, payload));
            }
        }
    }

    /// Reads the client's magic.
    pub(super) async fn preface(&mut self) {
        let mut magic = [0; 24];
        self.tcp.read_exact(&mut magic).await.unwrap();
        assert_eq!(&magic, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    }
}

/// One of our streams as tokio's traits have it.
pub(super) struct Io(pub(super) Stream);

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = Vec::new();
        let limit = buf.remaining();
        ready!(self.0.poll_read(context, &mut bytes, limit))?;
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(context)
    }
}
