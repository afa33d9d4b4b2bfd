//! Every unsafe call of the data plane: socket options and system calls that no safe crate offers.
//!
//! In: open sockets of the worker that calls.  Out: plain values and `io::Result`.
//! Limits: none of these block; all sockets here are non-blocking.
//! Source: netfilter `SO_ORIGINAL_DST`, ip(7) `IP_BIND_ADDRESS_NO_PORT`, socket(7) `SO_MARK`, pipe(7), splice(2), prctl(2),
//! getrlimit(2).
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The address a redirected connection was meant for, as conntrack remembers it.
///
/// # Errors
/// `ENOENT` when the connection was not redirected, or the kernel's error.
pub(crate) fn original_destination(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<SocketAddr> {
    if ipv6 { original_destination_v6(socket) } else { original_destination_v4(socket) }
}

fn original_destination_v4(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    // SAFETY: an all-zero sockaddr_in is a valid value of that plain C struct.
    let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
    let mut size = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe one writable sockaddr_in that outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::SO_ORIGINAL_DST,
            (&raw mut address).cast::<libc::c_void>(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
}

fn original_destination_v6(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    const IP6T_SO_ORIGINAL_DST: libc::c_int = 80;
    // SAFETY: an all-zero sockaddr_in6 is a valid value of that plain C struct.
    let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    let mut size = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe one writable sockaddr_in6 that outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_IPV6,
            IP6T_SO_ORIGINAL_DST,
            (&raw mut address).cast::<libc::c_void>(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
    Ok(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, 0)))
}

/// Lets `bind` to an address choose its port at `connect`, so that a port is shared by many destinations.
pub(crate) fn bind_address_without_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the size describe one readable c_int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast::<libc::c_void>(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that becomes readable every so often, by the kernel's own clock: whoever waits for it and for sockets need not
/// set a timer for each wait.
///
/// # Errors
/// The kernel's, or that of the runtime, which must be there.
pub(crate) fn ticker(period: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: timerfd_create takes two numbers.
    let made = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let timer = unsafe { OwnedFd::from_raw_fd(made) };
    let seconds = libc::time_t::try_from(period.as_secs()).unwrap_or(libc::time_t::MAX);
    let every = libc::timespec { tv_sec: seconds, tv_nsec: period.subsec_nanos().into() };
    let times = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: the pointer describes one readable itimerspec that outlives the call; nobody asks for the old value.
    let set = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const times, std::ptr::null_mut()) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    Ok(registered?)
}

/// How often a [`ticker`] has ticked since this was asked last.
///
/// # Errors
/// `WouldBlock` when it has not.
pub(crate) fn ticks(timer: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0_u64;
    let room = mem::size_of::<u64>();
    // SAFETY: the pointer and the size describe one writable u64 that outlives the call.
    let read = unsafe { libc::read(timer.as_raw_fd(), (&raw mut count).cast::<libc::c_void>(), room) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(count) }
}

/// Puts a mark on what a socket sends, and on the sockets that it accepts; takes `CAP_NET_ADMIN`.
pub(crate) fn set_mark(socket: BorrowedFd<'_>, mark: NonZeroU32) -> io::Result<()> {
    let mark = mark.get();
    // SAFETY: the pointer and the size describe one readable u32 that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast::<libc::c_void>(),
            mem::size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps keys and traffic from core files and from other processes of our user: no ptrace, no `/proc/PID/mem`.
pub(crate) fn forbid_inspection() -> io::Result<()> {
    let undumpable: libc::c_ulong = 0;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prctl takes one number and touches no memory of ours; the pointer describes one readable rlimit.
    let result = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_DUMPABLE, undumpable, 0, 0, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A pipe for `splice` (its end to read, its end to write) and its size, which is `want` bytes if the kernel grants so much.
pub(crate) fn pipe(want: usize) -> io::Result<(OwnedFd, OwnedFd, usize)> {
    let want = libc::c_int::try_from(want).unwrap_or(libc::c_int::MAX);
    let mut ends: [libc::c_int; 2] = [-1; 2];
    // SAFETY: the pointer describes room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors were just made and belong to nobody else.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: both calls take a descriptor that is open and a number.
    let size = unsafe {
        libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, want);
        libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ)
    };
    usize::try_from(size).map(|size| (read, write, size)).map_err(|_| io::Error::last_os_error())
}

/// Moves at most `limit` bytes between a pipe and a socket, without waiting for either.
pub(crate) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    loop {
        // SAFETY: both descriptors are open, and null offsets are what pipes and sockets demand.
        let moved = unsafe {
            libc::splice(from.as_raw_fd(), std::ptr::null_mut(), to.as_raw_fd(), std::ptr::null_mut(), limit, flags)
        };
        if let Ok(moved) = usize::try_from(moved) {
            return Ok(moved);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Hands pages that the allocator holds but nobody uses back to the kernel.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, and locks the heap while it looks through it.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether a write of a page would not wait: a file always, a pipe while its reader keeps up.
pub(crate) fn takes_bytes_now(file: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer describes one writable pollfd that outlives the call, which does not wait.
    let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
    ready == 1 && asked.revents & libc::POLLOUT != 0
}

/// The soft limit of open files, from which the connection cap follows.
pub(crate) fn open_file_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer describes one writable rlimit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1_024;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// How often each thread of a test allocates.
#[cfg(test)]
pub(crate) mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
        static SIZES: Cell<[usize; 16]> = const { Cell::new([0; 16]) };
    }

    /// How often this thread has allocated.
    pub(crate) fn allocations() -> u64 {
        COUNT.get()
    }

    /// The sizes of the last allocations, to find out whose they are.
    pub(crate) fn sizes() -> [usize; 16] {
        SIZES.get()
    }

    fn count(size: usize) {
        let at = COUNT.try_with(|count| count.replace(count.get() + 1)).unwrap_or(0) as usize;
        let _ = SIZES.try_with(|sizes| {
            let mut now = sizes.get();
            now[at % now.len()] = size;
            sizes.set(now);
        });
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size());
            // SAFETY: the caller keeps the contract of `alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller keeps the contract of `dealloc`.
            unsafe { System.dealloc(pointer, layout) }
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count(size);
            // SAFETY: the caller keeps the contract of `realloc`.
            unsafe { System.realloc(pointer, layout, size) }
        }
    }
}
