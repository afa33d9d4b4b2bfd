//! Times decisions of the evaluator over one snapshot: what a request costs once its connection is known.
//!
//! In:     `decisions SNAPSHOT COUNT PEER METHOD PATH [NAME VALUE]…`; SNAPSHOT is a file with a transaction that has an empty base.
//! Out:    a line of JSON: the verdict, the nanoseconds of a decision and of what is done once a connection.
//! Fails:  with a sentence on stderr and exit code 2.
//! `bench/decisions.py` makes the snapshots.

use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use meshdp_model::facts::{ConnectionFacts, Direction, HeaderValues, RequestFacts};
use meshdp_model::identity::Peer;
use meshdp_model::snapshot::Snapshot;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match measured(&words) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("decisions: {why}");
            ExitCode::from(2)
        }
    }
}

fn measured(words: &[String]) -> Result<String, String> {
    let [file, count, peer, method, path, rest @ ..] = words else {
        return Err("expected: decisions SNAPSHOT COUNT PEER METHOD PATH [NAME VALUE]…".to_owned());
    };
    let transaction = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    let snapshot = Snapshot::empty().apply(&transaction).map_err(|error| format!("{file}: {error}"))?;
    let count: u32 = count.parse().map_err(|_| "COUNT: expected a number".to_owned())?;
    let facts = connection(peer)?;
    let headers = rest.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let headers = Headers(headers);
    let request = RequestFacts {
        method: method.as_bytes(),
        path: path.as_bytes(),
        authority: b"w.example:8080",
        remote_ip: facts.source.ip(),
        headers: &headers,
        claims: None,
    };
    let mut context = snapshot.connection_context(&facts);
    let allowed = snapshot.authorize_request_in(&mut context, &facts, &request).is_ok();
    let decision_ns = fastest(count, || {
        let verdict = snapshot.authorize_request_in(&mut context, black_box(&facts), black_box(&request));
        let _ = black_box(verdict.is_ok());
    });
    let connection_ns = fastest(count.div_ceil(10), || drop(black_box(snapshot.connection_context(black_box(&facts)))));
    Ok(format!(r#"{{"allowed":{allowed},"decision_ns":{decision_ns:.1},"connection_ns":{connection_ns:.1}}}"#))
}

fn connection(peer: &str) -> Result<ConnectionFacts, String> {
    Ok(ConnectionFacts {
        direction: Direction::Inbound,
        peer: Some(Peer::parse(peer).map_err(|error| format!("PEER: {error}"))?),
        source: SocketAddr::from(([10, 1, 0, 5], 40_000)),
        destination: SocketAddr::from(([10, 2, 0, 1], 8080)),
        sni: None,
    })
}

/// The average of the fastest of some parts: the others were disturbed.
fn fastest(count: u32, mut turn: impl FnMut()) -> f64 {
    let each = count.div_ceil(PARTS).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..PARTS {
        let start = Instant::now();
        for _ in 0..each {
            turn();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(each));
    }
    best
}

/// Names in lower case.
struct Headers(Vec<(String, String)>);

impl HeaderValues for Headers {
    fn visit(&self, name_lower: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        for (name, value) in &self.0 {
            if name == name_lower && each(value.as_bytes()) {
                return;
            }
        }
    }
}

const PARTS: u32 = 20;
