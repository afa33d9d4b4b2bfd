//! The operation of a swap: one endpoint moves, and back.
//!
//! In:     a snapshot with clusters.      Out: turns; each applies one transaction and keeps its result.

use std::sync::Arc;

use meshdp_model::snapshot::Snapshot;
use sha2::{Digest, Sha256};

use super::Turn;

/// Applies a transaction that changes the endpoints of one cluster.
pub(super) fn moving_an_endpoint(snapshot: &Arc<Snapshot>) -> Option<Turn> {
    let name = snapshot.sections().find(|name| name.starts_with("endpoints/"))?.to_owned();
    let here = String::from_utf8(snapshot.section_bytes(&name)?.to_vec()).ok()?;
    let there = here.replacen("\"10.", "\"11.", 1);
    assert_ne!(here, there, "there is an endpoint to move");
    let (before, after) = (snapshot.digest().to_owned(), digest_with(snapshot, &name, &there));
    let turns = [transaction(&before, (&name, &there), &after), transaction(&after, (&name, &here), &before)];
    let mut in_force = Arc::clone(snapshot);
    let mut turn = turns.into_iter().cycle();
    Some(Box::new(move || {
        let transaction = turn.next().expect("it goes round");
        in_force = Arc::new(in_force.apply(transaction.as_bytes()).expect("it is well formed"));
    }))
}

fn transaction(base: &str, (name, section): (&str, &str), digest: &str) -> String {
    format!(r#"{{"schema":2,"base":"{base}","put":{{"{name}":{section}}},"drop":[],"digest":"{digest}"}}"#)
}

/// The digest with one section changed, as docs/snapshot.md defines it.
fn digest_with(snapshot: &Snapshot, changed: &str, text: &str) -> String {
    let mut whole = Sha256::new();
    for name in snapshot.sections() {
        let bytes = if name == changed { text.as_bytes() } else { snapshot.section_bytes(name).unwrap_or_default() };
        whole.update(format!("{name}\0{}\n", hex::encode(Sha256::digest(bytes))));
    }
    hex::encode(whole.finalize())
}
