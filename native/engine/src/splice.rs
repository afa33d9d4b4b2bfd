//! Pipes through which the kernel moves bytes from one socket to another without a copy into our memory.
//!
//! In: flows between two plaintext sockets that are clearly transfers.  Out: bytes moved by `splice(2)`.
//! Limits: `PIPES` pipes per worker, lent while a flow has bytes in one; a spare one that nobody needed is closed.
//! Fails: without a pipe (descriptors, the user's pipe pages) the flow goes on by reading, and none is asked for until the next
//! sweep; errors are the sockets'.
//!
//! `EAGAIN` of a splice into a pipe means "socket empty" or "pipe full", so a pipe is filled only while it is empty, and
//! whether the socket has more is decided by an ordinary read, which also gets past TCP's urgent mark, where splicing
//! stops for ever. `EAGAIN` of a splice out of a pipe that holds bytes has one meaning: the socket takes no more.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys;

/// The pipes of one worker.
#[derive(Default)]
pub(crate) struct Pipes {
    spare: RefCell<Vec<Pipe>>,
    /// How many there are, lent ones included.
    open: Rc<Cell<usize>>,
    /// The fewest spares at hand since the last sweep: so many lay about unused.
    unused: Cell<usize>,
    /// The kernel gave none since the last sweep: asking before each read would cost more than the copy.
    refused: Cell<bool>,
}

impl Pipes {
    /// Lends an empty pipe, if there may be another one.
    pub(crate) fn lend(&self) -> Option<Pipe> {
        let mut spare = self.spare.borrow_mut();
        let pipe = spare.pop();
        self.unused.set(self.unused.get().min(spare.len()));
        if pipe.is_some() || self.refused.get() || self.open.get() >= PIPES {
            return pipe;
        }
        let made = Pipe::open(&self.open);
        self.refused.set(made.is_none());
        made
    }

    /// Takes a pipe back. One that holds bytes is closed: they were for one connection alone.
    pub(crate) fn give(&self, pipe: Pipe) {
        if pipe.held == 0 {
            self.spare.borrow_mut().push(pipe);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Closes what lay about unused since the last sweep.
    pub(crate) fn sweep(&self) {
        self.refused.set(false);
        let mut spare = self.spare.borrow_mut();
        let needed = spare.len() - self.unused.get().min(spare.len());
        spare.truncate(needed);
        self.unused.set(spare.len());
    }
}

/// One pipe and how much is in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    open: Rc<Cell<usize>>,
}

impl Pipe {
    fn open(open: &Rc<Cell<usize>>) -> Option<Self> {
        let (read, write, room) = sys::pipe(PIPE_BYTES).ok()?;
        if room < LEAST_BYTES {
            return None; // the user's pages for pipes are used up (pipe(7)); reading is faster than two pages at a time
        }
        open.set(open.get() + 1);
        Some(Self { read, write, held: 0, open: Rc::clone(open) })
    }

    /// Bytes on their way.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Fills the empty pipe from a socket; 0 is the end of the peer's side, or the urgent mark before a part of it.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can be taken this way now, or the socket's error.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a full pipe looks like an empty socket");
        self.held = sys::splice(from.as_fd(), self.write.as_fd(), PIPE_BYTES)?;
        Ok(self.held)
    }

    /// Moves what the socket takes of the bytes held.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || sys::splice(self.read.as_fd(), to.as_fd(), self.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.held -= moved;
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// Sixteen pipes of this size are a quarter of the pages that Linux lets the pipes of one user have.
const PIPES: usize = 16;
const PIPE_BYTES: usize = 1 << 20;
/// A pipe of less is not worth its system calls.
const LEAST_BYTES: usize = 64 << 10;

#[cfg(test)]
#[path = "splice_tests.rs"]
mod tests;
