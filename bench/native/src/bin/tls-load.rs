//! N clients in a closed loop over mutual TLS, as a sidecar of the mesh would come: warms up, waits to be told, measures.
//!
//! In:     `tls-load IP:PORT HOST CONNECTIONS WARM_MS RUN_MS FOLDER [fresh] [hybrid]`; FOLDER holds `leaf.pem`, `key.pem`, `ca.pem`;
//!         a line on stdin starts the measured part. With `fresh`, every request has a handshake of its own.
//!         Without it, connections are opened one after the other, each with one request, before the warm part.
//! Out:    "ready" once warm; after the run one JSON line, as `floor/load.c` writes it.
//! Limits: a thread a connection; an answer has a content-length. Signatures are checked, chains and names are not: who
//!         answers is the other end's affair here.
//! Fails:  another answer than a whole 200 is an error, counted and printed; such a run is no figure. A connection that cannot be
//!         opened ends the program with the reason.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match Plan::read(&words) {
        Ok(plan) => plan.run(),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// What is asked for on the command line.
#[derive(Clone)]
struct Plan {
    target: SocketAddr,
    request: Arc<[u8]>,
    connections: usize,
    warm: Duration,
    run: Duration,
    fresh: bool,
    config: Arc<ClientConfig>,
    opening: Arc<Mutex<()>>,
}

impl Plan {
    fn read(words: &[String]) -> Result<Self, String> {
        let [target, host, connections, warm, run, folder, more @ ..] = words else {
            return Err("usage: tls-load IP:PORT HOST CONNECTIONS WARM_MS RUN_MS FOLDER [fresh] [hybrid]".to_owned());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text}: expected a number"));
        let said = |word: &str| more.iter().any(|each| each == word);
        let request =
            format!("GET /item/42?view=full HTTP/1.1\r\nhost: {host}\r\nuser-agent: floor\r\naccept: */*\r\n\r\n");
        Ok(Self {
            target: target.parse().map_err(|_| format!("{target}: expected IP:PORT"))?,
            request: request.into_bytes().into(),
            connections: number(connections)? as usize,
            warm: Duration::from_millis(number(warm)?),
            run: Duration::from_millis(number(run)?),
            fresh: said("fresh"),
            config: configuration(Path::new(folder), said("hybrid")).map_err(|error| format!("{folder}: {error}"))?,
            opening: Arc::default(),
        })
    }

    /// Two barriers keep the threads in step: one when all are warm, one when the measured part begins.
    fn run(&self) -> ExitCode {
        let step = Arc::new(Barrier::new(self.connections + 1));
        let clients: Vec<_> = (0..self.connections)
            .map(|_| {
                let (plan, step) = (self.clone(), Arc::clone(&step));
                thread::spawn(move || plan.client(&step))
            })
            .collect();
        step.wait();
        println!("ready");
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
            return ExitCode::SUCCESS; // nobody is interested any more: the threads end with the process
        }
        let begun = Instant::now();
        step.wait();
        let tallies: Vec<Tally> = clients.into_iter().filter_map(|client| client.join().ok()).collect();
        let seconds = begun.elapsed().as_secs_f64();
        let mut took: Vec<u64> = tallies.iter().flat_map(|tally| tally.took_us.iter().copied()).collect();
        took.sort_unstable();
        let lost = self.connections - tallies.len();
        let errors = tallies.iter().map(|tally| tally.errors).sum::<usize>() + lost;
        let quantile = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or(0);
        println!(
            "{{\"requests\": {}, \"errors\": {errors}, \"seconds\": {seconds:.4}, \"p50_us\": {}, \"p90_us\": {}, \"p99_us\": {}}}",
            took.len(),
            quantile(50),
            quantile(90),
            quantile(99),
        );
        ExitCode::SUCCESS
    }

    fn client(&self, step: &Barrier) -> Tally {
        let mut open = None;
        let mut tally = Tally::default();
        if !self.fresh {
            self.open_in_turn(&mut open);
        }
        self.turns(&mut open, self.warm, &mut tally);
        tally.took_us.clear();
        step.wait();
        step.wait();
        self.turns(&mut open, self.run, &mut tally);
        tally
    }

    /// One connection at a time, so that what idle ones cost is not what a burst of handshakes leaves behind.
    fn open_in_turn(&self, open: &mut Option<Connection>) {
        let _mine = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.turn(open) {
            eprintln!("tls-load: one of {} connections was not opened: {error}", self.connections);
            std::process::exit(1);
        }
    }

    fn turns(&self, open: &mut Option<Connection>, time: Duration, tally: &mut Tally) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let start = Instant::now();
            let answered = self.turn(open);
            match answered {
                Ok(()) => tally.took_us.push(start.elapsed().as_micros() as u64),
                Err(error) => {
                    eprintln!("{error}");
                    tally.errors += 1;
                    return;
                }
            }
        }
    }

    fn turn(&self, open: &mut Option<Connection>) -> std::io::Result<()> {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        connection.get_mut().write_all(&self.request)?;
        read_answer(&mut connection)?;
        if !self.fresh {
            *open = Some(connection);
        }
        Ok(())
    }

    fn connect(&self) -> std::io::Result<Connection> {
        let tcp = TcpStream::connect(self.target)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = DnsName::try_from(SNI.to_owned()).map_err(|_| std::io::Error::other("the SNI is no name"))?;
        let session = ClientConnection::new(Arc::clone(&self.config), ServerName::DnsName(name));
        Ok(BufReader::new(StreamOwned::new(session.map_err(std::io::Error::other)?, tcp)))
    }
}

type Connection = BufReader<StreamOwned<ClientConnection, TcpStream>>;

#[derive(Default)]
struct Tally {
    took_us: Vec<u64>,
    errors: usize,
}

fn read_answer(connection: &mut Connection) -> std::io::Result<()> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other(format!("expected 200, found {line:?}")));
    }
    let mut length = None;
    while line != "\r\n" {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            _ => {}
        }
    }
    let length = length.ok_or_else(|| std::io::Error::other("an answer without content-length"))?;
    let read = std::io::copy(&mut connection.take(length), &mut std::io::sink())?;
    if read == length { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

fn configuration(folder: &Path, hybrid: bool) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_file_iter(folder.join("leaf.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![if hybrid { aws_lc_rs::kx_group::X25519MLKEM768 } else { aws_lc_rs::kx_group::X25519 }];
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Checks signatures and no names: the server's cost is measured, not its identity.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client sidecar offers with HTTP/1.1 (istio-semantics B.2).
const ALPN: [&[u8]; 3] = [b"istio-http/1.1", b"istio", b"http/1.1"];
const SNI: &str = "outbound_.9080_._.server.default.svc.cluster.local";
