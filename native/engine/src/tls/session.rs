//! One TLS session without a socket: received records in, plaintext and records to send out.
//!
//! In: bytes that the caller read, in a buffer that it lends. Out: plaintext into the caller's buffer, records into another.
//! Limits: plaintext goes to the caller's buffer up to its room; the rest (at most one read's worth) into an overflow.
//! Fails: with a [`TlsFailure`]; the alert that tells the peer is then among the records to send.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::failure::TlsFailure;

/// Either end of a TLS session, with rustls' buffers empty whenever no call is running.
pub(crate) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Where opened plaintext goes: `into` up to `room` bytes, then `overflow`.
pub(crate) struct Opened<'a> {
    pub(crate) into: &'a mut Vec<u8>,
    pub(crate) room: usize,
    pub(crate) overflow: &'a mut Vec<u8>,
}

/// Records to send. The space behind them keeps its length, so that a buffer used again is not zeroed again.
#[derive(Default)]
pub(crate) struct Sealed {
    space: Vec<u8>,
    length: usize,
}

/// What one pass over the received records did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Advance {
    /// How many bytes at the front of the records are done with.
    pub(crate) consumed: usize,
    /// The peer said that it sends no more (`close_notify`).
    pub(crate) closed: bool,
}

/// What to seal once the session can send application data.
enum Seal<'a> {
    Nothing,
    Data(&'a [u8]),
    Close,
}

impl Session {
    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, TlsFailure> {
        Ok(Self::Client(UnbufferedClientConnection::new_with_alpn(config, name, alpn)?))
    }

    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsFailure> {
        Ok(Self::Server(UnbufferedServerConnection::new(config)?))
    }

    /// Opens every complete record of `records` and queues the answers that the protocol owes on `sealed`.
    pub(crate) fn advance(
        &mut self,
        records: &mut [u8],
        opened: &mut Opened<'_>,
        sealed: &mut Sealed,
    ) -> Result<Advance, TlsFailure> {
        let result = self.turn(records, opened, sealed, &Seal::Nothing);
        if result.is_err() {
            self.collect_alerts(records, opened, sealed);
        }
        result
    }

    /// Seals `bytes` into records at the end of `sealed`. `records` are the received bytes not yet consumed: rustls may
    /// hold positions in them.
    pub(crate) fn seal(
        &mut self,
        bytes: &[u8],
        records: &mut [u8],
        opened: &mut Opened<'_>,
        sealed: &mut Sealed,
    ) -> Result<Advance, TlsFailure> {
        self.turn(records, opened, sealed, &Seal::Data(bytes))
    }

    /// Seals our `close_notify` at the end of `sealed`.
    pub(crate) fn close(
        &mut self,
        records: &mut [u8],
        opened: &mut Opened<'_>,
        sealed: &mut Sealed,
    ) -> Result<Advance, TlsFailure> {
        self.turn(records, opened, sealed, &Seal::Close)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// The protocol both agreed on, if any.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    pub(crate) fn peer_chain(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    pub(crate) fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }

    fn turn(
        &mut self,
        records: &mut [u8],
        opened: &mut Opened<'_>,
        sealed: &mut Sealed,
        seal: &Seal<'_>,
    ) -> Result<Advance, TlsFailure> {
        let mut done = Advance::default();
        loop {
            let rest = &mut records[done.consumed..];
            let step = match self {
                Self::Client(client) => step(client.process_tls_records(rest), opened, sealed, seal),
                Self::Server(server) => step(server.process_tls_records(rest), opened, sealed, seal),
            }?;
            done.consumed += step.discard;
            done.closed |= step.closed;
            if step.blocked {
                return Ok(done);
            }
        }
    }

    /// After an error rustls still holds the alert for the peer; it comes out before the error would again.
    fn collect_alerts(&mut self, records: &mut [u8], opened: &mut Opened<'_>, sealed: &mut Sealed) {
        while self.common().wants_write() {
            let step = match self {
                Self::Client(client) => step(client.process_tls_records(records), opened, sealed, &Seal::Nothing),
                Self::Server(server) => step(server.process_tls_records(records), opened, sealed, &Seal::Nothing),
            };
            if step.is_err() {
                return;
            }
        }
    }
}

impl Sealed {
    pub(crate) fn records(&self) -> &[u8] {
        &self.space[..self.length]
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// Lets `write` fill some of `size` bytes at the end; it answers with the bytes written or, in the inner error, with
    /// the size that it needs.
    fn append(
        &mut self,
        mut size: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<Result<usize, usize>, TlsFailure>,
    ) -> Result<(), TlsFailure> {
        loop {
            let end = self.length + size;
            if self.space.len() < end {
                self.space.resize(end, 0);
            }
            match write(&mut self.space[self.length..end])? {
                Ok(written) => {
                    self.length += written;
                    return Ok(());
                }
                Err(required) => size = required,
            }
        }
    }
}

impl Opened<'_> {
    fn push(&mut self, plaintext: &[u8]) {
        let (now, later) = plaintext.split_at(plaintext.len().min(self.room));
        self.into.extend_from_slice(now);
        self.overflow.extend_from_slice(later);
        self.room -= now.len();
    }
}

impl Seal<'_> {
    /// Room that is enough but in rare cases, which cost a second try.
    fn space(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Data(bytes) => bytes.len() + RECORD_OVERHEAD * (bytes.len() / RECORD_PLAINTEXT + 2),
            Self::Close => RECORD_OVERHEAD * 2,
        }
    }
}

struct Step {
    discard: usize,
    closed: bool,
    /// Nothing more happens without new bytes from the socket or the caller.
    blocked: bool,
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    opened: &mut Opened<'_>,
    sealed: &mut Sealed,
    seal: &Seal<'_>,
) -> Result<Step, TlsFailure> {
    let UnbufferedStatus { discard, state } = status;
    let mut step = Step { discard, closed: false, blocked: false };
    match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                opened.push(record?.payload);
            }
        }
        ConnectionState::EncodeTlsData(mut record) => {
            sealed.append(HANDSHAKE_SPACE, |space| match record.encode(space) {
                Ok(written) => Ok(Ok(written)),
                Err(EncodeError::InsufficientSize(size)) => Ok(Err(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(TlsFailure::Protocol("a record was encoded twice".to_owned())),
            })?;
        }
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::PeerClosed => step.closed = true,
        ConnectionState::WriteTraffic(mut traffic) => {
            step.blocked = true;
            sealed.append(seal.space(), |space| {
                let sealing = match seal {
                    Seal::Nothing => Ok(0),
                    Seal::Data(bytes) => traffic.encrypt(bytes, space),
                    Seal::Close => traffic.queue_close_notify(space),
                };
                match sealing {
                    Ok(written) => Ok(Ok(written)),
                    Err(EncryptError::InsufficientSize(size)) => Ok(Err(size.required_size)),
                    Err(EncryptError::EncryptExhausted) => Err(TlsFailure::Protocol("the keys are used up".to_owned())),
                }
            })?;
        }
        ConnectionState::BlockedHandshake | ConnectionState::Closed => {
            step.blocked = true;
            if matches!(seal, Seal::Data(_)) {
                return Err(TlsFailure::Protocol("our side of the session is closed".to_owned()));
            }
        }
        _ => return Err(TlsFailure::Protocol("early data, which is never offered".to_owned())),
    }
    Ok(step)
}

/// RFC 8446 section 5.1: the plaintext of one record.
pub(crate) const RECORD_PLAINTEXT: usize = 1 << 14;
/// Header, content type, explicit nonce and tag of one record, rounded up.
const RECORD_OVERHEAD: usize = 64;
/// A flight of ours is mostly its certificates.
const HANDSHAKE_SPACE: usize = 4 << 10;
