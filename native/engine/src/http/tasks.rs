//! The futures of one connection's streams, polled inside the connection's own task.
//!
//! In: a future per stream.  Out: those polled that were woken, until none is; who woke whom costs no lock and no allocation.
//! Limits: `MOST` at a time; a place is used again with its memory, so that a stream costs none in steady state.
//! Fails: a future that panics is dropped where it stood: its stream ends alone, the others go on.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

/// When a stream is to be looked at though nothing has woken it, in milliseconds of the worker's coarse clock.
pub(crate) type Deadline = Rc<Cell<u64>>;

/// The streams of a connection.
pub(crate) struct Tasks<F> {
    places: Vec<Place<F>>,
    free: Vec<usize>,
    board: Arc<Board>,
}

struct Place<F> {
    future: Pin<Box<Option<F>>>,
    waker: Waker,
    deadline: Deadline,
}

/// What became of the futures that were polled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Polled {
    /// How many were polled.
    pub(crate) count: usize,
    /// How many of them panicked.
    pub(crate) panicked: usize,
}

impl<F: Future<Output = ()>> Tasks<F> {
    /// No stream yet.
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), board: Arc::default() }
    }

    /// The connection's task has its turn: until `end_turn` nobody need wake it.
    pub(crate) fn begin_turn(&self, context: &Context<'_>) {
        self.board.task.get_or_init(|| context.waker().clone());
        self.board.awake.store(true, Ordering::Relaxed);
    }

    /// The connection's task goes to sleep. False when a stream was woken meanwhile: it is to be polled first.
    pub(crate) fn end_turn(&self) -> bool {
        self.board.awake.store(false, Ordering::Relaxed);
        self.board.is_quiet()
    }

    /// Whether another future may begin.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.places.len() < MOST
    }

    /// How many have not ended.
    pub(crate) fn live(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Begins a future, which is polled with the woken ones.
    pub(crate) fn begin(&mut self, make: impl FnOnce(Deadline) -> F) {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        let place = &mut self.places[index];
        place.deadline.set(u64::MAX);
        let future = make(Rc::clone(&place.deadline));
        place.future.as_mut().set(Some(future));
        self.board.ring(index);
    }

    /// Polls those that were woken, each once.
    pub(crate) fn poll_woken(&mut self) -> Polled {
        let mut polled = Polled::default();
        for word in 0..WORDS {
            let mut woken = self.board.woken[word].swap(0, Ordering::Relaxed);
            while woken != 0 {
                let index = word * 64 + woken.trailing_zeros() as usize;
                woken &= woken - 1;
                self.poll_one(index, &mut polled);
            }
        }
        polled
    }

    /// Wakes all of them.
    pub(crate) fn wake_all(&self) {
        (0..self.places.len()).for_each(|index| self.board.ring(index));
    }

    /// Wakes those whose deadline has come; when the next one comes.
    pub(crate) fn wake_expired(&self, now_ms: u64) -> u64 {
        let mut next = u64::MAX;
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.future.is_some()) {
            let deadline = place.deadline.get();
            if deadline <= now_ms {
                self.board.ring(index);
            } else {
                next = next.min(deadline);
            }
        }
        next
    }

    /// Gives the memory of places back, where no future is live.
    pub(crate) fn shrink(&mut self) {
        if self.live() == 0 {
            self.places = Vec::new();
            self.free = Vec::new();
        }
    }

    fn add_place(&mut self) -> usize {
        let index = self.places.len();
        let waker = Waker::from(Arc::new(Bell { index, board: Arc::clone(&self.board) }));
        self.places.push(Place { future: Box::pin(None), waker, deadline: Rc::default() });
        index
    }

    fn poll_one(&mut self, index: usize, polled: &mut Polled) {
        let Some(place) = self.places.get_mut(index) else { return };
        let Some(future) = place.future.as_mut().as_pin_mut() else { return };
        polled.count += 1;
        let mut context = Context::from_waker(&place.waker);
        // A future that panicked is dropped and never polled again, so nobody sees it half done.
        let ended = match catch_unwind(AssertUnwindSafe(|| future.poll(&mut context))) {
            Ok(Poll::Pending) => false,
            Ok(Poll::Ready(())) => true,
            Err(_) => {
                polled.panicked += 1;
                true
            }
        };
        if ended {
            if catch_unwind(AssertUnwindSafe(|| place.future.as_mut().set(None))).is_err() {
                polled.panicked += 1;
                place.future = Box::pin(None);
            }
            self.free.push(index);
        }
    }
}

/// Which places were woken, a bit for each.
#[derive(Default)]
struct Board {
    woken: [AtomicU64; WORDS],
    /// The task looks at the board again before it sleeps.
    awake: AtomicBool,
    task: OnceLock<Waker>,
}

impl Board {
    fn ring(&self, index: usize) {
        self.woken[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
        if !self.awake.load(Ordering::Relaxed)
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }

    fn is_quiet(&self) -> bool {
        self.woken.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
}

/// Wakes one place. Everything of a connection happens on its worker's thread, so no order beyond the program's is needed.
struct Bell {
    index: usize,
    board: Arc<Board>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.board.ring(self.index);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.board.ring(self.index);
    }
}

const WORDS: usize = 2;
/// Futures of one connection; more than the streams that it may have.
pub(crate) const MOST: usize = WORDS * 64;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Waits to be woken by hand, `left` times.
    struct Waits<'a> {
        left: usize,
        wakers: &'a RefCell<Vec<Waker>>,
        ended: &'a Cell<usize>,
    }

    impl Future for Waits<'_> {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            assert!(self.left < 100, "a panic was asked for");
            if self.left == 0 {
                self.ended.set(self.ended.get() + 1);
                return Poll::Ready(());
            }
            self.left -= 1;
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        }
    }

    #[test]
    fn only_those_that_were_woken_are_polled_and_places_are_used_again() {
        let (wakers, ended) = (RefCell::default(), Cell::new(0));
        let mut tasks = Tasks::new();
        tasks.begin_turn(&Context::from_waker(Waker::noop()));
        for left in [0, 1, 2] {
            tasks.begin(|_| Waits { left, wakers: &wakers, ended: &ended });
        }
        assert_eq!((tasks.poll_woken().count, ended.get(), tasks.live()), (3, 1, 2));
        assert_eq!(tasks.poll_woken().count, 0);
        let second = wakers.borrow_mut().remove(1);
        second.wake();
        assert_eq!((tasks.poll_woken().count, ended.get()), (1, 1));
        tasks.wake_all();
        tasks.poll_woken();
        assert_eq!((ended.get(), tasks.live(), tasks.places.len()), (3, 0, 3));
        tasks.begin(|_| Waits { left: 0, wakers: &wakers, ended: &ended });
        tasks.poll_woken();
        assert_eq!((ended.get(), tasks.places.len()), (4, 3));
    }

    #[test]
    fn a_panic_ends_one_future_alone() {
        let (wakers, ended) = (RefCell::default(), Cell::new(0));
        let mut tasks = Tasks::new();
        tasks.begin_turn(&Context::from_waker(Waker::noop()));
        for left in [1, 100, 1] {
            tasks.begin(|_| Waits { left, wakers: &wakers, ended: &ended });
        }
        let polled = tasks.poll_woken();
        assert_eq!((polled.panicked, tasks.live()), (1, 2));
        tasks.wake_all();
        tasks.poll_woken();
        assert_eq!((ended.get(), tasks.live()), (2, 0));
    }

    #[test]
    fn a_deadline_wakes_its_own_stream() {
        let (wakers, ended) = (RefCell::default(), Cell::new(0));
        let mut tasks = Tasks::new();
        for deadline_ms in [10, 20] {
            tasks.begin(|deadline| {
                deadline.set(deadline_ms);
                Waits { left: 1, wakers: &wakers, ended: &ended }
            });
        }
        tasks.poll_woken();
        assert_eq!(tasks.wake_expired(9), 10);
        assert_eq!(tasks.poll_woken().count, 0);
        assert_eq!(tasks.wake_expired(10), 20);
        assert_eq!((tasks.poll_woken().count, ended.get()), (1, 1));
    }

    #[test]
    fn the_task_is_woken_once_it_sleeps() {
        struct Told(AtomicBool);
        impl Wake for Told {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let told = Arc::new(Told(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&told));
        let (wakers, ended) = (RefCell::default(), Cell::new(0));
        let mut tasks = Tasks::new();
        tasks.begin_turn(&Context::from_waker(&waker));
        tasks.begin(|_| Waits { left: 1, wakers: &wakers, ended: &ended });
        assert!(!tasks.end_turn(), "a stream waits to be polled");
        tasks.begin_turn(&Context::from_waker(&waker));
        tasks.poll_woken();
        assert!(tasks.end_turn() && !told.0.load(Ordering::Relaxed));
        wakers.borrow_mut().remove(0).wake();
        assert!(told.0.load(Ordering::Relaxed));
    }
}
