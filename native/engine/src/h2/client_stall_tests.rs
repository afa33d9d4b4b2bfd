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
            worker.h2.sweep(now_ms, NOW);
            tokio::task::yield_now().await;
        }
        assert!(Rc::strong_count(&connection) > 1, "it had its time");
        worker.h2.sweep(5_200, NOW);
        let ended = async {
            while Rc::strong_count(&connection) > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), ended).await.is_ok());
    });
}

#[test]
fn h2_32_readers_that_stall_have_a_second_connection_made_for_the_others() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (worker, target) = (worker(), Target::of_tests(listener.local_addr().unwrap(), None));
        let (acquired, mut bob) = tokio::join!(acquire(&target, &worker), hand(&listener));
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
        worker.h2.sweep(0, NOW);
        let same = |other: &Rc<ClientConnection>| Rc::ptr_eq(&connection, other);
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if same(&found)));
        let _second = hand(&listener).await;
        tokio::task::yield_now().await;
        assert!(matches!(acquire(&target, &worker).await, Ok(Acquired::Http2(found)) if !same(&found)));
    });
}
