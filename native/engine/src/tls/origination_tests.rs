//! TLS begun for applications: servers, names, files. What a rule asks for and cannot be had is refused.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, SanType, date_time_ymd};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::tls::pki::{self, Authority, Pair, chain, run, sockets, svid};
use crate::tls::session::Session;
use crate::tls::{ClientAlpn, TlsStream, originate};

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mdp-origination-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn put(&self, name: &str, text: &str) -> Arc<str> {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The clock is the machine's here.
fn lasting(mut params: CertificateParams) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    params
}

fn authority(name: &str) -> Authority {
    Authority::with(lasting(pki::authority(name)))
}

fn server_certificate(ca: &Authority) -> Pair {
    let mut params = lasting(svid("spiffe://elsewhere/server"));
    let names = ["api.example.com", "*.wild.example.com"];
    params.subject_alt_names.extend(names.map(|name| SanType::DnsName(name.try_into().unwrap())));
    ca.issue(&params)
}

fn simple(authorities: Arc<str>) -> Origination {
    Origination {
        refused: "".into(),
        sni: "api.example.com".into(),
        names: Arc::new([]),
        authorities,
        certificate: "".into(),
        key: "".into(),
        verify: true,
    }
}

fn named(names: &[&str], authorities: &Arc<str>) -> Origination {
    Origination { names: names.iter().map(|name| Arc::from(*name)).collect(), ..simple(authorities.clone()) }
}

fn serving(pair: &Pair, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.bundle().as_bytes()).unwrap()).unwrap();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    Arc::new(builder.with_single_cert(chain(pair), key).unwrap())
}

/// What came of a connection: the server is seen to have read a byte where all went well.
async fn dial(server: &Arc<ServerConfig>, config: Arc<ClientConfig>, sni: &str) -> Result<(), TlsFailure> {
    let (near, far) = sockets().await;
    let mut far = TlsStream::new(far, Session::server(Arc::clone(server)).unwrap(), Vec::new());
    let client = async {
        let mut stream = crate::stream::Stream::Tls(originate(near, config, sni, ClientAlpn::Tcp).await?);
        assert!(stream.proof().is_none(), "no identity of the mesh");
        stream.write_all(b"x").await.map_err(TlsFailure::from)?;
        // With TLS 1.3 a server refuses our certificate only after our side is done.
        stream.read(&mut Vec::new(), 1).await.map(drop).map_err(TlsFailure::from)
    };
    let served = async {
        far.handshake().await?;
        let mut far = crate::stream::Stream::Tls(far);
        far.read(&mut Vec::new(), 1).await?;
        far.write_all(b"y").await?;
        Ok::<_, TlsFailure>(far)
    };
    let (client, _served) = tokio::join!(client, served);
    client
}

fn code(dialled: Result<(), TlsFailure>) -> &'static str {
    dialled.err().map_or("connected", |failure| failure.code())
}

#[test]
fn servers_are_accepted_by_authority_and_name_alone() {
    run(async {
        let (folder, ours, others) = (Folder::new(), authority("ours"), authority("others"));
        let (ca, wrong) = (folder.put("ca.pem", &ours.bundle()), folder.put("wrong.pem", &others.bundle()));
        let server = serving(&server_certificate(&ours), None);
        let mut expired = svid("spiffe://elsewhere/server"); // of June 2026
        expired.subject_alt_names.push(SanType::DnsName("api.example.com".try_into().unwrap()));
        (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let late = serving(&ours.issue(&expired), None);
        let unverified = Origination { verify: false, ..simple(wrong.clone()) };
        let elsewhere = Origination { sni: "b.example.com".into(), ..simple(ca.clone()) };
        let wild = Origination { sni: "a.wild.example.com".into(), ..simple(ca.clone()) };
        let both = named(&["other.example.com", "api.example.com"], &ca);
        for (server, asked, expected) in [
            (&server, simple(ca.clone()), "connected"),
            (&server, simple(wrong), "tls_untrusted_chain"),
            (&server, elsewhere, "tls_identity_mismatch"),
            (&server, wild, "connected"),
            (&server, both, "connected"),
            (&server, named(&["other.example.com"], &ca), "tls_identity_mismatch"),
            (&server, named(&["spiffe://elsewhere/server"], &ca), "connected"),
            (&server, named(&["spiffe://elsewhere/serve"], &ca), "tls_identity_mismatch"),
            (&server, unverified, "connected"),
            (&late, simple(ca.clone()), "tls_expired"),
        ] {
            let config = Originations::default().config(&asked).unwrap();
            assert_eq!(code(dial(server, config, &asked.sni).await), expected, "{asked:?}");
        }
    });
}

#[test]
fn our_own_certificate_is_shown_where_the_rule_names_one() {
    run(async {
        let (folder, ours) = (Folder::new(), authority("ours"));
        let ca = folder.put("ca.pem", &ours.bundle());
        let own = ours.issue(&lasting(svid("spiffe://elsewhere/client")));
        let (certificate, key) = (folder.put("own.pem", &own.chain), folder.put("own.key", &own.key));
        let server = serving(&server_certificate(&ours), Some(&ours));
        let mutual = Origination { certificate, key, ..simple(ca.clone()) };
        let config = Originations::default().config(&mutual).unwrap();
        assert_eq!(code(dial(&server, config, "api.example.com").await), "connected");
        let config = Originations::default().config(&simple(ca)).unwrap();
        assert_eq!(code(dial(&server, config, "api.example.com").await), "tls_peer_alert");
    });
}

#[test]
fn what_cannot_be_used_is_named_and_nothing_begins() {
    let (folder, ours) = (Folder::new(), authority("ours"));
    let ca = folder.put("ca.pem", &ours.bundle());
    let (own, other) = (ours.issue(&lasting(svid("spiffe://a/b"))), ours.issue(&lasting(svid("spiffe://a/c"))));
    let (certificate, key) = (folder.put("own.pem", &own.chain), folder.put("other.key", &other.key));
    let huge = folder.put("huge.pem", &" ".repeat(FILE_BYTES as usize + 1));
    let folder_itself: Arc<str> = folder.0.to_str().unwrap().into();
    let missing: Arc<str> = folder.0.join("none.pem").to_str().unwrap().into();
    for (asked, said) in [
        (simple(missing), "none.pem: No such file"),
        (simple(folder_itself), "it is no file"),
        (simple(huge), "it is above"),
        (simple(folder.put("empty.pem", "")), "it holds no authority"),
        (Origination { certificate: certificate.clone(), key, ..simple(ca.clone()) }, "it is not the key of"),
        (Origination { certificate: ca.clone(), key: ca.clone(), ..simple(ca.clone()) }, "ca.pem: "),
        (Origination { refused: "credentialName".into(), ..simple(ca) }, "credentialName"),
    ] {
        let failure = Originations::default().config(&asked).unwrap_err();
        assert_eq!(failure.code(), "tls_material");
        assert!(failure.to_string().contains(said), "{failure} for {asked:?}");
    }
}

#[test]
fn a_file_that_changes_is_read_again_and_one_that_does_not_is_not() {
    let (folder, first, second) = (Folder::new(), authority("first"), authority("second"));
    let asked = simple(folder.put("ca.pem", &first.bundle()));
    let mut originations = Originations::default();
    let before = originations.config(&asked).unwrap();
    assert!(Arc::ptr_eq(&before, &originations.config(&asked).unwrap()));
    let next = folder.put("next.pem", &second.bundle());
    std::fs::rename(&*next, &*asked.authorities).unwrap();
    assert!(!Arc::ptr_eq(&before, &originations.config(&asked).unwrap()));
    std::fs::remove_file(&*asked.authorities).unwrap();
    assert_eq!(originations.config(&asked).unwrap_err().code(), "tls_material");
}

#[test]
fn without_authorities_of_its_own_a_rule_takes_the_systems_and_fails_where_there_are_none() {
    let folder = Folder::new();
    let bundle: &'static str = Box::leak(folder.put("system.pem", &authority("system").bundle()).into());
    let places: &'static [&'static str] = Vec::leak(vec!["/nowhere/ca.pem", bundle]);
    let with = |system| Originations { system, ..Originations::default() };
    assert!(with(places).config(&simple("".into())).is_ok());
    let failure = with(&places[..1]).config(&simple("".into())).unwrap_err();
    assert!(failure.to_string().contains("no bundle of authorities (none of /nowhere/ca.pem)"), "{failure}");
    let unverified = Origination { verify: false, ..simple("".into()) };
    assert!(with(&places[..1]).config(&unverified).is_ok());
}
