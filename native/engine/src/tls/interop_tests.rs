//! Handshakes and data with OpenSSL on the other side (attack case TL-30); skipped where there is no `openssl`.

#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::pki::{ALICE, Authority, BOB, NOW, run, svid};
use super::{ClientAlpn, ExpectedPeer, ServerAlpn, accept, connect};
use crate::stream::Stream;

/// A directory with `cert.pem`, `key.pem` and `roots.pem`, removed at the end.
struct Files(PathBuf);

impl Files {
    fn new(ca: &Authority, uri: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("meshdp-interop-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let files = Self(std::env::temp_dir().join(name));
        std::fs::create_dir(&files.0).unwrap();
        let pair = ca.issue(&svid(uri));
        for (name, text) in [("cert.pem", pair.chain), ("key.pem", pair.key), ("roots.pem", ca.bundle())] {
            std::fs::write(files.0.join(name), text).unwrap();
        }
        files
    }

    /// `openssl <verb>` with its certificate, verifying ours at the tests' time.
    fn openssl(&self, verb: &str, more: &[&str]) -> Running {
        let now = NOW.to_string();
        let child = Command::new("openssl")
            .current_dir(&self.0)
            .args([verb, "-cert", "cert.pem", "-key", "key.pem", "-CAfile", "roots.pem"])
            .args(["-verify_return_error", "-attime", &now])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Running(child.unwrap())
    }
}

/// A program that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn openssl_is_absent() -> bool {
    let absent = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err();
    if absent {
        eprintln!("skipped: there is no openssl program");
    }
    absent
}

#[test]
fn tl_30_an_openssl_client_calls_us() {
    if openssl_is_absent() {
        return;
    }
    run(async {
        let ca = Authority::new("root");
        let (bob, files) = (ca.credentials(BOB), Files::new(&ca, ALICE));
        for (version, offered, selected) in [
            ("-tls1_3", "istio-http/1.1,istio,http/1.1", Some(&b"http/1.1"[..])),
            ("-tls1_2", "istio-http/1.1,istio,http/1.1", Some(b"http/1.1")),
            ("-tls1_3", "istio-h2,istio,h2", Some(b"h2")),
            ("-tls1_3", "istio-peer-exchange,istio", None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let more =
                ["-connect", &address, version, "-alpn", offered, "-servername", "outbound_.80_._.bob", "-quiet"];
            let mut child = files.openssl("s_client", &more);
            let mut stdin = child.0.stdin.take().unwrap();
            stdin.write_all(b"question\n").unwrap();
            let (tcp, _) = listener.accept().await.unwrap();
            let spoken = [ServerAlpn::Http2, ServerAlpn::Http11];
            let alpn = ServerAlpn::select(&spoken, || offered.split(',').map(str::as_bytes));
            let (tls, peer) = accept(tcp, Vec::new(), &bob, alpn).await.unwrap();
            assert_eq!((peer.uri.as_str(), tls.alpn()), (ALICE, selected), "{version}");
            let mut stream = Stream::Tls(tls);
            assert_eq!(read_line(&mut stream).await, b"question\n");
            stream.write_all(b"answer\n").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut said = String::new();
            child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(said, "answer\n", "{version}");
        }
    });
}

#[test]
fn tl_30_we_call_an_openssl_server() {
    if openssl_is_absent() {
        return;
    }
    run(async {
        let ca = Authority::new("root");
        let (alice, files) = (ca.credentials(ALICE), Files::new(&ca, BOB));
        for (version, alpn, selected) in [
            ("-tls1_3", ClientAlpn::Http11, Some(&b"http/1.1"[..])),
            ("-tls1_2", ClientAlpn::Http11, Some(b"http/1.1")),
            ("-tls1_3", ClientAlpn::Http2, Some(b"h2")),
            ("-tls1_3", ClientAlpn::Tcp, None),
        ] {
            let address = free_address().await;
            let mut more = vec!["-accept", &address, version, "-Verify", "4", "-rev", "-naccept", "1"];
            // As a server OpenSSL refuses lists that do not overlap; Envoy and we do not.
            if selected.is_some() {
                more.extend(["-alpn", "h2,http/1.1"]);
            }
            let _server = files.openssl("s_server", &more);
            let tcp = dial(&address).await;
            let peer = ExpectedPeer { identities: &[BOB.to_owned()] };
            let (tls, server) = connect(tcp, &alice, "outbound_.80_._.bob", &peer, alpn).await.unwrap();
            assert_eq!((server.uri.as_str(), tls.alpn()), (BOB, selected), "{version}");
            let mut stream = Stream::Tls(tls);
            stream.write_all(b"question\n").await.unwrap();
            assert_eq!(read_line(&mut stream).await, b"noitseuq\n", "{version}");
            stream.shutdown().await.unwrap();
        }
    });
}

async fn read_line(stream: &mut Stream) -> Vec<u8> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        assert_ne!(stream.read(&mut line, 1000).await.unwrap(), 0, "the peer ended before its line did");
    }
    line
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

async fn dial(address: &str) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(tcp) => return tcp,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
