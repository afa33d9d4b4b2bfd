use super::*;

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream as StdStream};

/// The far end as a blocking socket, our end as the worker has it.
fn connected() -> (StdStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let far = StdStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let (near, _) = listener.accept().expect("it connected");
    near.set_nonblocking(true).expect("a socket");
    (far, Stream::Plain(TcpStream::from_std(near).expect("a runtime runs")))
}

/// Relays `sent` from one far end to the other, which answers `back` behind the end; what both heard, and the pipes made.
fn relayed(sent: &[u8], back: &[u8]) -> (Vec<u8>, Vec<u8>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let ((client, mut down), (server, mut up)) = (connected(), connected());
        let (sent, back) = (sent.to_vec(), back.to_vec());
        let client = std::thread::spawn(move || talk(client, &sent, true));
        let server = std::thread::spawn(move || talk(server, &back, false));
        let (buffers, mut relay) = (Buffers::default(), Relay::new(Vec::new(), Vec::new()));
        let ended = poll_fn(|context| relay.poll(context, &mut down, &mut up, &buffers)).await;
        assert_eq!(ended, Ok(()));
        (server.join().expect("it heard"), client.join().expect("it heard"), buffers.pipes.open())
    })
}

/// Sends and ends its side, first or after all has been heard.
fn talk(mut socket: StdStream, bytes: &[u8], first: bool) -> Vec<u8> {
    let mut heard = Vec::new();
    if !first {
        socket.read_to_end(&mut heard).expect("it ends");
    }
    socket.write_all(bytes).expect("it is taken");
    socket.shutdown(Shutdown::Write).expect("it is open");
    if first {
        socket.read_to_end(&mut heard).expect("it ends");
    }
    heard
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn a_transfer_goes_through_a_pipe_and_arrives_as_it_was() {
    let (sent, back) = (pattern(8 << 20), pattern(3 << 20));
    let (there, here, pipes) = relayed(&sent, &back);
    assert!(there == sent && here == back);
    assert!(pipes > 0, "the kernel moved what followed the first bytes");
}

#[test]
fn a_conversation_needs_no_pipe() {
    let (there, here, pipes) = relayed(b"a question", b"an answer");
    assert_eq!((&*there, &*here, pipes), (&b"a question"[..], &b"an answer"[..], 0));
}
