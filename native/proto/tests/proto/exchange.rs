//! What becomes of connections: H1-38, H1-43, H1-46, H1-47, H1-48.

use meshdp_proto::{Answer, Exchange, FieldTable, Limits, RequestKind, ResponseHead, parse_request, parse_response};

fn exchange(fields: &str) -> Exchange {
    let input = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    Exchange::new(&parse_request(input.as_bytes(), &Limits::default(), &mut FieldTable::new()).unwrap().unwrap())
}

fn response(head: &str) -> ResponseHead {
    let input = format!("HTTP/1.1 {head}\r\n\r\n");
    parse_response(input.as_bytes(), &Limits::default(), RequestKind::Other, &mut FieldTable::new()).unwrap().unwrap()
}

#[test]
fn both_connections_go_on_after_two_clean_messages() {
    let mut exchange = exchange("Content-Length: 3\r\n");
    assert_eq!(exchange.respond(&response("200 OK\r\nContent-Length: 2")), Ok(Answer::Final));
    assert!(!exchange.upstream_reusable(false) && !exchange.downstream_persists());
    exchange.end_response();
    assert!(!exchange.upstream_reusable(false) && !exchange.downstream_persists(), "h1_47: the upload has not ended");
    exchange.end_request();
    assert!(exchange.upstream_reusable(false) && exchange.downstream_persists());
    assert!(!exchange.upstream_reusable(true), "h1_46: surplus bytes");
}

#[test]
fn each_side_may_close_its_own_connection() {
    let mut client_closes = exchange("Connection: close\r\n");
    client_closes.respond(&response("204 No Content")).unwrap();
    assert!(client_closes.upstream_reusable(false) && !client_closes.downstream_persists());
    let mut upstream_closes = exchange("");
    upstream_closes.respond(&response("204 No Content\r\nConnection: close")).unwrap();
    assert!(!upstream_closes.upstream_reusable(false) && upstream_closes.downstream_persists());
}

#[test]
fn a_local_answer_leaves_the_client_connection_once_the_request_is_drained() {
    let mut exchange = exchange("Content-Length: 3\r\n");
    assert!(!exchange.downstream_persists());
    exchange.end_request();
    assert!(exchange.downstream_persists() && !exchange.upstream_reusable(false));
}

#[test]
fn h1_38_a_switch_must_have_been_asked_for() {
    let switch = response("101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo");
    let mut asked = exchange("Connection: upgrade\r\nUpgrade: foo\r\n");
    assert_eq!(asked.respond(&switch), Ok(Answer::Switch));
    let refusal = exchange("").respond(&switch).unwrap_err();
    assert_eq!((refusal.status, refusal.code()), (502, "unasked_switch"));
}

#[test]
fn h1_43_interim_responses_are_bounded() {
    let mut exchange = exchange("");
    for _ in 0..10 {
        assert_eq!(exchange.respond(&response("103 Early Hints")), Ok(Answer::Interim));
    }
    assert_eq!(exchange.respond(&response("100 Continue")).unwrap_err().code(), "too_many_interim");
}

#[test]
fn h1_48_a_body_until_close_ends_both_connections() {
    let mut exchange = exchange("");
    exchange.respond(&response("200 OK")).unwrap();
    exchange.end_response();
    assert!(!exchange.upstream_reusable(false) && !exchange.downstream_persists());
}
