//! One request and its response decide what becomes of the two connections that carried them.
//!
//! In: heads as they are parsed and the ends of bodies. Out: what a response head means, and which connection may go on.
//! Limits: [`MAX_INTERIM`] interim responses. Fails: a response nobody asked for. Source: RFC 9112 9.3, RFC 9110 7.8 and 15.2.

use crate::http1_head::{Framing, RequestHead};
use crate::http1_response::ResponseHead;
use crate::refusal::{LineFault, Refusal};

/// One exchange. A connection goes on only when both of its messages ended cleanly; everything else closes it.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    client_keeps: bool,
    asked_upgrade: bool,
    request_done: bool,
    answer: Option<(bool, Framing)>,
    response_done: bool,
    interim: usize,
}

/// What a response head means for the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Forward it; another head follows.
    Interim,
    /// The response; its body follows.
    Final,
    /// Both connections become a byte stream.
    Switch,
}

impl Exchange {
    /// An exchange that begins with this request.
    pub fn new(request: &RequestHead) -> Self {
        Self {
            client_keeps: request.keep_alive,
            asked_upgrade: request.upgrade.is_some(),
            request_done: request.framing == Framing::None,
            answer: None,
            response_done: false,
            interim: 0,
        }
    }

    /// The last byte of the request body was taken from the client and, for reuse of the upstream, sent on.
    pub fn end_request(&mut self) {
        self.request_done = true;
    }

    /// Takes a response head from the upstream.
    pub fn respond(&mut self, response: &ResponseHead) -> Result<Answer, Refusal> {
        if response.is_interim() {
            self.interim += 1;
            let few = self.interim <= MAX_INTERIM;
            return if few { Ok(Answer::Interim) } else { Err(Refusal::new(502, LineFault::TooManyInterim)) };
        }
        self.answer = Some((response.keep_alive, response.framing));
        self.response_done = response.framing == Framing::None;
        match (response.status, self.asked_upgrade) {
            (101, true) => Ok(Answer::Switch),
            (101, false) => Err(Refusal::new(502, LineFault::UnaskedSwitch)),
            _ => Ok(Answer::Final),
        }
    }

    /// The last byte of the response body was taken from the upstream and sent to the client.
    pub fn end_response(&mut self) {
        self.response_done = true;
    }

    /// Whether the upstream connection may carry another request. `surplus`: it sent bytes behind its response.
    pub fn upstream_reusable(&self, surplus: bool) -> bool {
        let clean = self.request_done && self.response_done && !surplus;
        clean && self.answer.is_some_and(|(keeps, framing)| keeps && framing != Framing::UntilClose)
    }

    /// Whether the client may send another request after this response. A local answer has no upstream answer.
    pub fn downstream_persists(&self) -> bool {
        let delimited = self.answer.is_none_or(|(_, framing)| framing != Framing::UntilClose && self.response_done);
        self.client_keeps && self.request_done && delimited
    }
}

/// How many interim responses (100, 102, 103) are forwarded for one request.
pub const MAX_INTERIM: usize = 10;
