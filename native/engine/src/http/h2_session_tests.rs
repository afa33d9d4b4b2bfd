//! What a request over HTTP/2 costs: on a connection that is warm, no allocation.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, mpsc};

use meshdp_model::facts::{ConnectionFacts, Direction};
use meshdp_model::identity::Peer;
use meshdp_model::sections::ChainProtocol;
use meshdp_model::snapshot::Snapshot;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use super::*;
use crate::connection::{Chain, Detection, Link};
use crate::stream::Stream;
use crate::sys::counting;
use crate::tls::credentials::CredentialStore;

const WARMING: usize = 200;
const COUNTED: usize = 1_000;

/// An application that answers every head with the same bytes.
fn application() -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut accepted, _) = listener.accept().unwrap();
        let mut asked = [0; 4_096];
        while accepted.read(&mut asked).is_ok_and(|count| count > 0) {
            assert!(asked.starts_with(b"GET /cheap HTTP/1.1\r\n"));
            accepted.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: a\r\n\r\nhello").unwrap();
        }
    });
    address
}

/// A client that warms the connection, says so, and waits until it may go on.
fn client(to: SocketAddr, warm: oneshot::Sender<()>, go_on: mpsc::Receiver<()>) -> oneshot::Receiver<()> {
    let (done, when_done) = oneshot::channel();
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_io().build().unwrap().block_on(async {
            let tcp = TcpStream::connect(to).await.unwrap();
            let (mut requests, connection) = h2::client::handshake(tcp).await.unwrap();
            tokio::spawn(connection);
            let mut warm = Some(warm);
            for number in 0..WARMING + COUNTED {
                if number == WARMING {
                    warm.take().unwrap().send(()).unwrap();
                    go_on.recv().unwrap();
                }
                let request =
                    http::Request::get("http://server/cheap").header("x-meshdp-http1", "1.1").body(()).unwrap();
                requests = requests.ready().await.unwrap();
                let (response, _) = requests.send_request(request, true).unwrap();
                let mut body = response.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            }
            done.send(()).unwrap();
        });
    });
    when_done
}

fn link(worker: &Worker, source: SocketAddr, destination: SocketAddr) -> (Link, crate::worker::registry::Admitted) {
    let admitted = worker.registry.admit(Direction::Outbound, source, destination).unwrap();
    // A peer of the mesh, whose note says that the request came as HTTP/1.1: so it goes to the application.
    let peer = Some(Peer::parse("spiffe://cluster.local/ns/default/sa/alice").unwrap());
    let facts = ConnectionFacts { direction: Direction::Outbound, peer, source, destination, sni: None };
    let chain = Chain { terminate: true, protocol: ChainProtocol::Http };
    let (sniffed, peer_hash) = (Detection::default(), Some([7; 32]));
    let entry = Rc::clone(&admitted.entry);
    (Link { facts, sniffed, chain, peer_hash, peer_root: None, entry }, admitted)
}

#[test]
fn a_request_on_a_warm_connection_allocates_nothing() {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/snapshot/details.json");
        let snapshot = Snapshot::empty().apply(&std::fs::read(golden).unwrap()).unwrap();
        let worker = Worker::of_tests_under(snapshot, Arc::new(CredentialStore::new()));
        let application = application();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (warm, when_warm) = oneshot::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let when_done = client(listener.local_addr().unwrap(), warm, may_go_on);
        let (tcp, source) = listener.accept().await.unwrap();
        let (link, admitted) = link(&worker, source, application);
        let serving = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            let pinned = serving.pin();
            let secured = Box::new(Secured { stream: Stream::Plain(tcp), received: Vec::new(), link });
            run(secured, &pinned, &serving).await.unwrap();
            drop(admitted);
        });
        when_warm.await.unwrap();
        let before = counting::allocations();
        go_on.send(()).unwrap();
        when_done.await.unwrap();
        let made = usize::try_from(counting::allocations() - before).unwrap();
        println!("{made} allocations for {COUNTED} requests, the last of {:?} bytes", counting::sizes());
        assert!(made * 20 < COUNTED, "{made} allocations for {COUNTED} requests");
    });
}
