//! Placeholder while the crate is being laid out.
#![deny(unsafe_code)]

pub mod credentials;
pub(crate) mod stream;
pub(crate) mod tls;
