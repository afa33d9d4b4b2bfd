//! One request on a downstream HTTP/2 connection: judged, routed, carried, recorded once.
//!
//! In: a stream with the canonical text of its head.  Out: an answer on it, and one outcome.
//! Limits: the idle bound for every wait; `grpc-timeout` for a call that names one.
//! Fails: refusals and denials are answered in the words of gRPC where the request is a call (D.6, RT-09).
//! CONNECT is refused, as over HTTP/1.1 (decision 0092); an extended one for WebSocket is an upgrade (decision 0112).

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use meshdp_model::version::Version;
use meshdp_proto::h2::ErrorCode;
use meshdp_proto::h2::message::{Origin, Tunnel, encode_local_reply, grpc_status, is_grpc};
use meshdp_proto::http1_fields::Known;
use meshdp_proto::http1_forward::LocalReply;

use crate::attempts::Attempts;
use crate::fault;
use crate::h2::shared::Accepted;
use crate::http::caller::{Caller, Refused, Request, view};
use crate::http::carry::{Carried, Clock, Errand, carry};
use crate::http::decide::{path_mode, read_head};
use crate::http::tasks::Deadline;
use crate::http::transfer::h2_sides::H2Request;
use crate::http::transfer::{RequestSide, Start, WEBSOCKET};
use crate::http::upstream::kind_of;
use crate::http::{grpc, reply};
use crate::observe::outcome::{Outcome, Reason};
use crate::observe::record::{self, RequestRecord};
use crate::upstream::Target;
use crate::worker::{Pinned, Worker};

/// A request that has arrived.
pub(crate) struct Arrived {
    pub(crate) accepted: Accepted,
    /// The text of its head.
    pub(crate) text: Vec<u8>,
}

/// Serves one request to its end.
pub(crate) async fn serve(caller: &Caller<'_>, arrived: Arrived, deadline: Deadline) {
    let Arrived { accepted, mut text } = arrived;
    let Accepted { stream, shape, end } = accepted;
    let tunnel = shape.tunnel == Tunnel::Extended;
    if tunnel {
        complete_handshake(&mut text, caller.worker);
    }
    let mut down = H2Request::new(stream, text, &caller.worker.buffers);
    fault::point("stream");
    // A connection that is no longer acceptable ends with all its streams.
    let Ok(pinned) = caller.pin_accepted() else { return down.handle().reset(ErrorCode::REFUSED_STREAM) };
    let mut call = Call { caller, deadline: &deadline, to_head: shape.to_head, grpc: false };
    if shape.tunnel == Tunnel::Connect {
        let outcome = Outcome::of(Reason::Unsupported).because("connect").answered(400);
        return call.refuse(&mut down, &pinned, &outcome).await;
    }
    let mut request = match read(caller, &pinned, down.text()) {
        Ok(request) => request,
        Err(outcome) => return call.refuse(&mut down, &pinned, &outcome).await,
    };
    request.head.head.framing = shape.framing(end);
    let asked = request.head.head.upgrade.map_or(&[][..], |span| span.of(down.text()));
    if tunnel && !asked.eq_ignore_ascii_case(WEBSOCKET) {
        let outcome = Outcome::of(Reason::Unsupported).because("protocol").answered(501);
        return call.refuse(&mut down, &pinned, &outcome).await;
    }
    let Noticed { grpc, timeout, spoken } = notice(caller, &request, down.text());
    (request.grpc, call.grpc) = (grpc, grpc);
    down.note_answer(spoken == Version::Http1);
    let kind = kind_of(request.head.head.method.of(down.text()));
    let start = Start { kind, grpc, ended: end || tunnel, limits: caller.limits, close: false, tunnel };
    let (outcome, target) = call.forward(&request, &mut down, (start, timeout, spoken, shape)).await;
    RequestRecord { caller, request: &request, text: down.text(), target: target.as_ref(), outcome }.write();
    caller.count_request();
}

/// Adds the key that a WebSocket server of HTTP/1.1 must be shown and that HTTP/2 has no use for (RFC 8441 §5.1).
fn complete_handshake(text: &mut Vec<u8>, worker: &Worker) {
    let has = text.split(|byte| *byte == b'\n').any(|line| {
        line.split_at_checked(KEY.len())
            .is_some_and(|(name, rest)| name.eq_ignore_ascii_case(KEY) && rest.first() == Some(&b':'))
    });
    if has || !text.ends_with(b"\r\n\r\n") {
        return;
    }
    text.truncate(text.len() - 2);
    text.extend_from_slice(KEY);
    text.extend_from_slice(b": ");
    // 16 random bytes in base64 are 21 letters, one of four, and two signs that fill up.
    for _ in 0..KEY_LETTERS {
        text.push(BASE64[(worker.random() >> 58) as usize]);
    }
    text.push(BASE64[(worker.random() >> 62) as usize * 16]);
    text.extend_from_slice(b"==\r\n\r\n");
}

/// Reads the head; `write_request` of the core has made it.
fn read(caller: &Caller<'_>, pinned: &Rc<Pinned>, text: &[u8]) -> Result<Request, Outcome> {
    let mode = path_mode(pinned.snapshot.mesh().path_normalization);
    let mut scratch = caller.worker.scratch.borrow_mut();
    match read_head(text, &caller.limits, mode, &mut scratch) {
        Ok(Some(head)) => {
            let read = Cell::new(scratch.reads);
            Ok(Request {
                head,
                pinned: Rc::clone(pinned),
                started: Instant::now(),
                read,
                grpc: false,
                tokens: OnceCell::new(),
                shadow: RefCell::default(),
            })
        }
        Ok(None) => Err(Outcome::of(Reason::Bug).answered(500)),
        Err(refusal) => Err(record::refusal(refusal)),
    }
}

/// What of a head matters to how it is served.
struct Noticed {
    grpc: bool,
    /// How long the call may take, in milliseconds, or what cannot be read as that.
    timeout: Result<Option<u64>, grpc::BadTimeout>,
    /// What its client spoke.
    spoken: Version,
}

fn notice(caller: &Caller<'_>, request: &Request, text: &[u8]) -> Noticed {
    let scratch = caller.scratch(request, text);
    let view = view(&request.head, text, &scratch);
    let grpc = view.first(Known::ContentType).is_some_and(is_grpc);
    let timeout = view.fields.values(text, "grpc-timeout").next().filter(|_| grpc);
    // What others than peers of the mesh write into a note says nothing.
    let noted = caller.link.facts.peer.is_some() && Origin::of_request(text, &scratch.fields).is_some();
    let spoken = if noted { Version::Http1 } else { Version::Http2 };
    Noticed { grpc, timeout: timeout.map(grpc::timeout_ms).transpose(), spoken }
}

/// What the stages of one request share.
struct Call<'c, 'w> {
    caller: &'c Caller<'w>,
    deadline: &'c Deadline,
    to_head: bool,
    grpc: bool,
}

type Asked = (Start, Result<Option<u64>, grpc::BadTimeout>, Version, meshdp_proto::h2::RequestShape);

impl Call<'_, '_> {
    /// Judges, routes and carries the request; how it ended, and where it went.
    async fn forward(
        &self,
        request: &Request,
        down: &mut H2Request<'_>,
        (start, timeout, spoken, shape): Asked,
    ) -> (Outcome, Option<Target>) {
        let caller = self.caller;
        if down.handle().is_broken() {
            // It was reset with its head: nobody wants any of what follows (H2-01, H2-37).
            return (Outcome::of(Reason::DownstreamClosed), None);
        }
        let permit = match caller.authorize(request, down.text()) {
            Ok(permit) => permit,
            Err(refused) => return (self.deny((request, down), &refused).await, None),
        };
        let Ok(timeout_ms) = timeout else {
            let outcome = Outcome::of(Reason::MalformedRequest).because("grpc_timeout");
            return (self.answer(down, outcome, "malformed grpc-timeout").await, None);
        };
        let mut target = match caller.route(&permit, request, down.text()) {
            Ok(target) => target,
            Err(reason) => return (self.answer(down, Outcome::of(reason), reply::body_of(reason)).await, None),
        };
        let clock = self.clock(timeout_ms);
        clock.begin(caller.worker);
        let mut attempts = Attempts::default();
        let outcome = loop {
            let errand = Errand {
                caller,
                request,
                target: &target,
                clock,
                spoken,
                scheme: shape.scheme,
                sensitive: shape.sensitive,
                from_mesh: caller.link.facts.peer.is_some(),
            };
            let reason = match carry(&errand, down, &start).await {
                Carried::Answered(outcome, _) | Carried::Cut(outcome) => break outcome,
                Carried::UnansweredMidBody(reason) => Err(reason),
                Carried::Unanswered(reason) => Box::pin(attempts.again(&mut target, reason, caller.worker)).await,
            };
            if let Err(reason) = reason {
                break self.answer(down, Outcome::of(reason), reply::body_of(reason)).await;
            }
        };
        (outcome, Some(target))
    }

    fn clock(&self, timeout_ms: Option<u64>) -> Clock<'_> {
        let until_ms = timeout_ms.map_or(u64::MAX, |timeout_ms| self.caller.worker.coarse_ms() + timeout_ms);
        let due = timeout_ms.map(|timeout_ms| Instant::now() + Duration::from_millis(timeout_ms));
        Clock { deadline: self.deadline, entry: &self.caller.link.entry, until_ms, due }
    }

    async fn deny(&self, (request, down): (&Request, &mut H2Request<'_>), refused: &Refused) -> Outcome {
        let (outcome, body) = record::denied(self.caller.worker, refused);
        let challenge = match refused {
            Refused::Token(_) => self.caller.challenge(request, down.text()),
            Refused::Policy(_) => Vec::new(),
        };
        self.answer_with(down, outcome, (body, &challenge)).await
    }

    /// Answers what is no request.
    async fn refuse(&self, down: &mut H2Request<'_>, pinned: &Pinned, outcome: &Outcome) {
        self.answer(down, outcome.clone(), "").await;
        record::refused(self.caller, pinned, outcome);
        self.caller.count_request();
    }

    /// Answers the request ourselves; what is left of its body is not waited for.
    async fn answer(&self, down: &mut H2Request<'_>, outcome: Outcome, body: &'static str) -> Outcome {
        self.answer_with(down, outcome, (body, &[])).await
    }

    async fn answer_with(
        &self,
        down: &mut H2Request<'_>,
        mut outcome: Outcome,
        (body, challenge): (&'static str, &[u8]),
    ) -> Outcome {
        let extra = [(reply::CHALLENGE, challenge)];
        let clock = self.clock(None);
        clock.begin(self.caller.worker);
        let content_type = if body.is_empty() { "" } else { "text/plain" };
        let answer = LocalReply {
            status: outcome.status,
            body: body.as_bytes(),
            content_type,
            to_head: self.to_head,
            grpc: self.grpc,
            extra: if challenge.is_empty() { &[] } else { &extra },
            ..LocalReply::default()
        };
        let has_body = !self.grpc && !self.to_head && !body.is_empty();
        let sent = down.handle().send_head(!has_body, |encoder, out| {
            encode_local_reply(encoder, &answer, out);
        });
        if self.grpc {
            outcome.grpc_status = Some(grpc_status(outcome.status));
            outcome.status = 200;
        }
        if sent.is_ok() && has_body {
            let mut left = body.as_bytes();
            poll_fn(|context| {
                while !left.is_empty() {
                    match down.handle().poll_send_data(context, left, true) {
                        Poll::Ready(Ok(count)) => left = &left[count..],
                        Poll::Pending if !clock.has_come(self.caller.worker.coarse_ms()) => return Poll::Pending,
                        _ => break,
                    }
                }
                Poll::Ready(())
            })
            .await;
        }
        outcome
    }
}

const KEY: &[u8] = b"sec-websocket-key";
const KEY_LETTERS: usize = 21;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
