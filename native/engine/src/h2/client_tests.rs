//! Connections to upstreams: how they are made, shared and ended, against the `h2` crate and frames written by hand.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use meshdp_model::sections::{Cluster, Endpoint};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::fixtures::{Hand, Io, echo, exchange, noise, request};
use super::*;
use crate::tls::credentials::{CredentialStore, Credentials};
use crate::tls::pki::{ALICE, Authority, BOB, Clock, NOW, policy, run, svid};
use crate::tls::{self, ServerAlpn};

/// An upstream that counts its connections.
struct Upstream {
    address: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

/// A peer of the `h2` crate that sends bodies back, behind mutual TLS where `secured` says as whom.
async fn upstream(secured: Option<(Arc<Credentials>, ServerAlpn)>, builder: h2::server::Builder) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Rc::new(Cell::new(0));
    let counted = Rc::clone(&accepted);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            let (secured, builder) = (secured.clone(), builder.clone());
            spawn_local(async move {
                let Some((credentials, alpn)) = secured else { return echo(tcp, builder).await };
                if let Ok((tls, _)) = tls::accept(tcp, Vec::new(), &credentials, alpn).await {
                    match alpn {
                        ServerAlpn::Http2 => echo(Io(Stream::Tls(tls)), builder).await,
                        _ => std::future::pending().await,
                    }
                }
            });
        }
    });
    Upstream { address, accepted }
}

fn worker() -> Rc<Worker> {
    Worker::of_tests(Arc::new(CredentialStore::new()))
}

/// A worker that is Alice.
fn alice(ca: &Authority) -> Rc<Worker> {
    let store = CredentialStore::with_clock(Arc::new(Clock(NOW)));
    renew(&store, ca);
    Worker::of_tests(Arc::new(store))
}

fn renew(store: &CredentialStore, ca: &Authority) {
    let pair = ca.issue(&svid(ALICE));
    let key = Some(pair.key.as_bytes());
    store.install(pair.chain.as_bytes(), ca.bundle().as_bytes(), key, &policy(), NOW).unwrap();
}

fn cluster(identity: &str) -> Arc<Cluster> {
    declared(identity, "http")
}

fn declared(identity: &str, protocol: &str) -> Arc<Cluster> {
    let text = serde_json::json!({
        "key": "outbound|80||bob", "host": "bob", "namespace": "default", "name": "bob", "port": 80, "protocol": protocol,
        "h2_upgrade": false, "balance": "LEAST_REQUEST", "sni": "outbound_.80_._.bob", "identities": [identity],
        "connect_timeout_ms": 2_000,
    });
    Arc::new(serde_json::from_value(text).unwrap())
}

fn member(address: SocketAddr, cluster: &Arc<Cluster>) -> Target {
    let endpoint: Endpoint = serde_json::from_value(serde_json::json!({
        "address": address.ip(), "port": address.port(), "mtls": true, "tls_mode": "istio", "identity": BOB,
        "workload": "bob", "namespace": "default", "canonical_name": "", "canonical_revision": "", "locality": "",
        "network": "", "weight": 1, "health": "HEALTHY", "capabilities": ["meshdp"],
    }))
    .unwrap();
    Target::of_tests(address, Some((cluster, endpoint)))
}

/// One request with a body of its own, over whatever connection there is.
async fn ask(target: &Target, worker: &Rc<Worker>, number: u64) -> Result<(), Reason> {
    let body = noise(1_000 + 37 * number as usize, number);
    let Acquired::Http2(connection) = acquire(target, worker).await? else { panic!("it fell back") };
    let mut stream = connection.open(RequestKind::Other, false, request("/a")).unwrap();
    let answered = exchange(&mut stream, &body).await;
    let (answer, _) = answered.map_err(|_| Reason::UpstreamResetBeforeResponse)?;
    assert!(answer == body, "an answer of somebody else");
    Ok(())
}

fn ask_many(count: u64, target: &Target, worker: &Rc<Worker>) -> Vec<JoinHandle<Result<(), Reason>>> {
    let one = |number| {
        let (target, worker) = (target.clone(), Rc::clone(worker));
        spawn_local(async move { ask(&target, &worker, number).await })
    };
    (0..count).map(one).collect()
}

async fn all(asking: Vec<JoinHandle<Result<(), Reason>>>) -> Vec<Result<(), Reason>> {
    let mut answers = Vec::new();
    for asked in asking {
        answers.push(asked.await.unwrap());
    }
    answers
}

#[test]
fn sixty_four_requests_at_once_share_the_one_connection_that_the_first_has_made() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Http2)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &cluster(BOB)));
        // The first gives up while its connection is made; nobody else notices.
        let first = spawn_local({
            let (target, worker) = (target.clone(), Rc::clone(&worker));
            async move { ask(&target, &worker, 1_000).await }
        });
        let others = ask_many(64, &target, &worker);
        tokio::task::yield_now().await;
        first.abort();
        assert!(all(others).await.iter().all(Result::is_ok));
        assert_eq!(bob.accepted.get(), 1);
        ask(&target, &worker, 0).await.unwrap();
        assert_eq!(bob.accepted.get(), 1);
    });
}

#[test]
fn a_connect_that_fails_fails_those_who_wait_for_it_once() {
    run(async {
        let ca = Authority::new("root");
        let mallory = ca.credentials("spiffe://cluster.local/ns/default/sa/mallory");
        let bob = upstream(Some((mallory, ServerAlpn::Http2)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &cluster(BOB)));
        let answers = all(ask_many(32, &target, &worker)).await;
        assert!(answers.iter().all(|answer| *answer == Err(Reason::UpstreamTlsIdentity)), "{answers:?}");
        assert_eq!(bob.accepted.get(), 1);
        assert_eq!(ask(&target, &worker, 0).await, Err(Reason::UpstreamTlsIdentity));
        assert_eq!(bob.accepted.get(), 2, "the next one tries for itself");
    });
}

#[test]
fn a_refused_connect_is_told_at_once() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::of_tests(listener.local_addr().unwrap(), None);
        drop(listener);
        assert_eq!(ask(&target, &worker(), 0).await, Err(Reason::UpstreamConnectFailed));
    });
}

#[test]
fn h2_23_where_the_peer_takes_one_stream_at_a_time_more_connections_are_made_and_the_rest_wait() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let bob = upstream(None, builder).await;
        let (worker, target) = (worker(), Target::of_tests(bob.address, None));
        ask(&target, &worker, 0).await.unwrap();
        assert!(all(ask_many(100, &target, &worker)).await.iter().all(Result::is_ok));
        assert!((2..=16).contains(&bob.accepted.get()), "{} connections", bob.accepted.get());
    });
}

#[test]
fn h2_23_a_burst_at_cold_start_waits_its_turn() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(100);
        let bob = upstream(None, builder).await;
        let (worker, target) = (worker(), Target::of_tests(bob.address, None));
        let one = |_| {
            let (target, worker) = (target.clone(), Rc::clone(&worker));
            spawn_local(async move { ask(&target, &worker, 0).await })
        };
        let answers = all((0..6_000).map(one).collect()).await;
        assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
        assert!(bob.accepted.get() <= 16, "{} connections", bob.accepted.get());
    });
}

/// A peer whose frames the test writes: the next connection that comes.
async fn hand(listener: &TcpListener) -> Hand {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut hand = Hand { tcp };
    hand.preface().await;
    hand
}

/// A request whose answer's head is all that counts.
fn ask_for_head(target: &Target, worker: &Rc<Worker>) -> JoinHandle<Result<(), StreamEnd>> {
    let (target, worker) = (target.clone(), Rc::clone(worker));
    spawn_local(async move {
        let Ok(Acquired::Http2(connection)) = acquire(&target, &worker).await else { return Err(StreamEnd::Over) };
        let mut stream = connection.open(RequestKind::Other, true, request("/a")).unwrap();
        let mut head = Vec::new();
        poll_fn(|context| stream.poll_head(context, &mut head)).await.map(drop)
    })
}

#[test]
fn h2_23_a_peer_that_takes_no_stream_is_waited_for_and_a_goaway_leads_to_another_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let first = ask_for_head(&target, &worker);
        let mut shut = hand(&listener).await;
        shut.setting(3, 0).await;
        assert_eq!(shut.next().await.unwrap().0, 1, "opened before the peer had said anything");
        shut.frame(1, 5, 1, &[0x88]).await;
        first.await.unwrap().unwrap();
        let second = ask_for_head(&target, &worker);
        let mut other = hand(&listener).await;
        other.setting(3, 0).await;
        shut.setting(3, 1).await;
        let (_, _, stream, _) = shut.next().await.unwrap();
        shut.frame(1, 5, stream, &[0x88]).await;
        second.await.unwrap().unwrap();
        shut.frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]).await;
        other.frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0]).await;
        assert!(shut.next().await.is_none() && other.next().await.is_none(), "closed after GOAWAY");
        let third = ask_for_head(&target, &worker);
        let mut fresh = hand(&listener).await;
        fresh.frame(4, 0, 0, &[]).await;
        let (_, _, stream, _) = fresh.next().await.unwrap();
        fresh.frame(1, 5, stream, &[0x88]).await;
        third.await.unwrap().unwrap();
    });
}

#[test]
fn an_idle_connection_says_goaway_and_closes() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let asked = ask_for_head(&target, &worker);
        let mut bob = hand(&listener).await;
        bob.frame(4, 0, 0, &[]).await;
        let (_, _, stream, _) = bob.next().await.unwrap();
        worker.h2.sweep((0, NOW), false);
        worker.h2.sweep((70_000, NOW), false);
        bob.frame(1, 5, stream, &[0x88]).await;
        asked.await.unwrap().unwrap();
        worker.h2.sweep((70_100, NOW), false);
        worker.h2.sweep((130_000, NOW), false);
        let again = ask_for_head(&target, &worker);
        let (_, _, stream, _) = bob.next().await.unwrap();
        bob.frame(1, 5, stream, &[0x88]).await;
        again.await.unwrap().unwrap();
        for now_ms in [130_100, 130_200, 190_300] {
            worker.h2.sweep((now_ms, NOW), false);
        }
        let (kind, _, _, payload) = bob.next().await.unwrap();
        assert_eq!((kind, &payload[4..]), (7, &[0, 0, 0, 0][..]), "GOAWAY, no error");
        assert!(bob.next().await.is_none());
    });
}

#[test]
fn a_retired_connection_takes_no_new_request_and_ends_after_its_last_one() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let under_way = ask_for_head(&target, &worker);
        let mut old = hand(&listener).await;
        old.frame(4, 0, 0, &[]).await;
        let (_, _, stream, _) = old.next().await.unwrap();
        worker.h2.retire(|_| false);
        let next = ask_for_head(&target, &worker);
        let mut new = hand(&listener).await;
        new.frame(4, 0, 0, &[]).await;
        new.next().await.unwrap();
        new.frame(1, 5, 1, &[0x88]).await;
        next.await.unwrap().unwrap();
        old.frame(1, 5, stream, &[0x88]).await;
        under_way.await.unwrap().unwrap();
        assert_eq!(old.next().await.unwrap().0, 7);
        assert!(old.next().await.is_none());
    });
}

#[test]
fn rotation_loses_no_request_and_new_ones_go_over_connections_of_the_new_certificate() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Http2)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &cluster(BOB)));
        let (failures, renewed) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
        let asking: Vec<_> = (0..16)
            .map(|_| {
                let (target, worker, failures) = (target.clone(), Rc::clone(&worker), Rc::clone(&failures));
                let renewed = Rc::clone(&renewed);
                spawn_local(async move {
                    // Until the last renewal, however fast the machine is.
                    for number in (0..40).chain(std::iter::repeat(40).take_while(|_| !renewed.get())) {
                        if let Err(reason) = ask(&target, &worker, number).await {
                            failures.borrow_mut().push(reason);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            renew(&worker.credentials, &ca);
            let in_use = worker.credentials.load().unwrap().epoch;
            worker.h2.retire(|key| key.security.as_ref().is_none_or(|(_, epoch)| *epoch == in_use));
        }
        renewed.set(true);
        for asked in asking {
            asked.await.unwrap();
        }
        assert_eq!(*failures.borrow(), []);
        assert!((2..=5).contains(&bob.accepted.get()), "{} connections", bob.accepted.get());
    });
}

#[test]
fn clusters_and_certificates_never_share_a_connection() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Http2)), h2::server::Builder::new()).await;
        let worker = alice(&ca);
        let (one, other) = (member(bob.address, &cluster(BOB)), member(bob.address, &cluster(BOB)));
        let carol = member(bob.address, &cluster("spiffe://cluster.local/ns/default/sa/carol"));
        ask(&one, &worker, 0).await.unwrap();
        ask(&other, &worker, 1).await.unwrap();
        assert_eq!(bob.accepted.get(), 2, "another cluster, another connection");
        assert_eq!(ask(&carol, &worker, 2).await, Err(Reason::UpstreamTlsIdentity));
        renew(&worker.credentials, &ca);
        ask(&one, &worker, 3).await.unwrap();
        assert_eq!(bob.accepted.get(), 4, "another certificate, another connection");
    });
}

#[test]
fn a_peer_without_http2_is_remembered_and_its_connection_used_for_http11() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Nothing)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &cluster(BOB)));
        // The connections of this test ended before the certificates of the worker's wall clock: none is pooled.
        for _ in 0..3 {
            assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http11)));
        }
        assert_eq!(bob.accepted.get(), 1);
    });
}

#[test]
fn a_peer_that_names_no_version_is_spoken_to_in_the_one_that_its_port_declares() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Nothing)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &declared(BOB, "http2")));
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(_))));
    });
}

#[test]
fn a_root_that_is_no_longer_trusted_ends_what_is_under_way() {
    run(async {
        let ca = Authority::new("root");
        let bob = upstream(Some((ca.credentials(BOB), ServerAlpn::Http2)), h2::server::Builder::new()).await;
        let (worker, target) = (alice(&ca), member(bob.address, &cluster(BOB)));
        let Ok(Acquired::Http2(connection)) = acquire(&target, &worker).await else { panic!("no connection") };
        let mut stream = connection.open(RequestKind::Other, false, request("/a")).unwrap();
        let mut head = Vec::new();
        poll_fn(|context| stream.poll_head(context, &mut head)).await.unwrap();
        worker.h2.distrust(|_| true);
        assert!(connection.may_open().is_ok());
        worker.h2.distrust(|_| false);
        let mut body = Vec::new();
        let end = poll_fn(|context| stream.poll_data(context, &mut body, 100)).await;
        assert_eq!(end, Err(StreamEnd::Distrusted));
        assert_eq!(connection.may_open(), Err(NotOpened::GoingAway));
    });
}

#[test]
fn a_silent_peer_of_the_mesh_is_asked_and_given_up_when_it_does_not_answer() {
    run(async {
        let ca = Authority::new("root");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (alice(&ca), member(listener.local_addr().unwrap(), &cluster(BOB)));
        let asked = ask_for_head(&target, &worker);
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut far, _) = tls::accept(tcp, Vec::new(), &ca.credentials(BOB), ServerAlpn::Http2).await.unwrap();
        let mut received = Vec::new();
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], b"\0mesh\0dp"].concat();
        let mut now_ms = 0;
        while !received.windows(ping.len()).any(|bytes| bytes == ping) {
            worker.h2.sweep((now_ms, NOW), false);
            let read = poll_fn(|context| far.poll_read(context, &mut received, 1_000));
            let _ = timeout(Duration::from_millis(1), read).await;
            now_ms += 100;
        }
        assert!((15_000..16_000).contains(&now_ms), "asked after {now_ms} ms");
        assert!(!asked.is_finished());
        worker.h2.sweep((now_ms + 9_000, NOW), false);
        tokio::task::yield_now().await;
        assert!(!asked.is_finished());
        worker.h2.sweep((now_ms + 10_100, NOW), false);
        assert_eq!(asked.await.unwrap(), Err(StreamEnd::Lost));
    });
}

#[test]
fn a_connection_whose_window_stays_used_up_has_a_second_one_made() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let Acquired::Http2(connection) = ({
            let (acquired, mut first) = tokio::join!(acquire(&target, &worker), hand(&listener));
            first.setting(4, 1 << 20).await;
            spawn_local(async move { while first.next().await.is_some() {} });
            acquired.unwrap()
        }) else {
            panic!("it fell back")
        };
        let mut stream = connection.open(RequestKind::Other, false, request("/upload")).unwrap();
        let body = vec![1; 100_000];
        let mut sent = 0;
        while sent < 65_535 {
            sent += poll_fn(|context| stream.poll_send_data(context, &body[sent..], true)).await.unwrap();
        }
        let same = |other: &Rc<ClientConnection>| Rc::ptr_eq(&connection, other);
        for now_ms in [0, 100] {
            assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if same(&found)));
            worker.h2.sweep((now_ms, NOW), false);
        }
        assert!(
            matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if same(&found)),
            "it does not wait"
        );
        let _second = hand(&listener).await;
        tokio::task::yield_now().await;
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if !same(&found)));
    });
}

/// A peer on a thread of its own, whose allocations are not counted: it answers every request with five bytes.
fn peer_elsewhere() -> SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.read_exact(&mut [0; 24]).unwrap();
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
        let (mut header, mut payload) = ([0; 9], vec![0; 1 << 14]);
        while tcp.read_exact(&mut header).is_ok() {
            let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
            tcp.read_exact(&mut payload[..length]).unwrap();
            if header[3] == 1 {
                let id = &header[5..];
                let answer = [&[0, 0, 1, 1, 4], id, &[0x88], &[0, 0, 5, 0, 1], id, b"hello"].concat();
                tcp.write_all(&answer).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_request_over_a_warm_connection_allocates_nothing() {
    run(async {
        let (worker, target) = (worker(), Target::of_tests(peer_elsewhere(), None));
        let (mut head, mut body) = (worker.buffers.lend(), worker.buffers.lend());
        let (mut before, counted) = (0, 1_000);
        for number in 0..200 + counted {
            if number == 200 {
                before = crate::sys::counting::allocations();
            }
            let Ok(Acquired::Http2(connection)) = acquire(&target, &worker).await else { panic!("no connection") };
            let mut stream = connection.open(RequestKind::Other, true, request("/a")).unwrap();
            head.clear();
            body.clear();
            poll_fn(|context| stream.poll_head(context, &mut head)).await.unwrap();
            while !poll_fn(|context| stream.poll_data(context, &mut body, 1_000)).await.unwrap().end {}
            assert_eq!(body, b"hello");
        }
        let made = crate::sys::counting::allocations() - before;
        assert!(made < counted / 20, "{made} allocations, the last of {:?} bytes", crate::sys::counting::sizes());
    });
}

#[path = "client_stall_tests.rs"]
mod stalls;
