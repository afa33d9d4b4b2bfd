//! Placeholder while the crate is being laid out.
#![deny(unsafe_code)]
