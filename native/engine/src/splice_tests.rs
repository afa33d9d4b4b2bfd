use super::*;

use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};

use std::future::poll_fn;

fn run<F: Future>(body: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime").block_on(body)
}

/// The far end as a blocking socket, our end as the worker has it.
fn connected() -> (StdStream, TcpStream) {
    let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
    let far = StdStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let (near, _) = listener.accept().expect("it connected");
    near.set_nonblocking(true).expect("a socket");
    (far, TcpStream::from_std(near).expect("a runtime runs"))
}

#[test]
fn bytes_pass_through_a_pipe_and_the_pipe_is_lent_again() {
    run(async {
        let pipes = Pipes::default();
        let (mut sender, from) = connected();
        let (mut receiver, to) = connected();
        sender.write_all(b"through the kernel").expect("it is open");
        from.readable().await.expect("bytes came");
        let mut pipe = pipes.lend().expect("a first pipe");
        let raw = std::os::fd::AsRawFd::as_raw_fd(&pipe.read);
        assert_eq!(pipe.fill(&from).expect("bytes are there"), 18);
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &to)).await.expect("it is open"), 18);
        assert_eq!(pipe.held(), 0);
        pipes.give(pipe);
        let mut heard = [0; 18];
        receiver.read_exact(&mut heard).expect("bytes came");
        assert_eq!(&heard, b"through the kernel");
        let again = pipes.lend().expect("the same pipe");
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&again.read), raw);
    });
}

#[test]
fn an_end_is_zero_and_silence_would_block() {
    run(async {
        let pipes = Pipes::default();
        let (sender, from) = connected();
        let mut pipe = pipes.lend().expect("a first pipe");
        assert_eq!(pipe.fill(&from).expect_err("nothing came").kind(), io::ErrorKind::WouldBlock);
        drop(sender);
        from.readable().await.expect("the end came");
        assert_eq!(pipe.fill(&from).expect("an end"), 0);
    });
}

#[test]
fn pipes_are_bounded_and_unused_ones_are_closed() {
    let pipes = Pipes::default();
    let lent: Vec<_> = std::iter::from_fn(|| pipes.lend()).take(PIPES + 1).collect();
    assert!(!lent.is_empty() && lent.len() <= PIPES);
    let count = lent.len();
    for pipe in lent {
        pipes.give(pipe);
    }
    assert_eq!(pipes.open.get(), count);
    pipes.sweep();
    assert_eq!(pipes.open.get(), count, "all were needed since the last sweep");
    pipes.sweep();
    assert_eq!(pipes.open.get(), 0);
}

#[test]
fn a_pipe_with_bytes_is_never_lent_to_another() {
    run(async {
        let pipes = Pipes::default();
        let (mut sender, from) = connected();
        sender.write_all(b"secret").expect("it is open");
        from.readable().await.expect("bytes came");
        let mut pipe = pipes.lend().expect("a first pipe");
        pipe.fill(&from).expect("bytes are there");
        pipes.give(pipe);
        assert_eq!((pipes.open.get(), pipes.spare.borrow().len()), (0, 0));
    });
}

#[test]
fn a_kernel_that_gave_no_pipe_is_not_asked_again_before_the_sweep() {
    let pipes = Pipes::default();
    pipes.refused.set(true);
    assert!(pipes.lend().is_none());
    pipes.sweep();
    assert!(pipes.lend().is_some());
}
