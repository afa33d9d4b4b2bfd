//! Connections to upstreams with readers that stall: a peer that takes nothing any more, callers that do not read.
#![allow(clippy::unwrap_used, reason = "the unwraps of a test are assertions")]

use super::*;

/// Nothing goes on: no send in all this time, however slow the machine is.
const STILL: Duration = Duration::from_millis(300);

#[test]
fn a_retired_connection_whose_peer_takes_nothing_is_given_up() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (acquired, mut bob) = tokio::join!(acquire(&target, &worker), hand(&listener));
        let Ok(Acquired::Http2(connection)) = acquired else { panic!("it fell back") };
        bob.setting(4, 1 << 30).await;
        bob.frame(8, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
        let mut stream = connection.open(RequestKind::Other, false, request("/upload")).unwrap();
        let body = vec![1; 1 << 20];
        // Until neither the socket nor the connection takes any more.
        while let Ok(taken) = timeout(STILL, poll_fn(|context| stream.poll_send_data(context, &body, false))).await {
            taken.unwrap();
        }
        drop(stream);
        worker.h2.retire(|_| false);
        for now_ms in [0, 100, 4_000] {
            worker.h2.sweep((now_ms, NOW), false);
            tokio::task::yield_now().await;
        }
        assert!(Rc::strong_count(&connection) > 1, "it had its time");
        worker.h2.sweep((5_200, NOW), false);
        let ended = async {
            while Rc::strong_count(&connection) > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), ended).await.is_ok());
    });
}

/// A connection whose window 64 readers have used up who do not read.
async fn stall(
    listener: &TcpListener,
    worker: &Rc<Worker>,
    target: &Target,
) -> (Rc<ClientConnection>, Vec<StreamHandle>, Hand) {
    let (acquired, mut bob) = tokio::join!(acquire(target, worker), hand(listener));
    let Ok(Acquired::Http2(connection)) = acquired else { panic!("it fell back") };
    bob.frame(4, 0, 0, &[]).await;
    let open = || connection.open(RequestKind::Other, true, request("/download")).unwrap();
    let mut stalled: Vec<StreamHandle> = (0..64).map(|_| open()).collect();
    for _ in 0..stalled.len() {
        let (_, _, stream, _) = bob.next().await.unwrap();
        bob.frame(1, 4, stream, &[0x88]).await;
        for _ in 0..4 {
            bob.frame(0, 0, stream, &[7; 16_384]).await;
        }
    }
    let mut head = Vec::new();
    poll_fn(|context| stalled[63].poll_head(context, &mut head)).await.unwrap();
    while !connection.shared.is_braked() {
        tokio::task::yield_now().await;
    }
    (connection, stalled, bob)
}

/// Reads at most so many bytes.
async fn read(stream: &mut StreamHandle, limit: usize) -> Result<usize, StreamEnd> {
    poll_fn(|context| stream.poll_data(context, &mut Vec::new(), limit)).await.map(|got| got.count)
}

#[test]
fn h2_32_what_readers_who_stall_leave_does_not_hold_the_others_of_their_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (connection, mut stalled, mut bob) = stall(&listener, &worker, &target).await;
        for _ in 0..40 {
            worker.h2.sweep((0, NOW), false);
        }
        assert!(connection.shared.state().core.receive_room() >= 1 << 20, "it stands still");
        let mut other = connection.open(RequestKind::Other, true, request("/other")).unwrap();
        let (_, _, stream, _) = bob.next().await.unwrap();
        bob.frame(1, 4, stream, &[0x88]).await;
        bob.frame(0, 1, stream, &[9; 10]).await;
        poll_fn(|context| other.poll_head(context, &mut Vec::new())).await.unwrap();
        assert_eq!(read(&mut other, 100).await, Ok(10));
        // There is room for what they leave: nobody is cut, and all of it is there.
        for stream in &mut stalled {
            assert_eq!(read(stream, 1 << 20).await, Ok(65_536));
        }
        assert_eq!(connection.parked(), 0);
        assert!(connection.shared.state().core.receive_room() >= 2 << 20);
    });
}

#[test]
fn h2_32_where_there_is_no_room_for_what_is_left_those_who_stall_longest_are_cut() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (connection, mut stalled, _bob) = stall(&listener, &worker, &target).await;
        worker.h2.sweep((0, NOW), true);
        // Who reads, however slowly, is not among them.
        assert_eq!(read(&mut stalled[0], 40_000).await, Ok(40_000));
        worker.h2.sweep((100, NOW), true);
        assert_eq!(read(&mut stalled[0], 25_536).await, Ok(25_536));
        for turn in 2..40 {
            worker.h2.sweep((turn * 100, NOW), true);
        }
        assert!(connection.shared.state().core.receive_room() >= 1 << 19, "it stands still");
        let cut = |stream: &StreamHandle| stream.is_broken();
        assert!(!cut(&stalled[0]) && stalled[1..8].iter().all(cut) && !stalled[8..].iter().any(cut));
        assert_eq!(read(&mut stalled[1], 100).await, Err(StreamEnd::Stalled));
        assert_eq!(read(&mut stalled[40], 1 << 20).await, Ok(65_536));
    });
}

#[test]
fn h2_32_readers_that_stall_have_a_second_connection_made_for_the_others() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (connection, _stalled, _bob) = stall(&listener, &worker, &target).await;
        worker.h2.sweep((0, NOW), false);
        let same = |other: &Rc<ClientConnection>| Rc::ptr_eq(&connection, other);
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if same(&found)));
        let _second = hand(&listener).await;
        tokio::task::yield_now().await;
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if !same(&found)));
    });
}

#[test]
fn who_waits_for_a_place_is_not_overtaken() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (acquired, mut bob) = tokio::join!(acquire(&target, &worker), hand(&listener));
        let Ok(Acquired::Http2(first)) = acquired else { panic!("it fell back") };
        bob.setting(3, 1).await;
        while !first.shared.state().core.greeted() {
            tokio::task::yield_now().await;
        }
        let open = |connection: &Rc<ClientConnection>| connection.open(RequestKind::Other, true, request("/")).unwrap();
        // One stream a connection, on as many as there may be.
        let mut held = vec![open(&first)];
        for _ in 1..16 {
            let Ok(Acquired::Http2(next)) = acquire(&target, &worker).await else { panic!("it fell back") };
            held.push(open(&next));
        }
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let waits = |number: u32| {
            let (target, worker, order) = (target.clone(), Rc::clone(&worker), Rc::clone(&order));
            spawn_local(async move {
                let Ok(Acquired::Http2(found)) = acquire(&target, &worker).await else { panic!("it fell back") };
                order.borrow_mut().push(number);
                found.open(RequestKind::Other, true, request("/")).unwrap()
            })
        };
        let mut waiting: Vec<_> = (0..3).map(waits).collect();
        tokio::task::yield_now().await;
        for turn in 0..3 {
            drop(held.pop());
            // Comes when there is a place, and somebody has been told of it who has not had his turn.
            let mut late = pin!(acquire(&target, &worker));
            let overtakes = poll_fn(|context| Poll::Ready(late.as_mut().poll(context).is_ready())).await;
            assert!(!overtakes);
            held.insert(0, waiting.remove(0).await.unwrap());
            worker.h2.sweep((turn, NOW), false);
        }
        assert_eq!(*order.borrow(), [0, 1, 2]);
    });
}

/// The connection is there, and who has waited for it has not had his turn.
#[test]
fn who_comes_while_others_wait_has_no_second_connection_made() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let mut first = pin!(acquire(&target, &worker));
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
        let _bob = hand(&listener).await;
        let group = worker.h2.group(&target.pool_key(&worker));
        while group.attempt().is_some() {
            tokio::task::yield_now().await;
        }
        let mut late = pin!(acquire(&target, &worker));
        assert!(poll_fn(|context| Poll::Ready(late.as_mut().poll(context).is_pending())).await);
        assert!(group.attempt().is_none(), "a second connection");
        let (Ok(Acquired::Http2(first)), Ok(Acquired::Http2(late))) = (first.await, late.await) else {
            panic!("it fell back")
        };
        assert!(Rc::ptr_eq(&first, &late));
    });
}
