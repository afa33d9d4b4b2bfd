//! Feeds bytes whole, byte by byte and cut in two at every place, and demands one and the same transcript (U7).
//!
//! In: what a peer sends before it closes. Out: [`Transcript`]: what would go to the next hop, and how it ended.

use meshdp_proto::http1_head::Framing;
use meshdp_proto::{
    BodyDecoder, FieldTable, Limits, PathMode, Refusal, RequestEdits, RequestHead, RequestKind, ResponseEdits,
    encode_request, encode_response, normalise, parse_request, parse_response,
};

/// What one side of a connection amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transcript {
    /// Each message as it would be forwarded; the last one may be unfinished.
    pub(crate) messages: Vec<String>,
    pub(crate) end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything sent belonged to whole messages.
    Clean,
    /// The peer closed inside a head.
    InHead,
    /// The peer closed inside a body.
    Truncated,
    /// Refused with a status and a code.
    Refused(u16, &'static str),
}

/// The transcript of these request bytes, the same for every way of cutting them.
pub(crate) fn requests(input: &[u8]) -> Transcript {
    every_way(input, None)
}

/// The transcript of these response bytes, the same for every way of cutting them.
pub(crate) fn response(input: &[u8], kind: RequestKind) -> Transcript {
    every_way(input, Some(kind))
}

/// The status and code that these request bytes are refused with; nothing of the last message is complete.
pub(crate) fn refused(input: impl AsRef<[u8]>) -> (u16, &'static str) {
    match requests(input.as_ref()).end {
        End::Refused(status, code) => (status, code),
        other => panic!("expected a refusal, saw {other:?} for {:?}", String::from_utf8_lossy(input.as_ref())),
    }
}

/// The one request these bytes are forwarded as.
pub(crate) fn forwarded(input: impl AsRef<[u8]>) -> String {
    let mut transcript = requests(input.as_ref());
    assert_eq!(transcript.end, End::Clean, "{:?}", String::from_utf8_lossy(input.as_ref()));
    assert_eq!(transcript.messages.len(), 1, "{transcript:?}");
    transcript.messages.remove(0)
}

fn every_way(input: &[u8], kind: Option<RequestKind>) -> Transcript {
    let whole = run(&[input], kind);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&bytes, kind), whole, "byte by byte: {:?}", String::from_utf8_lossy(input));
    let step = 1 + input.len() / 2048;
    for at in (1..input.len()).step_by(step) {
        let (first, second) = input.split_at(at);
        assert_eq!(run(&[first, second], kind), whole, "cut at {at}: {:?}", String::from_utf8_lossy(input));
    }
    whole
}

fn run(pieces: &[&[u8]], kind: Option<RequestKind>) -> Transcript {
    let mut connection = Connection { kind, ..Connection::default() };
    for piece in pieces {
        connection.buffer.extend_from_slice(piece);
        if let Err(refusal) = connection.advance() {
            return connection.transcript(Some(refusal));
        }
    }
    connection.transcript(None)
}

#[derive(Default)]
struct Connection {
    kind: Option<RequestKind>,
    buffer: Vec<u8>,
    fields: FieldTable,
    body: Option<BodyDecoder>,
    messages: Vec<Vec<u8>>,
}

impl Connection {
    /// Takes all it can from the buffer.
    fn advance(&mut self) -> Result<(), Refusal> {
        loop {
            let Some(mut body) = self.body.take() else {
                let Some((taken, framing)) = self.head()? else { return Ok(()) };
                self.buffer.drain(..taken);
                self.body = Some(BodyDecoder::new(framing));
                continue;
            };
            let out = self.messages.last_mut().expect("a head came before its body");
            let taken = body.decode(&self.buffer, out)?;
            self.buffer.drain(..taken);
            if !body.done() {
                self.body = Some(body);
                return Ok(());
            }
            if self.buffer.is_empty() {
                return Ok(());
            }
        }
    }

    fn head(&mut self) -> Result<Option<(usize, Framing)>, Refusal> {
        let limits = Limits::default();
        let mut out = Vec::new();
        let done = if let Some(kind) = self.kind {
            let Some(head) = parse_response(&self.buffer, &limits, kind, &mut self.fields)? else { return Ok(None) };
            encode_response(&self.buffer, &head, &self.fields, &ResponseEdits::default(), &mut out);
            (head.len, head.framing)
        } else {
            let Some(head) = parse_request(&self.buffer, &limits, &mut self.fields)? else { return Ok(None) };
            encode(&self.buffer, &head, &self.fields, &mut out)?;
            (head.len, head.framing)
        };
        self.messages.push(out);
        Ok(Some(done))
    }

    fn transcript(mut self, refusal: Option<Refusal>) -> Transcript {
        let unfinished = self.body.as_mut().is_some_and(|body| body.finish_on_eof().is_err());
        let end = match (refusal, unfinished) {
            (Some(refusal), _) => End::Refused(refusal.status, refusal.code()),
            (None, true) => End::Truncated,
            (None, false) if self.buffer.is_empty() => End::Clean,
            (None, false) => End::InHead,
        };
        let messages = self.messages.iter().map(|message| message.iter().map(|byte| char::from(*byte)).collect());
        Transcript { messages: messages.collect(), end }
    }
}

fn encode(buf: &[u8], head: &RequestHead, fields: &FieldTable, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let (target, mut path) = (head.target.of(buf), Vec::new());
    let mut host = None;
    if head.is_connect(buf) {
        path.extend_from_slice(target);
    } else {
        host = normalise(target, PathMode::Base, &mut path)?.authority.map(|range| &target[range]);
    }
    let edits = RequestEdits { target: &path, host, ..RequestEdits::default() };
    encode_request(buf, head, fields, &edits, out);
    Ok(())
}
