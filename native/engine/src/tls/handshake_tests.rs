//! Handshakes over loopback: who gets in, who does not, and what was agreed.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::future::poll_fn;
use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::version::TLS12;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::config::provider;
use super::super::pki::{
    ALICE, Authority, BOB, Clock, NOW, Pair, Shaken, authority, blank_verifier, policy, run, shake, sockets, svid,
    uri_name,
};
use super::super::session::Session;
use super::super::{leaf::sha256, pki};
use super::*;
use crate::tls::credentials::TrustPolicy;

const SNI: &str = "outbound_.9080_._.details.default.svc.cluster.local";

fn code(shaken: &Shaken) -> &'static str {
    match shaken {
        Ok((_, peer)) => panic!("{} was accepted", peer.uri),
        Err(failure) => failure.code(),
    }
}

/// What Bob's server says to a client with this certificate.
async fn verdict(ca: &Authority, pair: &Pair) -> &'static str {
    let (server, _client) = shake(&ca.credentials(BOB), &ca.rogue(pair), &[BOB.to_owned()]).await;
    code(&server)
}

#[test]
fn both_sides_know_each_other() {
    run(async {
        let ca = Authority::new("root");
        let sub = ca.sub(authority("sub"));
        let pair = sub.issue(&svid(ALICE));
        let (server, client) = shake(&ca.credentials(BOB), &ca.rogue(&pair), &[BOB.to_owned()]).await;
        let ((server, caller), (client, service)) = (server.unwrap(), client.unwrap());
        assert_eq!((caller.uri.as_str(), service.uri.as_str()), (ALICE, BOB));
        assert_eq!(caller.not_after_unix, 1_782_864_000, "2026-07-01 00:00 UTC");
        assert_eq!(caller.hash, sha256(&pki::chain(&pair)[0]));
        assert_eq!((server.alpn(), client.alpn()), (Some(&b"http/1.1"[..]), Some(&b"http/1.1"[..])));
        let common = client.session().common();
        assert_eq!(common.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(common.negotiated_cipher_suite(), Some(cipher_suite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(common.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    });
}

#[test]
fn the_hybrid_key_exchange_can_be_turned_off() {
    run(async {
        let ca = Authority::new("root");
        let classic = TrustPolicy { post_quantum: false, ..policy() };
        for (server, client) in [(&classic, &policy()), (&policy(), &classic)] {
            let (server, client) = (ca.credentials_under(BOB, server), ca.credentials_under(ALICE, client));
            let (_, client) = shake(&server, &client, &[]).await;
            let group = client.unwrap().0.session().common().negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519);
        }
    });
}

/// The first bytes that `connect` sends.
async fn client_hello(alpn: ClientAlpn) -> Vec<u8> {
    let ca = Authority::new("root");
    let credentials = ca.credentials(ALICE);
    let (near, mut far) = sockets().await;
    let mut hello = vec![0; 5];
    let peer = ExpectedPeer { identities: &[] };
    let read = async {
        far.read_exact(&mut hello).await.unwrap();
        let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        hello.resize(5 + length, 0);
        far.read_exact(&mut hello[5..]).await.unwrap();
        drop(far);
    };
    let ((), shaken) = tokio::join!(read, connect(near, &credentials, SNI, &peer, alpn));
    assert_eq!(code(&shaken), "tls_peer_closed");
    hello
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_client_hello_is_istios() {
    run(async {
        let http = client_hello(ClientAlpn::Http11).await;
        assert!(holds(&http, SNI.as_bytes()), "Istio's SNI with its underscores");
        assert!(holds(&http, b"\x00\x1e\x0eistio-http/1.1\x05istio\x08http/1.1"), "the ALPN list for HTTP/1.1");
        assert!(holds(&http, b"\x11\xec\x04\xc0") && holds(&http, b"\x00\x1d\x00\x20"), "both key shares");
        let http2 = client_hello(ClientAlpn::Http2).await;
        assert!(holds(&http2, b"\x00\x12\x08istio-h2\x05istio\x02h2"), "the ALPN list for HTTP/2");
        let tcp = client_hello(ClientAlpn::Tcp).await;
        assert!(holds(&tcp, b"\x00\x06\x05istio") && !holds(&tcp, b"istio-"), "the ALPN list for TCP");
    });
}

#[test]
fn tl_15_no_overlap_selects_nothing_and_refuses_nothing() {
    run(async {
        let ca = Authority::new("root");
        let (bob, alice) = (ca.credentials(BOB), ca.credentials(ALICE));
        for dial in [ClientAlpn::Tcp, ClientAlpn::Http11, ClientAlpn::Http2] {
            let (near, far) = sockets().await;
            let peer = ExpectedPeer { identities: &[] };
            let serve = accept(far, Vec::new(), &bob, ServerAlpn::Nothing);
            let (server, client) = tokio::join!(serve, connect(near, &alice, "", &peer, dial));
            assert_eq!((server.unwrap().0.alpn(), client.unwrap().0.alpn()), (None, None), "{dial:?}");
        }
    });
}

#[test]
fn http2_is_agreed_on_where_both_speak_it() {
    run(async {
        let ca = Authority::new("root");
        let (near, far) = sockets().await;
        let (bob, alice, peer) = (ca.credentials(BOB), ca.credentials(ALICE), ExpectedPeer { identities: &[] });
        let serve = accept(far, Vec::new(), &bob, ServerAlpn::Http2);
        let (server, client) = tokio::join!(serve, connect(near, &alice, SNI, &peer, ClientAlpn::Http2));
        assert_eq!((server.unwrap().0.alpn(), client.unwrap().0.alpn()), (Some(&b"h2"[..]), Some(&b"h2"[..])));
    });
}

#[test]
fn tl_16_a_name_that_cannot_be_sent_is_refused() {
    run(async {
        let ca = Authority::new("root");
        let alice = ca.credentials(ALICE);
        let peer = ExpectedPeer { identities: &[] };
        for sni in ["a\0b", "a..b", &"x".repeat(256)] {
            let (near, _far) = sockets().await;
            assert_eq!(code(&connect(near, &alice, sni, &peer, ClientAlpn::Tcp).await), "tls_server_name");
        }
    });
}

#[test]
fn tl_01_no_client_certificate() {
    run(async {
        let ca = Authority::new("root");
        let bob = ca.credentials(BOB);
        let (near, far) = sockets().await;
        let config = rustls::ClientConfig::builder_with_details(provider(true), Arc::new(Clock(NOW)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(blank_verifier(&ca))
            .with_no_client_auth();
        let session = Session::client(config.into(), server_name("bob", &near).unwrap(), Vec::new()).unwrap();
        let client = shake_raw(TlsStream::new(near, session, Vec::new()));
        let (server, _client) = tokio::join!(accept(far, Vec::new(), &bob, ServerAlpn::Nothing), client);
        assert_eq!(code(&server), "tls_no_client_certificate");
    });
}

/// Handshake, then a read: a TLS 1.3 client learns only there that the server refused its certificate.
async fn shake_raw(mut stream: Box<TlsStream>) -> Result<(), TlsFailure> {
    stream.handshake().await?;
    let mut buf = Vec::new();
    poll_fn(|cx| stream.poll_read(cx, &mut buf, 1)).await?;
    Ok(())
}

#[test]
fn tl_02_another_ca_and_the_same_subject_with_another_key() {
    run(async {
        let (ca, other) = (Authority::new("root"), Authority::new("root"));
        assert_eq!(verdict(&ca, &other.issue(&svid(ALICE))).await, "tls_untrusted_chain");
        let stranger = Authority::new("elsewhere");
        assert_eq!(verdict(&ca, &stranger.issue(&svid(ALICE))).await, "tls_untrusted_chain");
        let (server, client) = shake(&ca.rogue(&other.issue(&svid(BOB))), &ca.credentials(ALICE), &[]).await;
        assert_eq!(code(&client), "tls_untrusted_chain");
        assert_eq!(code(&server), "tls_peer_alert");
    });
}

#[test]
fn tl_02_self_signed() {
    run(async {
        let ca = Authority::new("root");
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = svid(ALICE).self_signed(&key).unwrap().pem();
        assert_eq!(verdict(&ca, &Pair { chain, key: key.serialize_pem() }).await, "tls_untrusted_chain");
    });
}

#[test]
fn tl_03_expired_and_not_yet_valid() {
    run(async {
        let ca = Authority::new("root");
        let mut params = svid(ALICE);
        params.not_after = rcgen::date_time_ymd(2026, 6, 14);
        assert_eq!(verdict(&ca, &ca.issue(&params)).await, "tls_expired");
        let mut params = svid(ALICE);
        params.not_before = rcgen::date_time_ymd(2026, 6, 16);
        assert_eq!(verdict(&ca, &ca.issue(&params)).await, "tls_expired");
    });
}

#[test]
fn tl_04_a_server_of_another_account() {
    run(async {
        let ca = Authority::new("root");
        let (bob, alice) = (ca.credentials(BOB), ca.credentials(ALICE));
        // Twice: the second time the chain is remembered, the identity must not be.
        for _ in 0..2 {
            let carol = ["spiffe://cluster.local/ns/default/sa/carol".to_owned()];
            let (server, client) = shake(&bob, &alice, &carol).await;
            assert_eq!(code(&client), "tls_identity_mismatch");
            assert_eq!(code(&server), "tls_peer_alert");
            assert!(shake(&bob, &alice, &[carol[0].clone(), BOB.to_owned()]).await.1.is_ok());
        }
    });
}

#[test]
fn tl_05_not_exactly_one_spiffe_uri() {
    run(async {
        let ca = Authority::new("root");
        let names = [
            vec![],
            vec![uri_name(ALICE), uri_name(BOB)],
            vec![uri_name("https://cluster.local/ns/default/sa/alice")],
            vec![uri_name("spiffe://cluster.local")],
        ];
        for alt_names in names {
            let mut params = svid(ALICE);
            params.subject_alt_names = alt_names;
            assert_eq!(verdict(&ca, &ca.issue(&params)).await, "tls_not_an_svid", "{:?}", params.subject_alt_names);
        }
    });
}

#[test]
fn tl_06_an_identity_in_a_dns_name_is_none() {
    run(async {
        let ca = Authority::new("root");
        for name in ["alice.default.svc.cluster.local", ALICE] {
            let mut params = svid(ALICE);
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
            assert_eq!(verdict(&ca, &ca.issue(&params)).await, "tls_not_an_svid");
        }
        let mut nul = svid(ALICE);
        nul.subject_alt_names = vec![uri_name("spiffe://cluster.local/ns/default/sa/alice\0.evil")];
        assert_eq!(verdict(&ca, &ca.issue(&nul)).await, "tls_not_an_svid");
    });
}

#[test]
fn tl_07_a_leaf_with_the_wrong_rights() {
    run(async {
        let ca = Authority::new("root");
        let mut ca_leaf = authority("alice");
        ca_leaf.subject_alt_names = vec![uri_name(ALICE)];
        assert_eq!(verdict(&ca, &ca.issue(&ca_leaf)).await, "tls_untrusted_chain");
        for usages in [vec!["sign"], vec!["sign", "certs"], vec!["sign", "crls"], vec!["encipher"]] {
            let mut params = svid(ALICE);
            params.key_usages = usages.iter().map(|name| usage(name)).collect();
            let server = shake(&ca.credentials(BOB), &ca.rogue(&ca.issue(&params)), &[]).await.0;
            assert_eq!(server.is_ok(), usages == ["sign"], "{usages:?}");
        }
        let mut server_only = svid(ALICE);
        server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        assert_eq!(verdict(&ca, &ca.issue(&server_only)).await, "tls_untrusted_chain");
    });
}

fn usage(name: &str) -> rcgen::KeyUsagePurpose {
    match name {
        "sign" => rcgen::KeyUsagePurpose::DigitalSignature,
        "certs" => rcgen::KeyUsagePurpose::KeyCertSign,
        "crls" => rcgen::KeyUsagePurpose::CrlSign,
        _ => rcgen::KeyUsagePurpose::KeyEncipherment,
    }
}

#[test]
fn tl_08_a_leaf_used_as_issuer() {
    run(async {
        let ca = Authority::new("root");
        let mallory = ca.sub(svid("spiffe://cluster.local/ns/default/sa/mallory"));
        assert_eq!(verdict(&ca, &mallory.issue(&svid(ALICE))).await, "tls_untrusted_chain");
        let mut last = authority("last");
        last.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let beyond = ca.sub(last).sub(authority("beyond"));
        assert_eq!(verdict(&ca, &beyond.issue(&svid(ALICE))).await, "tls_untrusted_chain");
    });
}

#[test]
fn tl_09_a_chain_of_20() {
    run(async {
        let ca = Authority::new("root");
        let mut deep = ca.sub(authority("0"));
        for depth in 1..20 {
            deep = deep.sub(authority(&depth.to_string()));
        }
        assert_eq!(verdict(&ca, &deep.issue(&svid(ALICE))).await, "tls_untrusted_chain");
    });
}

#[test]
fn tl_10_tls_12_only_where_it_is_allowed() {
    run(async {
        let ca = Authority::new("root");
        for min_version_13 in [false, true] {
            let strict = TrustPolicy { min_version_13, ..policy() };
            let bob = ca.credentials_under(BOB, &strict);
            let pair = ca.issue(&svid(ALICE));
            let key = pki::base(&pair, &policy()).key;
            let (near, far) = sockets().await;
            let config = rustls::ClientConfig::builder_with_details(provider(true), Arc::new(Clock(NOW)))
                .with_protocol_versions(&[&TLS12])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(blank_verifier(&ca))
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*key).clone())));
            let session = Session::client(config.into(), server_name("bob", &near).unwrap(), Vec::new()).unwrap();
            let mut client = TlsStream::new(near, session, Vec::new());
            let dial = client.handshake();
            let (server, dialled) = tokio::join!(accept(far, Vec::new(), &bob, ServerAlpn::Nothing), dial);
            match server {
                Ok((_, peer)) => assert!(!min_version_13 && peer.uri == ALICE && dialled.is_ok()),
                Err(failure) => {
                    assert!(min_version_13, "{failure}");
                    assert_eq!((failure.code(), dialled.unwrap_err().code()), ("tls_protocol", "tls_peer_alert"));
                }
            }
        }
    });
}

#[test]
fn tl_26_trust_domains() {
    run(async {
        let ca = Authority::new("root");
        let foreign = "spiffe://other.example/ns/default/sa/alice";
        let pair = ca.issue(&svid(foreign));
        assert_eq!(verdict(&ca, &pair).await, "tls_trust_domain");
        // A prefix of text is no domain.
        let near_miss = ca.issue(&svid("spiffe://cluster.local.evil/ns/default/sa/alice"));
        assert_eq!(verdict(&ca, &near_miss).await, "tls_trust_domain");
        let alias =
            TrustPolicy { trust_domains: vec!["cluster.local".to_owned(), "other.example".to_owned()], ..policy() };
        let open = TrustPolicy { validate_trust_domain: false, ..policy() };
        for policy in [alias, open] {
            let (server, _) = shake(&ca.credentials_under(BOB, &policy), &ca.rogue(&pair), &[]).await;
            assert_eq!(server.unwrap().1.uri, foreign);
        }
    });
}

#[test]
fn the_client_learns_of_its_refusal() {
    run(async {
        let ca = Authority::new("root");
        let (near, far) = sockets().await;
        let bob = ca.credentials(BOB);
        let rogue = ca.rogue(&Authority::new("other").issue(&svid(ALICE)));
        let server = async {
            let shaken = accept(far, Vec::new(), &bob, ServerAlpn::Http11).await;
            assert_eq!(code(&shaken), "tls_untrusted_chain");
        };
        let client = async {
            let peer = ExpectedPeer { identities: &[] };
            let (mut stream, _) = connect(near, &rogue, "bob", &peer, ClientAlpn::Http11).await?;
            let mut buf = Vec::new();
            poll_fn(|cx| stream.poll_read(cx, &mut buf, 10)).await?;
            Ok(())
        };
        let ((), refused): ((), Result<(), TlsFailure>) = tokio::join!(server, client);
        assert_eq!(refused.unwrap_err().code(), "tls_peer_alert");
    });
}

#[test]
fn tl_17_the_sniffed_prefix_is_handed_on() {
    run(async {
        let ca = Authority::new("root");
        let (bob, alice) = (ca.credentials(BOB), ca.credentials(ALICE));
        for sniffed in [1, 5, 100, 600] {
            let (near, mut far) = sockets().await;
            let server = async {
                let mut prefix = vec![0; sniffed];
                far.read_exact(&mut prefix).await.unwrap();
                accept(far, prefix, &bob, ServerAlpn::Http11).await
            };
            let peer = ExpectedPeer { identities: &[] };
            let (server, client) = tokio::join!(server, connect(near, &alice, SNI, &peer, ClientAlpn::Http11));
            assert!(server.is_ok() && client.is_ok(), "after {sniffed} bytes");
        }
    });
}

#[test]
fn tl_18_the_end_in_the_middle_of_a_handshake() {
    run(async {
        let ca = Authority::new("root");
        let bob = ca.credentials(BOB);
        let hello = client_hello(ClientAlpn::Http11).await;
        for sent in [0, 1, 100, hello.len()] {
            let (mut near, far) = sockets().await;
            near.write_all(&hello[..sent]).await.unwrap();
            near.shutdown().await.unwrap();
            let shaken = accept(far, Vec::new(), &bob, ServerAlpn::Http11).await;
            assert_eq!(code(&shaken), "tls_peer_closed", "after {sent} bytes");
        }
    });
}

#[test]
fn tl_20_plaintext_is_no_handshake() {
    run(async {
        let ca = Authority::new("root");
        let bob = ca.credentials(BOB);
        for plain in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[0xff; 64],
            &[0x80, 0x2e, 1, 0, 2],
        ] {
            let (_near, far) = sockets().await;
            let shaken = accept(far, plain.to_vec(), &bob, ServerAlpn::Nothing).await;
            assert_eq!(code(&shaken), "tls_protocol", "{plain:?}");
        }
    });
}

#[test]
fn only_the_named_groups_and_suites_are_offered() {
    let made = provider(true);
    assert_eq!(made.kx_groups[0].name(), kx_group::X25519MLKEM768.name());
    assert_eq!(made.cipher_suites[0], cipher_suite::TLS13_AES_128_GCM_SHA256);
}

#[test]
fn a_handshake_is_a_small_future() {
    run(async {
        let credentials = Authority::new("root").credentials(BOB);
        let (near, far) = sockets().await;
        let peer = ExpectedPeer { identities: &[] };
        let served = size_of_val(&accept(far, Vec::new(), &credentials, ServerAlpn::Http11));
        let dialled = size_of_val(&connect(near, &credentials, SNI, &peer, ClientAlpn::Tcp));
        println!("{served} {dialled}");
        assert!(served.max(dialled) <= 1536, "{served} {dialled}");
    });
}

#[test]
fn tl_13_no_session_is_resumed() {
    run(async {
        let ca = Authority::new("root");
        let bob = ca.credentials(BOB);
        let key = pki::base(&ca.issue(&svid(ALICE)), &policy()).key;
        for version in [&TLS12, &rustls::version::TLS13] {
            // This client would resume: its session store is rustls' default.
            let config = rustls::ClientConfig::builder_with_details(provider(true), Arc::new(Clock(NOW)))
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(blank_verifier(&ca))
                .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*key).clone())));
            let config = Arc::new(config);
            for _ in 0..2 {
                let (near, far) = sockets().await;
                let session = Session::client(config.clone(), server_name("bob", &near).unwrap(), Vec::new()).unwrap();
                let mut client = TlsStream::new(near, session, Vec::new());
                let server = accept(far, Vec::new(), &bob, ServerAlpn::Nothing);
                let (server, dialled) = tokio::join!(server, client.handshake());
                dialled.unwrap();
                let mut server = server.unwrap().0;
                poll_fn(|cx| server.poll_write(cx, b"x")).await.unwrap();
                poll_fn(|cx| client.poll_read(cx, &mut Vec::new(), 1)).await.unwrap();
                let kind = client.session().common().handshake_kind();
                assert!(
                    matches!(kind, Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)),
                    "{kind:?}"
                );
            }
        }
    });
}
