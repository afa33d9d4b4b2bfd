//! Tasks that a data plane cannot do without, such as its accept loops: what one of them trips over ends one turn of it.
//!
//! In:      how to begin the task, whom to tell that it panicked.  Out: the task, begun again until it ends by itself.
//! Limits:  a pause of [`PAUSE`] between two turns.
//! Fails:   never silently: every panic is told. What a turn held is lost with it; what must outlive turns belongs outside.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Runs what `begin` makes to its own end, anew after each panic.
pub(crate) async fn lasting<Turn: Future<Output = ()>>(begin: impl Fn() -> Turn, tripped: impl Fn()) {
    while contained(begin()).await.is_err() {
        tripped();
        // Where the clock itself fails, there is no pause; the others still have their turn.
        let _ = contained(async { tokio::time::sleep(PAUSE).await }).await;
        tokio::task::yield_now().await;
    }
}

async fn contained(turn: impl Future<Output = ()>) -> Result<(), Box<dyn Any + Send>> {
    let mut turn = pin!(turn);
    poll_fn(|context| {
        // A future that panicked is dropped and never polled again, so nobody sees it half done.
        match catch_unwind(AssertUnwindSafe(|| turn.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_panics_is_told_and_begins_again_until_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (turns, told) = (Cell::new(0), Cell::new(0));
        let turn = || async {
            tokio::task::yield_now().await;
            turns.set(turns.get() + 1);
            assert!(turns.get() > 2, "the first two turns trip");
        };
        runtime.block_on(lasting(turn, || told.set(told.get() + 1)));
        assert_eq!((turns.get(), told.get()), (3, 2));
    }

    #[test]
    fn a_clock_that_fails_ends_nothing() {
        // Without a time driver every `sleep` panics, as one does whose clock fails.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let turns = Cell::new(0);
        let turn = || async {
            turns.set(turns.get() + 1);
            assert!(turns.get() > 2, "the first two turns trip");
        };
        runtime.block_on(lasting(turn, || {}));
        assert_eq!(turns.get(), 3);
    }
}
