//! `meshdp-init`: flags and environment in, redirection rules of this network namespace out.
//!
//! In:      Istio's `istio-iptables` flags (`arguments`), run once per network namespace with `NET_ADMIN`.
//! Out:     rules in force, or with `--dry-run` the document on standard output. Warnings and errors on standard error.
//! Fails:   exit 0 in force or already in force, 1 refused by the machine or by what is there, 2 wrong usage.
//! Source:  `spec` reads what is wanted, `plan` lists the rules, `render` writes them, `apply` puts them in force.
#![forbid(unsafe_code)]

mod apply;
mod arguments;
mod backend;
mod failure;
mod plan;
mod probe;
mod render;
mod spec;
mod state;

use std::io::Write;
use std::process::ExitCode;

use arguments::{Choices, Request, UsageError};
use failure::Failure;
use spec::Settings;

const REFUSED: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let settings = match wanted() {
        Ok(Request::Run(settings)) => settings,
        Ok(Request::Show(text)) => return show(&text),
        Err(error) => {
            eprintln!("meshdp-init: {error}\nmeshdp-init: `meshdp-init --help` lists every flag; nothing was changed");
            return ExitCode::from(USAGE);
        }
    };
    match act(&settings) {
        Ok(text) => show(&text),
        Err(failure) => {
            eprintln!("meshdp-init: {failure}");
            ExitCode::from(REFUSED)
        }
    }
}

/// Reads command line and environment into settings, or into a text that was asked for.
fn wanted() -> Result<Request<Settings>, UsageError> {
    let command_line = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let environment = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let choices = Choices::read(command_line, &environment)?;
    if let Some(text) = choices.text_asked_for() {
        return Ok(Request::Show(text));
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Settings::decode(&choices, &passwd).map(Request::Run)
}

/// Does what the settings ask for; the text says what was done.
fn act(settings: &Settings) -> Result<String, Failure> {
    let rules = plan::plan(settings);
    match (settings.dry_run, settings.cleanup_only) {
        (true, false) => Ok(render::document(&rules)),
        (true, true) => Ok(render::removal(&rules)),
        (false, false) => {
            let report = apply::install(settings, &rules)?;
            for warning in [probe::uncaptured_ipv6(), probe::older_connections()].into_iter().flatten() {
                eprintln!("meshdp-init: warning: {warning}");
            }
            Ok(report)
        }
        (false, true) => apply::clean(settings, &rules),
    }
}

/// Writes the text; a reader that closed its end early is not an error of ours.
fn show(text: &str) -> ExitCode {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(REFUSED),
        _ => ExitCode::SUCCESS,
    }
}
