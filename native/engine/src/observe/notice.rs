//! One line for people on standard error, which may be a full disk or a pipe that nobody reads.
//!
//! In:      a sentence.  Out: the line, or nothing: no thread of the data plane waits for a reader.
//! Limits:  [`LINE_BYTES`], which a pipe that takes anything takes whole (pipe(7), `PIPE_BUF`).
//! Fails:   never; `eprintln!` would end its thread on a full disk and stop it on a full pipe.

use std::io::Write;
use std::os::fd::AsFd;

use crate::sys;

/// Says one line as this program.
pub(crate) fn say(sentence: &str) {
    let mut line = format!("meshdp sidecar: {sentence}");
    while line.len() >= LINE_BYTES {
        line.pop();
    }
    line.push('\n');
    let mut out = std::io::stderr();
    if sys::takes_bytes_now(out.as_fd()) {
        let _ = out.write_all(line.as_bytes());
    }
}

const LINE_BYTES: usize = 4_096;
