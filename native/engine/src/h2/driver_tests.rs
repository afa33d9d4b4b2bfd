//! One connection in either role against the `h2` crate and against frames written by hand.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use meshdp_proto::h2::hpack::Indexing;
use meshdp_proto::h2::{ErrorCode, NotOpened, Role};
use meshdp_proto::http1_response::RequestKind;
use tokio::io::AsyncReadExt as _;
use tokio::task::spawn_local;

use super::super::fixtures::{Hand, Io, echo, exchange, noise, ours, pair, request};
use super::super::stream::StreamEnd;
use super::*;
use crate::tls::pki::{run, sockets};

/// The sizes that a window, a frame or a record makes special.
const SIZES: [usize; 9] = [0, 1, 1_024, 16_384, 16_385, 65_535, 65_536, 200_001, 3_000_000];

#[test]
fn bodies_come_back_byte_for_byte_on_many_streams_at_once() {
    for secured in [false, true] {
        run(async move {
            let (near, far) = pair(secured).await;
            spawn_local(echo(Io(far), h2::server::Builder::new()));
            let (shared, driving) = ours(Role::Client, near);
            let asking: Vec<_> = SIZES
                .into_iter()
                .enumerate()
                .map(|(number, size)| {
                    let path = format!("/{number}");
                    let mut stream = shared.open(RequestKind::Other, false, request(&path)).unwrap();
                    spawn_local(async move {
                        let body = noise(size, number as u64);
                        let (answer, trailers) = exchange(&mut stream, &body).await.unwrap();
                        assert!(answer == body, "{size} bytes");
                        assert_eq!(trailers, b"x-end: all\r\n");
                    })
                })
                .collect();
            for asked in asking {
                asked.await.unwrap();
            }
            assert_eq!(shared.active(), 0);
            shared.retire();
            assert!(matches!(driving.await.unwrap(), Ended::Done));
        });
    }
}

#[test]
fn the_same_as_a_server() {
    for secured in [false, true] {
        run(async move {
            let (near, far) = pair(secured).await;
            let shared = Shared::new(Role::Server, &meshdp_proto::h2::Config::default(), &Rc::default(), None);
            let mut driver = Driver::new(far, Rc::clone(&shared), Vec::new());
            let driving = spawn_local(poll_fn(move |context| {
                let polled = driver.poll(context, 0);
                let mut text = Vec::new();
                while let Some(accepted) = shared.accept(&mut text) {
                    spawn_local(send_back(accepted.stream, std::mem::take(&mut text)));
                }
                polled
            }));
            let (send, connection) = h2::client::handshake(Io(near)).await.unwrap();
            spawn_local(async move {
                let _ = connection.await;
            });
            let asking: Vec<_> = SIZES.into_iter().map(|size| spawn_local(ask(send.clone(), size))).collect();
            for asked in asking {
                asked.await.unwrap();
            }
            drop(send);
            assert!(matches!(driving.await.unwrap(), Ended::Done | Ended::Closed));
        });
    }
}

async fn send_back(mut stream: super::super::stream::StreamHandle, text: Vec<u8>) {
    assert!(text.starts_with(b"POST /") && text.ends_with(b"\r\n\r\n"), "{}", text.escape_ascii());
    let encode = |encoder: &mut meshdp_proto::h2::hpack::Encoder, out: &mut Vec<u8>| {
        encoder.field(b":status", b"200", Indexing::Add, out);
    };
    stream.send_head(false, encode).unwrap();
    let mut waiting = Vec::new();
    loop {
        let got = poll_fn(|context| stream.poll_data(context, &mut waiting, 30_000)).await.unwrap();
        let mut sent = 0;
        while sent < waiting.len() || (got.end && waiting.is_empty()) {
            sent += poll_fn(|context| stream.poll_send_data(context, &waiting[sent..], got.end)).await.unwrap();
            if waiting.is_empty() {
                break;
            }
        }
        if got.end {
            return;
        }
        waiting.clear();
    }
}

async fn ask(send: h2::client::SendRequest<Bytes>, size: usize) {
    let body = noise(size, size as u64);
    let asked = http::Request::post("http://bob/a").body(()).unwrap();
    let (answer, mut stream) = send.ready().await.unwrap().send_request(asked, false).unwrap();
    let mut rest = Bytes::from(body.clone());
    let sending = async {
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let room = poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
            stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    };
    let mut received = Vec::new();
    let reading = async {
        let mut answer = answer.await.unwrap().into_body();
        while let Some(piece) = answer.data().await {
            let piece = piece.unwrap();
            answer.flow_control().release_capacity(piece.len()).unwrap();
            received.extend_from_slice(&piece);
        }
    };
    tokio::join!(sending, reading);
    assert!(received == body, "{size} bytes");
}

#[test]
fn what_tasks_of_one_turn_have_to_say_leaves_in_one_write() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, _driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        hand.preface().await;
        hand.frame(4, 0, 0, &[]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut drained = vec![0; 4_096];
        let _ = hand.tcp.read(&mut drained).await.unwrap();
        let streams: Vec<_> = (0..16)
            .map(|number| {
                let shared = Rc::clone(&shared);
                spawn_local(
                    async move { shared.open(RequestKind::Other, true, request(&format!("/{number}"))).unwrap() },
                )
            })
            .collect();
        hand.tcp.readable().await.unwrap();
        let count = hand.tcp.try_read(&mut drained).unwrap();
        let heads = drained[..count].windows(5).filter(|bytes| bytes[..2] == [1, 5] && bytes[2..4] == [0, 0]).count();
        assert_eq!(heads, 16, "{}", drained[..count].escape_ascii());
        drop(streams);
    });
}

#[test]
fn a_dropped_handle_resets_its_stream_alone_and_its_bytes_are_credited() {
    run(async {
        let (near, far) = pair(false).await;
        spawn_local(echo(Io(far), h2::server::Builder::new()));
        let (shared, _driving) = ours(Role::Client, near);
        let body = noise(60_000, 1);
        for _ in 0..100 {
            let mut stream = shared.open(RequestKind::Other, false, request("/dropped")).unwrap();
            let sent = poll_fn(|context| stream.poll_send_data(context, &body, false)).await.unwrap();
            assert!(sent > 0);
            let mut head = Vec::new();
            poll_fn(|context| stream.poll_head(context, &mut head)).await.unwrap();
        }
        let body = noise(3_000_000, 2);
        let mut stream = shared.open(RequestKind::Other, false, request("/kept")).unwrap();
        let (answer, _) = exchange(&mut stream, &body).await.unwrap();
        assert!(answer == body, "the connection's window has not leaked");
        drop(stream);
        assert_eq!(shared.active(), 0);
    });
}

#[test]
fn what_came_before_a_connection_broke_is_read_before_its_end_is_told() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        let mut stream = shared.open(RequestKind::Other, true, request("/a")).unwrap();
        let mut unanswered = shared.open(RequestKind::Other, true, request("/b")).unwrap();
        hand.preface().await;
        hand.frame(4, 0, 0, &[]).await;
        hand.frame(1, 4, 1, &[0x88]).await;
        hand.frame(0, 0, 1, b"half").await;
        drop(hand);
        assert!(matches!(driving.await.unwrap(), Ended::Closed | Ended::Broken(_)));
        let (mut head, mut body) = (Vec::new(), Vec::new());
        poll_fn(|context| stream.poll_head(context, &mut head)).await.unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", head.escape_ascii());
        let got = poll_fn(|context| stream.poll_data(context, &mut body, 100)).await.unwrap();
        assert!(body == b"half" && !got.end);
        let end = poll_fn(|context| stream.poll_data(context, &mut body, 100)).await;
        assert_eq!(end, Err(StreamEnd::Lost));
        let end = poll_fn(|context| unanswered.poll_head(context, &mut head)).await;
        assert_eq!(end.map(drop), Err(StreamEnd::Lost));
        assert_eq!(shared.may_open(), Err(NotOpened::GoingAway));
    });
}

#[test]
fn h2_24_streams_above_a_goaway_are_unprocessed_and_those_below_end_as_they_would() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        let mut below = shared.open(RequestKind::Other, true, request("/a")).unwrap();
        let mut above = shared.open(RequestKind::Other, true, request("/b")).unwrap();
        hand.preface().await;
        hand.frame(4, 0, 0, &[]).await;
        hand.frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
        let mut head = Vec::new();
        let end = poll_fn(|context| above.poll_head(context, &mut head)).await;
        assert_eq!(end.map(drop), Err(StreamEnd::Unprocessed));
        drop(above);
        assert_eq!(shared.may_open(), Err(NotOpened::GoingAway));
        hand.frame(1, 5, 1, &[0x88]).await;
        assert!(poll_fn(|context| below.poll_head(context, &mut head)).await.unwrap().end);
        drop(below);
        assert!(matches!(driving.await.unwrap(), Ended::Done));
    });
}

#[test]
fn h2_35_a_fault_of_the_peer_ends_its_connection_with_a_word() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        let mut stream = shared.open(RequestKind::Other, true, request("/a")).unwrap();
        hand.preface().await;
        hand.frame(4, 0, 0, &[]).await;
        hand.frame(6, 0, 0, b"seven b").await;
        let mut head = Vec::new();
        let end = poll_fn(|context| stream.poll_head(context, &mut head)).await;
        assert_eq!(end.map(drop), Err(StreamEnd::Lost));
        assert!(matches!(driving.await.unwrap(), Ended::Fault(fault) if fault.code == ErrorCode::FRAME_SIZE_ERROR));
        let mut kinds = Vec::new();
        while let Some((kind, ..)) = hand.next().await {
            kinds.push(kind);
        }
        assert_eq!(kinds, [1, 7], "the request, then GOAWAY");
    });
}

#[test]
fn a_flood_of_interim_heads_ends_its_stream_alone() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, _driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        let mut flooded = shared.open(RequestKind::Other, true, request("/a")).unwrap();
        let mut other = shared.open(RequestKind::Other, true, request("/b")).unwrap();
        hand.preface().await;
        hand.frame(4, 0, 0, &[]).await;
        for _ in 0..40 {
            hand.frame(1, 4, 1, &[0x08, 0x03, b'1', b'0', b'3']).await;
        }
        hand.frame(1, 5, 3, &[0x88]).await;
        let mut head = Vec::new();
        poll_fn(|context| other.poll_head(context, &mut head)).await.unwrap();
        let mut heads = 0;
        let end = loop {
            match poll_fn(|context| flooded.poll_head(context, &mut head)).await {
                Ok(_) => heads += 1,
                Err(end) => break end,
            }
        };
        assert!(heads <= 16 && matches!(end, StreamEnd::Fault(_)), "{heads} heads, then {end:?}");
    });
}

#[test]
fn nothing_is_held_while_nothing_is_under_way() {
    run(async {
        let (near, far) = pair(true).await;
        spawn_local(echo(Io(far), h2::server::Builder::new()));
        let shared = Shared::new(Role::Client, &meshdp_proto::h2::Config::default(), &Rc::default(), None);
        let mut driver = Driver::new(near, Rc::clone(&shared), Vec::new());
        let asking = async {
            let mut stream = shared.open(RequestKind::Other, false, request("/a")).unwrap();
            exchange(&mut stream, &noise(100_000, 3)).await.unwrap();
            drop(stream);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            () = asking => {}
            ended = poll_fn(|context| driver.poll(context, 0)) => panic!("{ended:?}"),
        }
        assert_eq!(driver.input.capacity(), 0);
        let mut state = shared.state();
        assert!(
            state.core.take_output().is_none() && state.core.output().is_empty(),
            "the output's buffer was given back"
        );
    });
}

#[test]
fn a_socket_that_takes_nothing_holds_the_senders_back() {
    run(async {
        let (near, far) = sockets().await;
        let (shared, _driving) = ours(Role::Client, Stream::Plain(near));
        let mut hand = Hand { tcp: far };
        hand.preface().await;
        hand.setting(4, 0x7fff_ffff).await;
        hand.frame(8, 0, 0, &0x7000_0000_u32.to_be_bytes()).await;
        let body = vec![7; 1 << 20];
        let mut stream = shared.open(RequestKind::Other, false, request("/a")).unwrap();
        let mut taken = 0_usize;
        // Until a send has to wait: nothing goes on for so long, however slow the machine is.
        let still = Duration::from_millis(300);
        loop {
            let send = poll_fn(|context| stream.poll_send_data(context, &body, false));
            let Ok(sent) = tokio::time::timeout(still, send).await else { break };
            taken += sent.unwrap();
            assert!(taken < 1 << 30, "it never stops");
        }
        assert!(shared.state().core.output().len() < 128 << 10, "the output is bounded");
        let mut drained = vec![0; 1 << 20];
        let mut read = 0;
        let reading = async {
            while read < taken {
                read += hand.tcp.read(&mut drained).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("everything taken arrives");
    });
}
