//! HTTP/2 field lists become canonical HTTP/1.1 head text, and parsed heads become field blocks.
//!
//! One form of a message for policy, routing and logs: whatever came over HTTP/2 is text that `parse_request` or
//! `parse_response` accepts, or it is refused here. Reading order: `fault.rs` (reasons), `rules.rs` (what holds of every
//! field), `request.rs`, `response.rs` and `trailers.rs` (lists become text), `encode.rs` (heads become blocks) with
//! `indexing.rs` (what the dynamic table may hold), `origin.rs` (how an HTTP/1.1 head was spelled) and `grpc.rs`.
//! In: [`FieldList`](super::hpack::FieldList), parsed heads. Out: text, blocks. Limits: [`Limits`](crate::Limits).
//! Fails: [`MessageFault`], which ends one stream. Source: RFC 9113 8; decision 0083.

mod encode;
mod fault;
mod grpc;
mod indexing;
mod origin;
mod request;
mod response;
mod rules;
mod trailers;

pub use encode::{
    Message, RequestMapping, ResponseMapping, encode_local_reply, encode_request, encode_response,
    encode_response_text, encode_trailers,
};
pub use fault::MessageFault;
pub(crate) use grpc::GRPC_TYPE;
pub use grpc::{grpc_status, is_grpc, write_grpc_message};
pub use origin::Origin;
pub use request::{RequestShape, Scheme, Tunnel, write_request};
pub use response::{ResponseShape, write_response};

pub(crate) use trailers::forwards_trailer;
pub use trailers::write_trailers;
