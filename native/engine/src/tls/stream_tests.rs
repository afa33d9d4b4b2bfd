//! Bytes over finished connections: all of them, ends, truncation, bounds, memory.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use super::super::pki::{ALICE, Authority, BOB, run, shake, sockets, streams};
use super::{Sealed, TlsStream};
use crate::stream::Stream;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

async fn pair() -> (Stream, Stream) {
    let (server, client) = streams().await;
    (Stream::Tls(server), Stream::Tls(client))
}

async fn write_in(stream: &mut Stream, bytes: &[u8], chunk: usize) {
    for part in bytes.chunks(chunk) {
        stream.write_all(part).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

async fn read_in(stream: &mut Stream, limit: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = Vec::new();
    loop {
        buf.clear();
        let count = stream.read(&mut buf, limit).await.unwrap();
        assert!(count == buf.len() && count <= limit);
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&buf);
    }
}

#[test]
fn a_mebibyte_each_way_in_odd_chunks() {
    run(async {
        let sent = pattern(1 << 20);
        for (chunk, limit) in [(1 << 20, 16384), (16384, 1024), (1013, 65536), (65537, 7919), (40_000, 1 << 20)] {
            let (mut server, mut client) = pair().await;
            write_both(&mut server, &mut client, &sent, (chunk, limit)).await;
        }
        let small = &sent[..20_000];
        let (mut server, mut client) = pair().await;
        write_both(&mut server, &mut client, small, (1, 3)).await;
    });
}

/// One direction after the other, the second after the first was half-closed.
async fn write_both(server: &mut Stream, client: &mut Stream, sent: &[u8], (chunk, limit): (usize, usize)) {
    let ((), there) = tokio::join!(write_in(client, sent, chunk), read_in(server, limit));
    assert!(there == sent, "client to server in {chunk} by {limit}");
    let ((), back) = tokio::join!(write_in(server, sent, chunk), read_in(client, limit));
    assert!(back == sent, "server to client in {chunk} by {limit}");
}

#[test]
fn one_task_pumps_both_directions_at_once() {
    run(async {
        let (mut server, mut client) = pair().await;
        let sent = pattern(3 << 20);
        // The echo reads and writes with one poll loop and bounded memory, as a relay does.
        let echo = async {
            let mut buf = Vec::new();
            while server.read(&mut buf, 16384).await.unwrap() > 0 {
                server.write_all(&buf).await.unwrap();
                buf.clear();
            }
            server.shutdown().await.unwrap();
        };
        let ask = async {
            let (mut written, mut closed, mut heard) = (0, false, Vec::new());
            poll_fn(|cx| {
                while written < sent.len()
                    && let Poll::Ready(count) = client.poll_write(cx, &sent[written..])
                {
                    written += count.unwrap();
                }
                if written == sent.len() && !closed {
                    closed = client.poll_shutdown(cx).map(Result::unwrap).is_ready();
                }
                while let Poll::Ready(count) = client.poll_read(cx, &mut heard, 8192) {
                    if count.unwrap() == 0 {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            })
            .await;
            assert!(closed && heard == sent);
        };
        tokio::join!(echo, ask);
    });
}

#[test]
fn half_closes_both_ways() {
    run(async {
        for server_first in [false, true] {
            let (mut near, mut far) = pair().await;
            if server_first {
                std::mem::swap(&mut near, &mut far);
            }
            let mut buf = Vec::new();
            near.write_all(b"last words").await.unwrap();
            near.shutdown().await.unwrap();
            assert_eq!(far.read(&mut buf, 100).await.unwrap(), 10);
            assert_eq!(far.read(&mut buf, 100).await.unwrap(), 0);
            assert_eq!(far.read(&mut buf, 100).await.unwrap(), 0, "the end stays the end");
            far.write_all(b"an answer after the end").await.unwrap();
            far.shutdown().await.unwrap();
            buf.clear();
            assert_eq!(near.read(&mut buf, 100).await.unwrap(), 23);
            assert_eq!(near.read(&mut buf, 100).await.unwrap(), 0);
            let refused = near.write_all(b"after our end").await.unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn tl_22_a_fin_without_close_notify_is_truncation() {
    run(async {
        let (mut server, mut client) = pair().await;
        client.write_all(b"half of a bo").await.unwrap();
        // A FIN under TLS, without its farewell.
        socket2::SockRef::from(client.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
        let mut buf = Vec::new();
        assert_eq!(server.read(&mut buf, 100).await.unwrap(), 12);
        let cut = server.read(&mut buf, 100).await.unwrap_err();
        assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn tl_22_a_plain_fin_is_an_end() {
    run(async {
        let (near, far) = sockets().await;
        let (mut near, mut far) = (Stream::Plain(near), Stream::Plain(far));
        near.write_all(b"0123456789").await.unwrap();
        near.shutdown().await.unwrap();
        let mut buf = Vec::with_capacity(64);
        assert_eq!(far.read(&mut buf, 4).await.unwrap(), 4);
        assert_eq!(far.read(&mut buf, 100).await.unwrap(), 6);
        assert_eq!(far.read(&mut buf, 100).await.unwrap(), 0);
        assert_eq!(buf, b"0123456789");
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read(&mut buf, 100).await.unwrap(), 1);
    });
}

#[test]
fn tl_24_a_record_changed_under_way() {
    run(async {
        let (mut server, client) = pair().await;
        // Bytes that no key of this session sealed.
        socket2::SockRef::from(client.tcp()).send(&[23, 3, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        socket2::SockRef::from(client.tcp()).send(&[0; 20]).unwrap();
        let broken = server.read(&mut Vec::new(), 100).await.unwrap_err();
        assert_eq!(broken.kind(), std::io::ErrorKind::InvalidData);
        let Stream::Tls(mut client) = client else { unreachable!() };
        let alert = poll_fn(|cx| client.poll_read(cx, &mut Vec::new(), 100)).await.unwrap_err();
        assert!(alert.to_string().contains("BadRecordMac"), "{alert}");
    });
}

/// Records with `bytes`, sealed by this end but not sent.
fn seal(stream: &mut TlsStream, bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Sealed::default();
    stream.seal(&mut sealed, |session, records, opened, sealed| session.seal(bytes, records, opened, sealed)).unwrap();
    sealed.records().to_vec()
}

async fn send(stream: &TlsStream, bytes: &[u8]) {
    stream.tcp().writable().await.unwrap();
    assert_eq!(stream.tcp().try_write(bytes).unwrap(), bytes.len());
}

async fn arrived(stream: &mut TlsStream) {
    stream.tcp().readable().await.unwrap();
    let mut buf = Vec::new();
    let polled = stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut buf, 100);
    assert!(polled.is_pending() && buf.is_empty());
}

#[test]
fn a_write_between_two_halves_of_a_record() {
    run(async {
        let (mut server, mut client) = streams().await;
        let record = seal(&mut client, b"halved");
        send(&client, &record[..10]).await;
        arrived(&mut server).await;
        assert!(!server.is_idle_clean(), "half a record is under way");
        poll_fn(|cx| server.poll_write(cx, b"between")).await.unwrap();
        send(&client, &record[10..]).await;
        let (mut there, mut back) = (Vec::new(), Vec::new());
        poll_fn(|cx| server.poll_read(cx, &mut there, 100)).await.unwrap();
        poll_fn(|cx| client.poll_read(cx, &mut back, 100)).await.unwrap();
        assert_eq!((there.as_slice(), back.as_slice()), (&b"halved"[..], &b"between"[..]));
    });
}

#[test]
fn what_came_before_an_error_is_delivered_before_it() {
    run(async {
        let (mut server, mut client) = streams().await;
        let mut bytes = seal(&mut client, b"good");
        let mut bad = seal(&mut client, b"bad");
        bad[6] ^= 1;
        bytes.extend_from_slice(&bad);
        send(&client, &bytes).await;
        let mut buf = Vec::new();
        assert_eq!(poll_fn(|cx| server.poll_read(cx, &mut buf, 100)).await.unwrap(), 4);
        for _ in 0..2 {
            let error = poll_fn(|cx| server.poll_read(cx, &mut buf, 100)).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
        let error = poll_fn(|cx| server.poll_write(cx, b"more")).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(buf == b"good" && !server.is_idle_clean());
    });
}

#[test]
fn after_a_failed_write_the_answer_is_still_read() {
    run(async {
        let (server, mut client) = pair().await;
        let Stream::Tls(mut server) = server else { unreachable!() };
        poll_fn(|cx| server.poll_write(cx, b"too large")).await.unwrap();
        socket2::SockRef::from(client.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
        let failed = client.write_all(b"body").await.unwrap_err();
        assert_eq!(failed.kind(), std::io::ErrorKind::BrokenPipe);
        let again = client.write_all(b"body").await.unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::BrokenPipe);
        let mut buf = Vec::new();
        assert_eq!(client.read(&mut buf, 100).await.unwrap(), 9);
    });
}

#[test]
fn tl_23_records_of_one_byte() {
    run(async {
        let (mut server, mut client) = streams().await;
        let one_byte: Vec<u8> = (0..500).flat_map(|_| seal(&mut client, b"x")).collect();
        send(&client, &one_byte).await;
        let mut buf = Vec::new();
        while buf.len() < 500 {
            poll_fn(|cx| server.poll_read(cx, &mut buf, 100)).await.unwrap();
        }
        assert_eq!(held(&server), 0);
    });
}

#[test]
fn a_writer_without_a_reader_is_held() {
    run(async {
        let (_server, mut client) = streams().await;
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = vec![0; 1 << 20];
        let mut taken = 0;
        while let Poll::Ready(count) = client.poll_write(&mut cx, &bytes) {
            taken += count.unwrap();
            assert!(taken < 64 << 20, "nothing stops it");
        }
        assert!(client.sealed.len() <= super::BATCH_PLAINTEXT + 4096, "{} bytes wait", client.sealed.len());
    });
}

#[test]
fn a_pool_sees_what_is_under_way() {
    run(async {
        let (mut server, mut client) = pair().await;
        assert!(server.is_idle_clean() && client.is_idle_clean());
        client.write_all(b"abc").await.unwrap();
        let mut buf = Vec::new();
        server.read(&mut buf, 1).await.unwrap();
        assert!(!server.is_idle_clean(), "plaintext waits");
        server.read(&mut buf, 1).await.unwrap();
        assert!(!server.is_idle_clean(), "one byte waits");
        server.read(&mut buf, 2).await.unwrap();
        assert_eq!(buf, b"abc");
        assert!(server.is_idle_clean());
        client.shutdown().await.unwrap();
        assert!(!client.is_idle_clean(), "we ended it");
        assert_eq!(server.read(&mut buf, 1).await.unwrap(), 0);
        assert!(!server.is_idle_clean(), "the peer ended it");
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    run(async {
        let (mut server, mut client) = streams().await;
        let mut buf = Vec::new();
        for _ in 0..3 {
            let bytes = pattern(100_000);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let taken = poll_fn(|cx| client.poll_write(cx, rest)).await.unwrap();
                rest = &rest[taken..];
            }
            poll_fn(|cx| client.poll_flush(cx)).await.unwrap();
            buf.clear();
            while buf.len() < bytes.len() {
                poll_fn(|cx| server.poll_read(cx, &mut buf, 5_000)).await.unwrap();
            }
            assert!(buf == bytes);
        }
        for stream in [&server, &client] {
            assert_eq!(held(stream), 0);
        }
    });
}

fn held(stream: &TlsStream) -> usize {
    stream.unfinished.capacity() + stream.plaintext.capacity() + stream.sealed.capacity()
}

/// Runs [`measure_idle_memory`] in a process of its own, where no other test moves the figure.
#[test]
fn an_idle_connection_costs_at_most_9_kb() {
    let test = "tls::stream::tests::measure_idle_memory";
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("bytes per idle TLS connection"), "{said}");
    println!("{said}");
}

#[test]
#[ignore = "runs alone, from an_idle_connection_costs_at_most_9_kb"]
fn measure_idle_memory() {
    const PAIRS: usize = 400;
    run(async {
        let ca = Authority::new("root");
        let (bob, alice) = (ca.credentials(BOB), ca.credentials(ALICE));
        let mut open = Vec::new();
        let mut buf = Vec::new();
        let mut before = 0;
        for count in 0..PAIRS + 50 {
            if count == 50 {
                before = resident_bytes();
            }
            let (server, client) = shake(&bob, &alice, &[BOB.to_owned()]).await;
            let mut server = Stream::Tls(server.unwrap().0);
            let mut client = Stream::Tls(client.unwrap().0);
            client.write_all(&[7; 3000]).await.unwrap();
            buf.clear();
            while buf.len() < 3000 {
                server.read(&mut buf, 4096).await.unwrap();
            }
            server.write_all(&buf).await.unwrap();
            buf.clear();
            while buf.len() < 3000 {
                client.read(&mut buf, 4096).await.unwrap();
            }
            open.push((server, client));
        }
        let each = (resident_bytes() - before) / (2 * PAIRS);
        println!("{each} bytes per idle TLS connection");
        assert!(each <= 9 << 10, "{each} bytes per idle TLS connection");
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
