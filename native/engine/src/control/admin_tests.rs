//! The admin servers over loopback sockets: every path, every refusal, slow and oversize peers.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::*;
use crate::control::admin_routes::{Action, ROUTES};

/// A state that says what it was asked.
#[derive(Default)]
struct Fake {
    not_ready: bool,
    drains: AtomicU32,
    quits: AtomicU32,
}

impl AdminState for Fake {
    fn ready(&self) -> Result<(), String> {
        if self.not_ready { Err("no \"certificate\"".to_owned()) } else { Ok(()) }
    }
    fn config(&self, prefixes: Option<&str>) -> String {
        serde_json::json!({ "config": prefixes }).to_string()
    }
    fn connections(&self) -> Answer<String> {
        Box::pin(async {
            tokio::task::yield_now().await;
            "{\"connections\":[]}".to_owned()
        })
    }
    fn certs(&self) -> String {
        "{\"certs\":1}".to_owned()
    }
    fn prometheus(&self) -> String {
        "up 1\n".to_owned()
    }
    fn stats(&self) -> String {
        "{\"stats\":1}".to_owned()
    }
    fn set_access_log(&self, mode: &str) -> Result<(), String> {
        if mode == "json" { Ok(()) } else { Err("expected json".to_owned()) }
    }
    fn drain(&self) {
        self.drains.fetch_add(1, SeqCst);
    }
    fn quit(&self) {
        self.quits.fetch_add(1, SeqCst);
    }
}

/// Runs a test against a server on a loopback port, on one thread as in the sidecar.
fn with_server<F: Future<Output = ()>>(face: Face, state: &Arc<Fake>, test: impl FnOnce(std::net::SocketAddr) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state: Arc<dyn AdminState> = Arc::<Fake>::clone(state);
        let server = tokio::spawn(serve(Arc::new(listener), face, state));
        test(address).await;
        server.abort();
    });
}

/// Sends bytes and returns all that comes until the end.
async fn raw(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = String::new();
    timeout(DEADLINE * 2, stream.read_to_string(&mut answer)).await.expect("it answers").expect("text");
    answer
}

async fn ask(address: std::net::SocketAddr, line: &str) -> (u16, String) {
    let answer = raw(address, format!("{line} HTTP/1.1\r\nHost: localhost:15000\r\n\r\n").as_bytes()).await;
    split(&answer)
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.contains("\r\nconnection: close") && head.contains(&format!("\r\ncontent-length: {}", body.len())));
    (head[9..12].parse().expect("a status"), body.to_owned())
}

#[test]
fn the_admin_face_answers_all_its_paths() {
    let state = Arc::new(Fake::default());
    with_server(Face::Admin, &state, |address| async move {
        for (line, body) in [
            ("GET /ready", "{\"ready\":true}"),
            ("GET /config", "{\"config\":null}"),
            ("GET /config?x=y", "{\"config\":null}"),
            ("GET /config?sections=authz,inbound/", "{\"config\":\"authz,inbound/\"}"),
            ("GET /config?sections=", "{\"config\":\"\"}"),
            ("GET /connections", "{\"connections\":[]}"),
            ("GET /certs", "{\"certs\":1}"),
            ("GET /stats", "{\"stats\":1}"),
            ("GET /stats/prometheus", "up 1\n"),
            ("POST /logging?access_log=json", "{\"access_log\":\"json\"}"),
            ("POST /drain", "{\"draining\":true}"),
            ("POST /quitquitquit", "{\"quitting\":true}"),
        ] {
            assert_eq!(ask(address, line).await, (200, body.to_owned()), "{line}");
        }
    });
    assert_eq!((state.drains.load(SeqCst), state.quits.load(SeqCst)), (1, 1));
}

#[test]
fn what_is_not_there_is_refused_in_json() {
    let state = Arc::new(Fake::default());
    with_server(Face::Admin, &state, |address| async move {
        for (line, status) in [
            ("GET /", 404),
            ("GET /healthz/ready", 404),
            ("POST /ready", 405),
            ("DELETE /config", 405),
            ("HEAD /config", 405),
            ("GET /quitquitquit", 405),
            ("GET config", 400),
            ("GET  /config", 400),
            ("POST /logging?access_log=loud", 400),
            ("POST /logging", 400),
        ] {
            let (got, body) = ask(address, line).await;
            assert_eq!(got, status, "{line}");
            assert!(serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["error"].is_string());
        }
        let answer = raw(address, b"GET /drain HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.contains("\r\nallow: POST\r\n"), "{answer}");
    });
    assert_eq!((state.drains.load(SeqCst), state.quits.load(SeqCst)), (0, 0));
}

#[test]
fn readiness_is_503_with_its_reason() {
    let state = Arc::new(Fake { not_ready: true, ..Fake::default() });
    with_server(Face::Readiness, &state, |address| async move {
        let expected = "{\"ready\":false,\"reason\":\"no \\\"certificate\\\"\"}";
        assert_eq!(ask(address, "GET /healthz/ready").await, (503, expected.to_owned()));
        for path in ["/config", "/quitquitquit", "/stats/prometheus", "/ready"] {
            assert_eq!(ask(address, &format!("GET {path}")).await.0, 404, "{path}");
        }
    });
}

#[test]
fn only_the_admin_face_shows_configuration_and_certificates() {
    for (face, _, path, action) in ROUTES {
        let open = matches!(action, Action::Ready | Action::Prometheus | Action::Drain | Action::Quit);
        assert!(open || face == Face::Admin, "{face:?} {path}");
    }
}

#[test]
fn a_rebound_name_and_a_browsers_page_are_refused() {
    let state = Arc::new(Fake::default());
    with_server(Face::Admin, &state, |address| async move {
        for (host, status) in [
            ("localhost", 200),
            ("LOCALHOST:15000", 200),
            ("127.0.0.1:15000", 200),
            ("127.9.9.9", 200),
            ("[::1]:15000", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost:80:80", 403),
            ("10.0.0.1", 403),
            ("[::1].evil", 403),
            ("", 403),
        ] {
            let answer = raw(address, format!("GET /ready HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
            assert_eq!(split(&answer).0, status, "{host}");
        }
        let answer = raw(address, b"GET /ready HTTP/1.0\r\n\r\n").await;
        assert_eq!(split(&answer).0, 403, "no Host at all");
        let answer = raw(address, b"GET /ready HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(split(&answer).0, 400, "two of them");
        let answer =
            raw(address, b"POST /quitquitquit HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n")
                .await;
        assert_eq!(split(&answer).0, 403);
    });
    assert_eq!(state.quits.load(SeqCst), 0);
}

#[test]
fn changes_are_taken_from_loopback_but_not_from_carried_traffic() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    for (peer, face, path, status) in [
        ("127.0.0.1", Face::Status, "/quitquitquit", 200),
        ("::1", Face::Status, "/quitquitquit", 200),
        ("::ffff:127.0.0.1", Face::Status, "/drain", 200),
        ("127.0.0.6", Face::Status, "/quitquitquit", 403),
        ("::ffff:127.0.0.6", Face::Status, "/quitquitquit", 403),
        ("10.0.0.9", Face::Status, "/drain", 403),
        ("127.0.0.6", Face::Admin, "/drain", 403),
        ("10.0.0.9", Face::Admin, "/drain", 403),
    ] {
        let request = Request { method: "POST", path, query: "", host: Some("localhost"), has_origin: false };
        let peer = peer.parse().expect("an address");
        let response = runtime.block_on(admin_routes::answer(&request, peer, face, &Fake::default()));
        assert_eq!(response.status, status, "{peer} {face:?} {path}");
    }
}

#[test]
fn heads_are_bounded_to_the_byte_and_must_be_heads() {
    let state = Arc::new(Fake::default());
    with_server(Face::Metrics, &state, |address| async move {
        let head = |size: usize| {
            let start = "GET /metrics HTTP/1.1\r\nx: ";
            format!("{start}{}\r\n\r\n", "a".repeat(size - start.len() - 4)).into_bytes()
        };
        assert_eq!(split(&raw(address, &head(MAX_HEAD_BYTES)).await).0, 200);
        assert_eq!(split(&raw(address, &head(MAX_HEAD_BYTES + 1)).await).0, 431);
        assert_eq!(split(&raw(address, &vec![b'a'; 3 * MAX_HEAD_BYTES]).await).0, 431);
        for bad in [
            "GET /metrics HTTP/2\r\n\r\n",
            "GET /metrics\r\n\r\n",
            "\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(split(&raw(address, bad.as_bytes()).await).0, 400, "{bad}");
        }
        assert_eq!(split(&raw(address, b"GET /\xff HTTP/1.1\r\n\r\n").await).0, 400);
    });
}

#[test]
fn a_body_does_not_reset_the_answer_away() {
    let state = Arc::new(Fake::default());
    with_server(Face::Admin, &state, |address| async move {
        let body = "x".repeat(50_000);
        let request =
            format!("POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(split(&raw(address, request.as_bytes()).await).0, 200);
    });
}

#[test]
fn whoever_holds_all_connections_does_not_keep_a_probe_out() {
    let state = Arc::new(Fake::default());
    with_server(Face::Readiness, &state, |address| async move {
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.expect("the server listens");
            stream.write_all(b"GET /he").await.expect("it reads");
            held.push(stream);
        }
        let started = std::time::Instant::now();
        assert_eq!(ask(address, "GET /healthz/ready").await.0, 200);
        assert!(started.elapsed() < DEADLINE / 2);
        let mut rest = Vec::new();
        assert!(!matches!(held[0].read_to_end(&mut rest).await, Ok(1..)), "the oldest made room, without an answer");
    });
}

#[test]
fn a_slow_peer_is_cut_at_the_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = tokio::spawn(serve(Arc::new(listener), Face::Metrics, Arc::new(Fake::default())));
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.expect("it reads");
        let started = std::time::Instant::now();
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE * 2, stream.read_to_end(&mut rest)).await.expect("it is cut");
        assert!(!matches!(ended, Ok(1..)));
        assert!(started.elapsed() >= DEADLINE.mul_f32(0.98));
        server.abort();
    });
}

#[test]
fn the_documentation_names_every_path() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/admin.md")).expect("docs/admin.md");
    for (_, method, path, _) in ROUTES {
        assert!(page.contains(&format!("`{method} {path}")), "docs/admin.md lacks {method} {path}");
    }
}
