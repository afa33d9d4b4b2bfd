//! The accept loop of one capture port on one worker.
//!
//! In: a bound listener.  Out: one task per accepted connection, running `connection::serve`.
//! Limits: the registry's, and memory's; above them a new connection is closed at once and counted (refuse new work, never skip checks).
//! Fails: out of descriptors: the loop pauses 100 ms and goes on, and what was accepted before goes on meanwhile.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshdp_model::facts::Direction;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::connection;
use crate::observe::outcome::Reason;
use crate::observe::record;
use crate::original_dst::{Unusable, original_destination};
use crate::worker::Worker;

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

/// Accepts until its door is shut, and then empties the accept queue before the socket closes, so that no client that
/// the kernel has already greeted is reset.
pub(crate) async fn accept(
    direction: Direction,
    listener: StdListener,
    worker: Rc<Worker>,
    mut doors: watch::Receiver<Doors>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((tcp, source)) => admit(direction, tcp, source, &worker),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            _ = doors.wait_for(|doors| doors.shut(direction)) => return,
        }
    }
}

fn admit(direction: Direction, tcp: TcpStream, source: SocketAddr, worker: &Rc<Worker>) {
    let original_destination = match original_destination(&tcp, worker.capture_ports()) {
        Ok(address) => address,
        Err(why) => return refuse(direction, worker, why),
    };
    if worker.memory_tight.load(Ordering::Relaxed) {
        record::refused_connection(worker, direction, Reason::Overload);
        return;
    }
    let Some(admitted) = worker.registry.admit(direction, source, original_destination) else {
        record::refused_connection(worker, direction, Reason::Overload);
        return;
    };
    let accepted = Accepted { tcp, direction, source, original_destination };
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
