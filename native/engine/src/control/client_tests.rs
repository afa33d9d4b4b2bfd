//! The feed client against a Unix socket that the test serves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::*;

/// A target that remembers: refuses what contains "bad", and holds what it applied last as its digest.
#[derive(Default)]
struct Fake {
    digest: Mutex<String>,
    csrs: AtomicU32,
    installs: AtomicU32,
    renew_in_s: u64,
    facts: Mutex<Option<Facts>>,
    events: Mutex<Vec<String>>,
}

impl FeedTarget for Fake {
    fn hello(&self) -> Hello {
        Hello { workload: "default/details-v1".to_owned(), version: "0.1.0".to_owned() }
    }
    fn digest(&self) -> String {
        self.digest.lock().expect("unpoisoned").clone()
    }
    fn apply(&self, transaction: Vec<u8>) -> Answer<Result<String, String>> {
        let text = String::from_utf8(transaction).expect("tests send text");
        let result = if text.contains("bad") { Err("no such base".to_owned()) } else { Ok(format!("d{}", text.len())) };
        if let Ok(digest) = &result {
            digest.clone_into(&mut self.digest.lock().expect("unpoisoned"));
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            result
        })
    }
    fn csr(&self) -> Result<Vec<u8>, String> {
        Ok(format!("csr {}", self.csrs.fetch_add(1, SeqCst)).into_bytes())
    }
    fn install(&self, chain: &[u8], bundle: &[u8]) -> Result<Renewal, String> {
        if !(chain == b"chain" || chain.is_empty()) || bundle != b"bundle" {
            return Err("not our key".to_owned());
        }
        let serial = self.installs.fetch_add(1, SeqCst).to_string();
        *self.facts.lock().expect("unpoisoned") = Some(Facts { serial, ..Facts::default() });
        let now_ms = wall_ms();
        let at = Instant::now() + Duration::from_secs(self.renew_in_s);
        Ok(Renewal { at, wall_ms: (now_ms - 60_000, now_ms + self.renew_in_s * 1_000) })
    }
    fn certificate(&self) -> Option<Facts> {
        self.facts.lock().expect("unpoisoned").clone()
    }
    fn note(&self, event: FeedEvent<'_>) {
        self.events.lock().expect("unpoisoned").push(format!("{event:?}"));
    }
}

/// The feed's side of one connection.
struct Peer {
    stream: UnixStream,
    frames: Decoder,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("the client connects").expect("a socket");
        Self { stream, frames: Decoder::default() }
    }

    async fn next(&mut self) -> (char, Vec<u8>) {
        loop {
            if let Some(frame) = self.frames.frame().expect("the client sends good frames") {
                return (char::from(frame.kind), frame.body);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(self.frames.room())).await.expect("the client speaks");
            assert_ne!(read.expect("a socket"), 0, "the client closed");
        }
    }

    async fn skip(&mut self, frames: usize) {
        for _ in 0..frames {
            self.next().await;
        }
    }

    async fn next_json(&mut self) -> (char, Value) {
        let (kind, body) = self.next().await;
        (kind, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        self.stream.write_all(&encode(kind, body).expect("it fits")).await.expect("the client reads");
    }

    /// Sends a certificate and hears that it is in use.
    async fn certify(&mut self) {
        self.give("chain").await;
        let (kind, said) = self.next_json().await;
        assert_eq!((kind, &said["reason"]), ('I', &json!("")), "{said}");
    }

    async fn give(&mut self, chain: &str) {
        self.send(b'K', json!({"chain": chain, "bundle": "bundle"}).to_string().as_bytes()).await;
    }

    /// Waits until the client has closed.
    async fn ends(mut self) {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the client closes").expect("a clean end");
    }
}

fn with_client<F: Future<Output = ()>>(fake: &Arc<Fake>, test: impl FnOnce(PathBuf, UnixListener) -> F) {
    with_client_for(Scope::Feed, fake, test);
}

fn with_client_for<F: Future<Output = ()>>(
    scope: Scope,
    fake: &Arc<Fake>,
    test: impl FnOnce(PathBuf, UnixListener) -> F,
) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("meshdp-feed-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
    let path = std::env::temp_dir().join(name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = UnixListener::bind(&path).expect("a free name");
        let target: Arc<dyn FeedTarget> = Arc::<Fake>::clone(fake);
        let client = tokio::spawn(follow(path.clone(), scope, target));
        test(path.clone(), listener).await;
        client.abort();
    });
    let _ = std::fs::remove_file(path);
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn it_says_hello_asks_first_thing_and_acknowledges() {
    let fake = Arc::new(Fake { renew_in_s: 3_600, ..Fake::default() });
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        let hello = json!({"workload": "default/details-v1", "schema": 2, "version": "0.1.0", "digest": ""});
        assert_eq!(peer.next_json().await, ('H', hello));
        assert_eq!(peer.next().await, ('C', b"csr 0".to_vec()));
        peer.certify().await;
        peer.send(b'T', b"{\"digest\":\"x\"}").await;
        assert_eq!(peer.next_json().await, ('A', json!({"digest": "d14"})));
    });
    assert_eq!(fake.installs.load(SeqCst), 1);
    let events = fake.events.lock().expect("unpoisoned");
    assert_eq!(events[0], "Connected");
    assert!(events[1] == "Certified" && events[2] == "Applied(\"d14\")", "{events:?}");
}

#[test]
fn a_refused_transaction_is_a_nack_with_what_stays_in_force() {
    let fake = Arc::new(Fake::default());
    fake.digest.lock().expect("unpoisoned").push_str("old");
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        assert_eq!(peer.next_json().await.1["digest"], "old");
        peer.next().await;
        peer.send(b'T', b"{\"digest\":\"new\",\"put\":{\"bad\":1}}").await;
        assert_eq!(
            peer.next_json().await,
            ('N', json!({"digest": "new", "in_force": "old", "reason": "no such base"}))
        );
        peer.send(b'T', b"bad, and no JSON").await;
        assert_eq!(peer.next_json().await, ('N', json!({"digest": "", "in_force": "old", "reason": "no such base"})));
        peer.send(b'T', b"{\"digest\":\"x\"}").await;
        assert_eq!(peer.next().await.0, 'A', "the connection lives on");
    });
}

#[test]
fn transactions_arrive_whole_however_they_are_cut() {
    let fake = Arc::new(Fake::default());
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.skip(2).await;
        let large = format!("{{\"digest\":\"{}\"}}", "x".repeat(300_000));
        let mut bytes = encode(b'T', b"{\"digest\":\"x\"}").expect("it fits");
        bytes.extend(encode(b'T', large.as_bytes()).expect("it fits"));
        for piece in [&bytes[..1], &bytes[1..5], &bytes[5..30], &bytes[30..100_000], &bytes[100_000..]] {
            peer.stream.write_all(piece).await.expect("the client reads");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(peer.next_json().await, ('A', json!({"digest": "d14"})));
        assert_eq!(peer.next_json().await, ('A', json!({"digest": format!("d{}", large.len())})));
    });
}

#[test]
fn it_reconnects_and_says_what_it_has() {
    let fake = Arc::new(Fake { renew_in_s: 3_600, ..Fake::default() });
    with_client(&fake, |path, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.skip(2).await;
        peer.send(b'T', b"{\"digest\":\"x\"}").await;
        peer.next().await;
        drop((peer, listener));
        std::fs::remove_file(&path).expect("it was bound");
        sleep(FIRST_BACKOFF * 3).await;
        let listener = UnixListener::bind(&path).expect("a free name");
        let mut peer = Peer::accept(&listener).await;
        assert_eq!(peer.next_json().await.1["digest"], "d14");
        assert_eq!(peer.next().await, ('C', b"csr 1".to_vec()), "what was not answered is asked again");
        peer.certify().await;
        drop((peer, listener));
        std::fs::remove_file(&path).expect("it was bound");
        let listener = UnixListener::bind(&path).expect("a free name");
        let mut peer = Peer::accept(&listener).await;
        peer.next().await;
        let (kind, said) = peer.next_json().await;
        assert_eq!((kind, &said["serial"]), ('I', &json!("0")), "a certificate that is good is not asked for again");
        peer.send(b'R', b"").await;
        assert_eq!(peer.next().await, ('C', b"csr 2".to_vec()), "unless the feed wants it");
    });
    let events = fake.events.lock().expect("unpoisoned");
    assert!(events.iter().any(|event| event.contains("the feed closed the connection")), "{events:?}");
    assert!(events.iter().any(|event| event.contains("cannot connect to the feed")), "{events:?}");
}

#[test]
fn frames_that_cannot_be_end_the_connection() {
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x00", b"\x00\x00\x00\x01Z", b"\x00\x00\x00\x01H"] {
        let fake = Arc::new(Fake::default());
        with_client(&fake, |_, listener| async move {
            let mut peer = Peer::accept(&listener).await;
            peer.skip(2).await;
            peer.stream.write_all(bytes).await.expect("the client reads");
            peer.ends().await;
            Peer::accept(&listener).await.next().await;
        });
        let events = fake.events.lock().expect("unpoisoned");
        assert!(events.iter().any(|event| event.starts_with("Lost(\"the feed sent a frame of")), "{events:?}");
    }
}

#[test]
fn an_error_or_a_useless_certificate_is_asked_again() {
    let fake = Arc::new(Fake { renew_in_s: 3_600, ..Fake::default() });
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.next().await;
        assert_eq!(peer.next().await, ('C', b"csr 0".to_vec()));
        peer.send(b'E', b"{\"message\":\"the authority is busy\"}").await;
        assert_eq!(peer.next().await, ('C', b"csr 1".to_vec()));
        peer.give("another").await;
        let (kind, said) = peer.next_json().await;
        assert_eq!((kind, &said["reason"]), ('I', &json!("not our key")));
        assert_eq!(peer.next().await, ('C', b"csr 2".to_vec()));
        peer.send(b'K', b"not JSON").await;
        assert_eq!(peer.next().await.0, 'I');
        assert_eq!(peer.next().await, ('C', b"csr 3".to_vec()));
        peer.certify().await;
        peer.send(b'E', b"{\"message\":\"by the way\"}").await;
        peer.send(b'T', b"{}").await;
        assert_eq!(peer.next().await.0, 'A', "no request comes before it: the certificate is good");
    });
    let events = fake.events.lock().expect("unpoisoned");
    assert_eq!(events.iter().filter(|event| event.starts_with("NotCertified(")).count(), 3, "{events:?}");
    assert!(events.contains(&"Trouble(\"by the way\")".to_owned()), "{events:?}");
}

#[test]
fn it_renews_when_the_target_says_so() {
    let fake = Arc::new(Fake { renew_in_s: 1, ..Fake::default() });
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.skip(2).await;
        peer.certify().await;
        assert_eq!(peer.next().await, ('C', b"csr 1".to_vec()));
        peer.certify().await;
        assert_eq!(peer.next().await, ('C', b"csr 2".to_vec()));
    });
    assert_eq!(fake.installs.load(SeqCst), 2);
}

#[test]
fn a_certificate_that_is_born_old_makes_no_busy_loop() {
    let fake = Arc::new(Fake::default());
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.skip(2).await;
        peer.certify().await;
        let early = timeout(LAST_BACKOFF / 2, peer.next()).await;
        assert!(early.is_err(), "{early:?}");
    });
}

#[test]
fn pauses_double_up_to_their_bound() {
    let mut backoff = Backoff::default();
    for full in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
        let pause = backoff.pause().as_millis();
        assert!((full / 2..=full).contains(&pause), "{pause} of {full}");
    }
}

#[test]
fn ca_06_a_bundle_alone_is_acknowledged_and_changes_no_plan() {
    let fake = Arc::new(Fake { renew_in_s: 3_600, ..Fake::default() });
    with_client(&fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        peer.skip(2).await;
        peer.give("").await;
        assert_eq!(peer.next_json().await.1["serial"], "0");
        peer.send(b'T', b"{}").await;
        assert_eq!(peer.next().await.0, 'A', "the request under way is not repeated");
        peer.certify().await;
        peer.send(b'K', b"{\"chain\":\"\",\"bundle\":\"wrong\"}").await;
        let (kind, said) = peer.next_json().await;
        assert_eq!((kind, &said["reason"], &said["serial"]), ('I', &json!("not our key"), &json!("1")));
        peer.send(b'T', b"{}").await;
        assert_eq!(peer.next().await.0, 'A', "a refused bundle asks for no certificate");
    });
}

#[test]
fn a_certificate_socket_speaks_four_kinds_alone() {
    let fake = Arc::new(Fake { renew_in_s: 1, ..Fake::default() });
    with_client_for(Scope::Certificates, &fake, |_, listener| async move {
        let mut peer = Peer::accept(&listener).await;
        assert_eq!((peer.next().await.0, peer.next().await.0), ('H', 'C'));
        peer.give("chain").await;
        assert_eq!(peer.next().await, ('C', b"csr 1".to_vec()), "the renewal comes, and no I before it");
        peer.send(b'T', b"{}").await;
        peer.ends().await;
    });
}
