//! Test support: snapshots made of JSON, and facts made of literals.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::facts::{ConnectionFacts, Direction, RequestFacts};
use crate::identity::Peer;
use crate::snapshot::Snapshot;

/// Sections by name, as canonical text. `serde_json` sorts the keys of its values, as the contract wants.
#[derive(Clone)]
pub(crate) struct Sections(pub(crate) BTreeMap<String, String>);

impl Sections {
    /// The golden written by hand.
    pub(crate) fn golden() -> Self {
        let golden: Value = serde_json::from_slice(&golden_bytes("details.json")).expect("the golden is JSON");
        let put = golden["put"].as_object().expect("a golden puts sections");
        Self(put.iter().map(|(name, section)| (name.clone(), section.to_string())).collect())
    }

    /// The same with a section put in.
    pub(crate) fn with(mut self, name: &str, section: &Value) -> Self {
        self.0.insert(name.to_owned(), section.to_string());
        self
    }

    /// The same with one field of a section changed, by JSON pointer.
    pub(crate) fn edited(self, name: &str, pointer: &str, value: Value) -> Self {
        let mut section: Value = serde_json::from_str(&self.0[name]).expect("sections are JSON");
        *section.pointer_mut(pointer).expect("the field is there") = value;
        self.with(name, &section)
    }

    /// The same without a section.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.remove(name).expect("the section is there");
        self
    }

    /// The digest by the rule of docs/snapshot.md.
    pub(crate) fn digest(&self) -> String {
        let line = |(name, text): (&String, &String)| format!("{name}\0{}\n", hex::encode(Sha256::digest(text)));
        hex::encode(Sha256::digest(self.0.iter().map(line).collect::<String>()))
    }

    /// A transaction to these sections from nothing.
    pub(crate) fn whole(&self) -> Vec<u8> {
        transaction("", &self.0, &[], &self.digest())
    }

    /// A transaction to these sections from others.
    pub(crate) fn since(&self, before: &Self) -> Vec<u8> {
        let changed = |(name, text): &(&String, &String)| before.0.get(*name) != Some(*text);
        let put = self.0.iter().filter(changed).map(|(name, text)| (name.clone(), text.clone())).collect();
        let drop: Vec<&str> = before.0.keys().filter(|name| !self.0.contains_key(*name)).map(String::as_str).collect();
        transaction(&before.digest(), &put, &drop, &self.digest())
    }

    /// The snapshot of these sections.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::empty().apply(&self.whole()).expect("the sections are valid")
    }
}

/// The bytes of a transaction.
pub(crate) fn transaction(base: &str, put: &BTreeMap<String, String>, drop: &[&str], digest: &str) -> Vec<u8> {
    let put: Vec<String> = put.iter().map(|(name, text)| format!("{}:{text}", json!(name))).collect();
    let (base, drop, digest) = (json!(base), json!(drop), json!(digest));
    format!(r#"{{"base":{base},"digest":{digest},"drop":{drop},"put":{{{}}},"schema":2}}"#, put.join(",")).into_bytes()
}

/// A file beside the goldens that Python reads too.
pub(crate) fn golden_bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden_folder().join(name)).expect("the golden is there")
}

/// Where the goldens are.
pub(crate) fn golden_folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/snapshot")
}

/// A snapshot with these policies.
pub(crate) fn with_policies(policies: Value) -> Snapshot {
    Sections::golden().edited("authz", "/policies", policies).snapshot()
}

/// An inbound connection from 10.0.0.1 to 10.244.0.3:9080.
pub(crate) fn inbound(peer: Option<&str>) -> ConnectionFacts {
    ConnectionFacts {
        direction: Direction::Inbound,
        peer: peer.map(|uri| Peer::parse(uri).expect("a SPIFFE URI")),
        source: SocketAddr::from(([10, 0, 0, 1], 40_000)),
        destination: SocketAddr::from(([10, 244, 0, 3], 9080)),
        sni: None,
    }
}

/// Headers of a request, names in lower case.
pub(crate) type Headers<'a> = &'a [(&'a str, &'a [u8])];

/// A request; headers stand outside, because facts borrow them.
pub(crate) fn request<'a>(method: &'a str, path: &'a str, headers: &'a Headers<'a>) -> RequestFacts<'a> {
    RequestFacts {
        method: method.as_bytes(),
        path: path.as_bytes(),
        authority: b"details:9080",
        remote_ip: [10, 0, 0, 1].into(),
        headers,
        claims: None,
    }
}
