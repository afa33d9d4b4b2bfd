//! Our connection against the `h2` crate, over a pipe in memory: random messages arrive as they were sent, both ways.
//!
//! The server always echoes: method and path in fields, the body while it comes, the trailers. Seeds are fixed.

use super::wire::Dice;
use bytes::Bytes;
use h2::{client, server};
use http::{HeaderMap, Request, Response};
use meshdp_proto::RequestKind;
use meshdp_proto::h2::hpack::{Encoder, Indexing};
use meshdp_proto::h2::{
    Config, Connection, ErrorCode, Events, MAX_INPUT_BYTES, RequestShape, ResponseShape, Role, Scratch, Side, StreamId,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const SEEDS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(120);

/// One request, and what its echo must be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    path: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

fn messages(dice: &mut Dice) -> Vec<Message> {
    (0..=dice.roll(40)).map(|number| message(number, dice)).collect()
}

fn message(number: usize, dice: &mut Dice) -> Message {
    let largest = [1, 100, 20_000, 300_000][dice.roll(4)];
    let body = (0..dice.roll(largest)).map(|_| dice.roll(256) as u8).collect();
    Message { path: format!("/{number}"), fields: fields(dice), body, trailers: fields(dice) }
}

fn fields(dice: &mut Dice) -> Vec<(String, String)> {
    let count = dice.roll(5);
    (0..count).map(|field| (format!("x-{field}"), format!("{}v", "v".repeat(dice.roll(60) * dice.roll(40))))).collect()
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let name = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).unwrap();
    fields.iter().map(|(field, value)| (name(field), value.parse().unwrap())).collect()
}

fn list(map: &HeaderMap) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned())).collect();
    fields.sort();
    fields.retain(|(name, _)| name.starts_with("x-"));
    fields
}

/// The fields of our text that the test made.
fn lines(text: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(text).unwrap();
    let mut fields: Vec<(String, String)> = text
        .split("\r\n")
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    fields.sort();
    fields
}

fn encode(encoder: &mut Encoder, fields: &[(String, String)], out: &mut Vec<u8>) {
    for (at, (name, value)) in fields.iter().enumerate() {
        let kind = [Indexing::Add, Indexing::Without, Indexing::Never][(at + value.len()) % 3];
        encoder.field(name.as_bytes(), value.as_bytes(), kind, out);
    }
}

/// One stream of ours.
#[derive(Debug, Default)]
struct Stream {
    message: Option<Message>,
    /// Received, and of that, or of the message's body, what was sent.
    body: Vec<u8>,
    sent: usize,
    fields: Vec<(String, String)>,
    path: String,
    trailers: Vec<(String, String)>,
    received: bool,
    done: bool,
}

/// An engine of a few lines, in either role.
struct Engine {
    role: Role,
    waiting: Vec<Message>,
    /// The peer's limit of streams is known.
    may_open: bool,
    streams: BTreeMap<StreamId, Stream>,
    finished: Vec<(Option<Message>, Stream)>,
}

impl Events for Engine {
    fn request(&mut self, id: StreamId, text: &[u8], _: RequestShape, end: bool) {
        let path = std::str::from_utf8(text).unwrap().split(' ').nth(1).unwrap().to_owned();
        let stream = Stream { path, fields: lines(text), received: end, ..Stream::default() };
        self.streams.insert(id, stream);
    }

    fn response(&mut self, id: StreamId, text: &[u8], shape: ResponseShape, end: bool) {
        assert_eq!(shape.status, 200);
        let stream = self.streams.get_mut(&id).unwrap();
        stream.fields = lines(text);
        stream.received = end;
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], end: bool) {
        let stream = self.streams.get_mut(&id).unwrap();
        stream.body.extend_from_slice(bytes);
        stream.received = end;
    }

    fn trailers(&mut self, id: StreamId, text: &[u8]) {
        let stream = self.streams.get_mut(&id).unwrap();
        stream.trailers = lines(text);
        stream.received = true;
    }

    fn reset(&mut self, id: StreamId, code: ErrorCode, by: Side) {
        panic!("{id} was reset: {code:?} {by:?}");
    }

    fn writable(&mut self, _: StreamId) {}

    fn settings(&mut self) {
        self.may_open = true;
    }
}

impl Engine {
    fn new(role: Role, waiting: Vec<Message>) -> Self {
        Self { role, waiting, may_open: false, streams: BTreeMap::new(), finished: Vec::new() }
    }

    /// Opens, sends and releases what can be now.
    fn act(&mut self, connection: &mut Connection, dice: &mut Dice) {
        while self.may_open && connection.may_open().is_ok() && !self.waiting.is_empty() {
            let message = self.waiting.remove(0);
            let id = connection.open(RequestKind::Other, false, |encoder, out| {
                let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", &message.path)];
                for (name, value) in pseudo {
                    encoder.field(name.as_bytes(), value.as_bytes(), Indexing::Add, out);
                }
                encode(encoder, &message.fields, out);
            });
            self.streams.insert(id.unwrap(), Stream { message: Some(message), ..Stream::default() });
        }
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let stream = self.streams.get_mut(&id).unwrap();
            match self.role {
                Role::Client => act_client(id, stream, connection),
                Role::Server => act_server(id, stream, connection, dice),
            }
            if stream.done && stream.received {
                connection.release(id);
                let mut stream = self.streams.remove(&id).unwrap();
                self.finished.push((stream.message.take(), stream));
            }
        }
    }
}

fn act_client(id: StreamId, stream: &mut Stream, connection: &mut Connection) {
    connection.consumed(id, usize::MAX);
    let message = stream.message.as_ref().unwrap();
    let plain = message.trailers.is_empty();
    if stream.done {
        return;
    }
    stream.sent += connection.send_data(id, &message.body[stream.sent..], plain);
    if stream.sent == message.body.len() {
        stream.done = plain || connection.send_trailers(id, |encoder, out| encode(encoder, &message.trailers, out));
    }
}

/// Echoes; what it has not sent on it has not read either.
fn act_server(id: StreamId, stream: &mut Stream, connection: &mut Connection, dice: &mut Dice) {
    if stream.done {
        return;
    }
    if !stream.path.is_empty() {
        stream.fields.push(("x-path".to_owned(), std::mem::take(&mut stream.path)));
        connection.send_head(id, false, |encoder, out| {
            encoder.field(b":status", b"200", Indexing::Add, out);
            encode(encoder, &stream.fields, out);
        });
    }
    let plain = stream.received && stream.trailers.is_empty();
    let most = (stream.body.len() - stream.sent).min(1 + dice.roll(100_000));
    let all = stream.sent + most == stream.body.len();
    let taken = connection.send_data(id, &stream.body[stream.sent..stream.sent + most], plain && all);
    stream.sent += taken;
    connection.consumed(id, taken);
    if stream.received && stream.sent == stream.body.len() {
        stream.done = plain || connection.send_trailers(id, |encoder, out| encode(encoder, &stream.trailers, out));
    }
}

/// Runs our half until `expected` streams are finished, and then until the peer closes.
async fn drive(
    io: DuplexStream,
    mut engine: Engine,
    expected: usize,
    mut dice: Dice,
) -> Vec<(Option<Message>, Stream)> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut connection = Connection::new(engine.role, &Config { stream_window: 70_000, ..Config::default() });
    let (mut scratch, mut input, mut piece) = (Scratch::new(), Vec::new(), vec![0; MAX_INPUT_BYTES]);
    loop {
        engine.act(&mut connection, &mut dice);
        while connection.turn(&mut engine) {
            engine.act(&mut connection, &mut dice);
        }
        if engine.finished.len() == expected && connection.output().is_empty() {
            return engine.finished;
        }
        let most = [3, 1_000, MAX_INPUT_BYTES][dice.roll(3)];
        let most = 1 + dice.roll(most);
        tokio::select! {
            n = reader.read(&mut piece[..most]) => {
                let n = n.unwrap();
                assert!(n > 0, "the peer closed with {} of {expected} done", engine.finished.len());
                input.extend_from_slice(&piece[..n]);
                let taken = connection.receive(&input, &mut scratch, &mut engine).unwrap();
                input.drain(..taken);
                assert!(input.len() <= MAX_INPUT_BYTES);
            }
            n = writer.write(connection.output()), if !connection.output().is_empty() => {
                let n = n.unwrap_or_else(|error| panic!("{error}: {:x?}", &input));
                connection.sent(n, &mut engine);
            }
        }
        connection.tick(1);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") }))
}

#[test]
fn our_client_and_the_server_of_h2_exchange_the_same_messages() {
    for seed in 1..=SEEDS {
        let mut dice = Dice::new(seed);
        let sent = messages(&mut dice);
        let finished = block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 + dice.roll(100_000));
            let mut builder = server::Builder::new();
            builder.initial_window_size(1 + dice.roll(100_000) as u32).max_concurrent_streams(1 + dice.roll(30) as u32);
            builder.header_table_size(dice.roll(10_000) as u32).initial_connection_window_size(100_000);
            tokio::task::spawn_local(async move { echo(builder.handshake(theirs).await.unwrap()).await });
            drive(ours, Engine::new(Role::Client, sent.clone()), sent.len(), dice).await
        });
        for (message, stream) in finished {
            let message = message.unwrap();
            let mut expected = message.fields.clone();
            expected.push(("x-path".to_owned(), message.path.clone()));
            expected.sort();
            assert_eq!(stream.fields, expected, "seed {seed}");
            assert_eq!(stream.trailers, message.trailers, "seed {seed}");
            assert!(stream.body == message.body, "seed {seed}: the body differs");
        }
    }
}

async fn echo(mut connection: server::Connection<DuplexStream, Bytes>) {
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = match accepted {
            Ok(accepted) => accepted,
            // Our half closes as soon as it has everything.
            Err(error) if error.is_io() => return,
            Err(error) => panic!("h2 is not content: {error:?}"),
        };
        tokio::task::spawn_local(echo_one(request, respond));
    }
}

async fn echo_one(request: Request<h2::RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let mut response = Response::new(());
    *response.headers_mut() = request.headers().clone();
    response.headers_mut().insert("x-path", request.uri().path().parse().unwrap());
    let mut sender = respond.send_response(response, false).unwrap();
    let mut body = request.into_body();
    while let Some(bytes) = body.data().await {
        let bytes = bytes.unwrap();
        body.flow_control().release_capacity(bytes.len()).unwrap();
        sender.send_data(bytes, false).unwrap();
    }
    match body.trailers().await.unwrap() {
        Some(trailers) => sender.send_trailers(trailers).unwrap(),
        None => sender.send_data(Bytes::new(), true).unwrap(),
    }
}

#[test]
fn our_server_and_the_client_of_h2_exchange_the_same_messages() {
    for seed in 1..=SEEDS {
        let mut dice = Dice::new(seed + 1_000);
        let sent = messages(&mut dice);
        block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 + dice.roll(100_000));
            let mut builder = client::Builder::new();
            builder.initial_window_size(1 + dice.roll(100_000) as u32).header_table_size(dice.roll(10_000) as u32);
            builder.initial_connection_window_size(100_000).initial_max_send_streams(100);
            let engine = Engine::new(Role::Server, Vec::new());
            let server = tokio::task::spawn_local(drive(ours, engine, sent.len(), dice));
            let (client, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            let connection = tokio::task::spawn_local(connection);
            let calls: Vec<_> = sent.iter().map(|message| call(client.clone(), message.clone())).collect();
            for call in calls.into_iter().map(tokio::task::spawn_local).collect::<Vec<_>>() {
                call.await.unwrap();
            }
            drop(client);
            server.await.unwrap();
            let _ = connection.await;
        });
    }
}

async fn call(client: client::SendRequest<Bytes>, message: Message) {
    let mut client = client.ready().await.unwrap();
    let mut request = Request::post(format!("http://a{}", message.path)).body(()).unwrap();
    *request.headers_mut() = map(&message.fields);
    let (response, mut sender) = client.send_request(request, false).unwrap();
    sender.send_data(Bytes::from(message.body.clone()), message.trailers.is_empty()).unwrap();
    if !message.trailers.is_empty() {
        sender.send_trailers(map(&message.trailers)).unwrap();
    }
    let response = response.await.unwrap();
    let mut expected = message.fields.clone();
    expected.push(("x-path".to_owned(), message.path.clone()));
    expected.sort();
    assert_eq!(list(response.headers()), expected);
    let (mut body, mut received) = (response.into_body(), Vec::new());
    while let Some(bytes) = body.data().await {
        let bytes = bytes.unwrap();
        body.flow_control().release_capacity(bytes.len()).unwrap();
        received.extend_from_slice(&bytes);
    }
    assert!(received == message.body, "{} bytes for {}", received.len(), message.body.len());
    let trailers = body.trailers().await.unwrap().map(|map| list(&map)).unwrap_or_default();
    assert_eq!(trailers, message.trailers);
}
