//! What the peer's SETTINGS say, checked one by one, and the bytes of ours.
//!
//! Fails: [`ConnectionFault`]. Source: RFC 9113 6.5.2, RFC 8441 3.

use super::connection::{Config, Role};
use super::error::{ConnectionFault, ErrorCode, StreamId};
use super::frame::{self, kind};
use super::window::{DEFAULT_WINDOW, MAX_WINDOW};

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// How many streams a peer surely takes that has not said how many: the least that RFC 9113 6.5.2 recommends.
const UNTOLD_STREAMS: u32 = 100;
/// One parameter on the wire.
pub(super) const PARAMETER_BYTES: usize = 6;
const SMALLEST_MAX_FRAME: u32 = 16_384;
const LARGEST_MAX_FRAME: u32 = 16_777_215;

/// The peer's settings in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    pub(super) max_streams: u32,
    pub(super) initial_window: u32,
    pub(super) max_frame: u32,
    pub(super) header_table: u32,
    pub(super) extended_connect: bool,
}

impl PeerSettings {
    /// The standard's initial values. Streams are unlimited until the peer says otherwise; we open no more than
    /// [`UNTOLD_STREAMS`] before it had its say.
    pub(super) fn new() -> Self {
        Self {
            max_streams: UNTOLD_STREAMS,
            initial_window: DEFAULT_WINDOW,
            max_frame: SMALLEST_MAX_FRAME,
            header_table: super::hpack::DEFAULT_TABLE_BYTES as u32,
            extended_connect: false,
        }
    }

    /// Applies one parameter of the peer, whose role is the other one.
    pub(super) fn apply(&mut self, role: Role, parameter: &[u8]) -> Result<(), ConnectionFault> {
        let value = frame::number(&parameter[2..]);
        match u16::from_be_bytes([parameter[0], parameter[1]]) {
            HEADER_TABLE_SIZE => self.header_table = value,
            // A server never announces push, a client may (6.5.2).
            ENABLE_PUSH if value > 1 || (value == 1 && role == Role::Client) => {
                return Err(protocol("SETTINGS_ENABLE_PUSH must be 0 or 1, from a server 0."));
            }
            MAX_CONCURRENT_STREAMS => self.max_streams = value,
            INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                let why = "SETTINGS_INITIAL_WINDOW_SIZE must be at most 2^31-1.";
                return Err(ConnectionFault { code: ErrorCode::FLOW_CONTROL_ERROR, why });
            }
            INITIAL_WINDOW_SIZE => self.initial_window = value,
            MAX_FRAME_SIZE if !(SMALLEST_MAX_FRAME..=LARGEST_MAX_FRAME).contains(&value) => {
                return Err(protocol("SETTINGS_MAX_FRAME_SIZE must be from 2^14 to 2^24-1."));
            }
            MAX_FRAME_SIZE => self.max_frame = value,
            ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.extended_connect) => {
                return Err(protocol("SETTINGS_ENABLE_CONNECT_PROTOCOL must be 0 or 1, and 1 cannot be taken back."));
            }
            ENABLE_CONNECT_PROTOCOL => self.extended_connect = value == 1,
            // The header list's size is advice that the engine's limits are below of; unknown ones are ignored (5.5).
            _ => {}
        }
        Ok(())
    }
}

/// Appends our SETTINGS: what differs from the standard's initial values.
pub(super) fn put_ours(out: &mut Vec<u8>, role: Role, config: &Config) {
    let mut parameters: [(u16, u32); 4] = [(0, 0); 4];
    let mut count = 0;
    let mut add = |name, value| {
        parameters[count] = (name, value);
        count += 1;
    };
    match role {
        Role::Client => add(ENABLE_PUSH, 0),
        Role::Server => add(MAX_CONCURRENT_STREAMS, config.max_streams),
    }
    add(INITIAL_WINDOW_SIZE, config.stream_window.max(DEFAULT_WINDOW));
    add(MAX_HEADER_LIST_SIZE, config.limits.head_bytes as u32);
    if role == Role::Server && config.extended_connect {
        add(ENABLE_CONNECT_PROTOCOL, 1);
    }
    out.extend_from_slice(&frame::header(count * PARAMETER_BYTES, kind::SETTINGS, 0, StreamId(0)));
    for (name, value) in &parameters[..count] {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

fn protocol(why: &'static str) -> ConnectionFault {
    ConnectionFault { code: ErrorCode::PROTOCOL_ERROR, why }
}
