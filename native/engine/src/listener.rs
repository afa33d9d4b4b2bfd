//! The accept loop of one capture port on one worker.
//!
//! In: a bound listener.  Out: one task per accepted connection, running `connection::serve`.
//! Limits: the registry's, and memory's; above them a new connection is closed at once and counted (refuse new work, never skip checks).
//! Fails: out of descriptors: the loop pauses 100 ms and goes on, and what was accepted before goes on meanwhile. A panic costs the
//! connection that it met and is counted: the listener lives outside the loop.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use meshdp_model::facts::Direction;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::connection;
use crate::fault;
use crate::observe::outcome::Reason;
use crate::observe::record;
use crate::original_dst::{Unusable, original_destination};
use crate::worker::{BACKLOG, Worker};

/// A connection with the place it was going to.
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) direction: Direction,
    pub(crate) source: SocketAddr,
    pub(crate) original_destination: SocketAddr,
}

/// Which capture ports still take connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    /// Both.
    Open,
    /// A drain has begun: no new work from peers. The application may still connect, for its own ending may need it.
    OutboundOnly,
    /// Neither.
    Closed,
}

impl Doors {
    fn shut(self, direction: Direction) -> bool {
        self == Self::Closed || (self == Self::OutboundOnly && direction == Direction::Inbound)
    }
}

/// Accepts until its door is shut, and then empties the accept queue, so that no client that the kernel has already greeted
/// is reset. The queue is bounded: who comes after that does not keep the door open.
pub(crate) async fn accept(
    direction: Direction,
    listener: Rc<TcpListener>,
    worker: Rc<Worker>,
    mut doors: watch::Receiver<Doors>,
) {
    let mut late = 0;
    let mut looked_again = false;
    while late <= BACKLOG {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((tcp, source)) => admit_contained(direction, tcp, source, &worker),
                Err(_) if late > 0 => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            () = shut(&mut doors, direction) => {
                if looked_again {
                    return;
                }
                // Until the kernel is asked again, the queue looks as empty as it was when this worker last had time.
                looked_again = true;
                tokio::task::yield_now().await;
            }
        }
        late += i32::from(doors.borrow().shut(direction));
    }
}

/// Returns once the door is shut. What `wait_for` gives locks the doors, and whoever shuts them next runs on this thread:
/// it must be gone before anything is awaited.
async fn shut(doors: &mut watch::Receiver<Doors>, direction: Direction) {
    let _ = doors.wait_for(|doors| doors.shut(direction)).await;
}

/// Without this a panic would begin the loop anew, after a pause that those who wait in the queue need not share.
fn admit_contained(direction: Direction, tcp: TcpStream, source: SocketAddr, worker: &Rc<Worker>) {
    if catch_unwind(AssertUnwindSafe(|| admit(direction, tcp, source, worker))).is_err() {
        worker.telemetry.borrow().panicked();
    }
}

fn admit(direction: Direction, tcp: TcpStream, source: SocketAddr, worker: &Rc<Worker>) {
    fault::point("accept");
    let original_destination = match original_destination(&tcp, source, worker.capture_ports()) {
        Ok(address) => address,
        Err(why) => return refuse(direction, worker, why),
    };
    if worker.pressure.is_tight() {
        record::refused_connection(worker, direction, Reason::Overload);
        return;
    }
    let Some(admitted) = worker.registry.admit(direction, source, original_destination) else {
        record::refused_connection(worker, direction, Reason::Overload);
        return;
    };
    let accepted = Box::new(Accepted { tcp, direction, source, original_destination });
    tokio::task::spawn_local(connection::serve(accepted, admitted, Rc::clone(worker)));
}

fn refuse(direction: Direction, worker: &Worker, why: Unusable) {
    let reason = match why {
        Unusable::Loop => Reason::LoopRefused,
        Unusable::NotRedirected => Reason::OriginalDestinationUnknown,
    };
    record::refused_connection(worker, direction, reason);
}

const PAUSE: Duration = Duration::from_millis(100);
