//! Points at which a test build panics when it is told to, so that what contains a panic can be tried on real traffic.
//!
//! In:      `MESHDP_FAULT=POINT@NUMBER`, read once.  Out: a panic at that pass of that point, and at no other.
//! Limits:  builds with debug assertions alone (profile `fast`); in a release the points are empty.

#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let told = std::env::var("MESHDP_FAULT").ok()?;
        let (point, number) = told.split_once('@')?;
        Some((point.to_owned(), number.parse().ok()?))
    });
    let Some((point, number)) = chosen else { return };
    assert!(point != name || PASSED.fetch_add(1, Relaxed) + 1 != *number, "a fault was asked for at {name}");
}

#[cfg(not(debug_assertions))]
pub(crate) fn point(_: &str) {}
