//! Conversations with random edits: no panic, bounded output, one fault at most (seeds are fixed, so a failure comes again).

use super::wire::*;
use meshdp_proto::RequestKind;
use meshdp_proto::h2::{Role, StreamId};

const ROUNDS: u64 = 4_000;
const CUT_ROUNDS: u64 = 300;

fn from_client(dice: &mut Dice) -> Vec<u8> {
    let id = 1 + 2 * dice.roll(6) as u32;
    match dice.roll(12) {
        0 => get(id),
        1 => post(id),
        2 => headers(id, 0, &with(&POST, &[("content-length", "5")])),
        3 => headers(id, END, &[("x-a", "b")]),
        4 => data(id, dice.roll(2) as u8, &vec![b'x'; dice.roll(40)]),
        5 => padded(id, 0, b"abc", dice.roll(20) as u8),
        6 => number(WINDOW_UPDATE, id * dice.roll(2) as u32, dice.roll(70_000) as u32),
        7 => number(RST_STREAM, id, 8),
        8 => settings(&[(dice.roll(9) as u16, dice.roll(100_000) as u32)]),
        9 => frame(PING, dice.roll(2) as u8, 0, &[3; 8]),
        10 => [frame(HEADERS, END, id, &block(&GET)[..4]), frame(CONTINUATION, WHOLE, id, &block(&GET)[4..])].concat(),
        _ => frame(dice.roll(14) as u8, dice.roll(256) as u8, id, &vec![1; dice.roll(12)]),
    }
}

fn from_server(dice: &mut Dice) -> Vec<u8> {
    let id = 1 + 2 * dice.roll(6) as u32;
    match dice.roll(6) {
        0 => headers(id, 0, &[(":status", "200")]),
        1 => headers(id, END, &[(":status", "204")]),
        2 => headers(id, 0, &[(":status", "100")]),
        3 => frame(GOAWAY, 0, 0, &[0, 0, 0, dice.roll(8) as u8, 0, 0, 0, 0]),
        _ => from_client(dice),
    }
}

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(4) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = dice.roll(256) as u8,
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, dice.roll(256) as u8),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

#[test]
fn mutated_conversations_neither_panic_nor_grow() {
    let (mut faults, mut messages) = (0, 0);
    for seed in 1..=ROUNDS {
        let mut dice = Dice::new(seed);
        let role = if dice.roll(2) == 0 { Role::Server } else { Role::Client };
        let mut peer = Peer::greeted(role);
        if role == Role::Client {
            for _ in 0..4 {
                peer.open(RequestKind::Other, false, &POST);
            }
        }
        for _ in 0..30 {
            let mut bytes = if role == Role::Server { from_client(&mut dice) } else { from_server(&mut dice) };
            if dice.roll(8) == 0 {
                mutate(&mut bytes, &mut dice);
            }
            for piece in bytes.chunks(1 + dice.roll(40)) {
                peer.feed(piece);
            }
            engine(&mut peer, &mut dice, role);
            assert!(peer.connection.output().len() < 200_000, "seed {seed}");
            if dice.roll(3) == 0 {
                peer.sent();
            }
        }
        messages += peer.lines().len();
        faults += usize::from(peer.fault.is_some());
    }
    assert!(
        faults > 100 && messages > 5_000,
        "{faults} faults, {messages} events: the edits must leave something alive"
    );
}

/// The engine does something, sensible or not.
fn engine(peer: &mut Peer, dice: &mut Dice, role: Role) {
    let id = StreamId(1 + 2 * dice.roll(6) as u32);
    match dice.roll(8) {
        0 if role == Role::Server => drop(peer.respond(id.0, dice.roll(2) == 0)),
        1 => drop(peer.connection.send_data(id, &vec![b'y'; dice.roll(30_000)], dice.roll(4) == 0)),
        2 => peer.connection.reset(id, meshdp_proto::h2::ErrorCode::CANCEL),
        3 => peer.connection.release(id),
        4 => peer.release_over(),
        5 => drop(peer.connection.turn(&mut peer.log)),
        6 if dice.roll(10) == 0 => peer.connection.drain(),
        _ => peer.consume(),
    }
}

#[test]
fn mutated_conversations_do_not_depend_on_how_they_are_cut() {
    let mut faults = 0;
    for seed in 1..=CUT_ROUNDS {
        let mut dice = Dice::new(seed + ROUNDS);
        let mut bytes: Vec<u8> = (0..6).flat_map(|_| from_client(&mut dice)).collect();
        mutate(&mut bytes, &mut dice);
        faults += usize::from(run(Role::Server, &bytes).fault.is_some());
    }
    assert!(faults > 20 && faults < CUT_ROUNDS as usize, "{faults}");
}
