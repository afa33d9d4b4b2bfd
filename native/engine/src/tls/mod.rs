//! Mutual TLS between workloads: sockets and credentials in, verified peers and plaintext out.
//!
//! Reading order: `handshake` (accept, connect) → `stream` (bytes of one connection) → `session` (records, no socket)
//! → `config` (what is offered) → `verify` (chains and SPIFFE identities) → `leaf` (what a certificate says) → `failure`;
//! `credentials` are what we show, `facts` what may be told of them. `origination` is TLS of the application's own matter.
//!
//! Limits: one read buffer and one write buffer per worker, lent while bytes move; an idle connection holds neither.
//! Source: `spec/istio-semantics.md` B.2, B.4, C; attack cases 2.8.

pub(crate) mod config;
pub mod credentials;
pub mod facts;
pub(crate) mod failure;
pub(crate) mod handshake;
pub(crate) mod leaf;
pub(crate) mod origination;
pub(crate) mod recent;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod verify;

pub(crate) use config::{ClientAlpn, ServerAlpn};
pub(crate) use failure::TlsFailure;
pub(crate) use handshake::{ExpectedPeer, PeerCertificate, accept, connect, originate};
pub(crate) use stream::TlsStream;

#[cfg(test)]
pub(crate) mod pki;

#[cfg(test)]
mod interop_tests;
