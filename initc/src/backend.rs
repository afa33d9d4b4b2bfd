//! Finds the iptables back end to use and runs its programs.
//!
//! In:      `PATH`, and what each back end holds.   Out: `Backend`, used by `apply`.
//! Limits:  the legacy lock is waited for at most `LOCK_WAIT_S` seconds; `XTABLES_LOCKFILE` is handed on as it is.
//! Fails:   `Failure`, the machine's fault, before anything is changed.
//! Source:  istio-iptables' order: the forced one; legacy where it holds rules; nft; plain `iptables`.
//!          Deviation: whoever holds chains of ours goes first, and "holds rules" counts rules, not lines: the trial
//!          below makes the legacy kernel module print an empty table from then on.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::failure::Failure;
use crate::plan::Rule;
use crate::state::State;

/// One family of programs: NAME, NAME-save and NAME-restore.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    path: PathBuf,
    version: Version,
}

/// What `--version` says. An unreadable answer counts as an old legacy version, as in Istio.
#[derive(Debug, Default, PartialEq, Eq)]
struct Version {
    numbers: Vec<u32>,
    nft: bool,
}

/// The back end for a run, and what it holds.
pub(crate) fn select(forced: Option<&'static str>) -> Result<(Backend, State), Failure> {
    let mut candidates = readable(forced)?;
    let holders: Vec<usize> = (0..candidates.len()).filter(|&at| candidates[at].1.holds_ours()).collect();
    if let [first, second, ..] = holders[..] {
        let name = |at: usize| candidates[at].0.name.to_owned();
        return Err(Failure::TwoBackEnds { first: name(first), second: name(second) });
    }
    if let [only] = holders[..] {
        return Ok(candidates.swap_remove(only));
    }
    candidates.sort_by_key(|(backend, state)| backend.rank(state));
    first_that_works(candidates)
}

/// Every installed back end whose rules can be read. The plain name is one of the two others in disguise.
pub(crate) fn readable(forced: Option<&'static str>) -> Result<Vec<(Backend, State)>, Failure> {
    let names: Vec<&'static str> = forced.map_or_else(|| vec![LEGACY, NFT], |name| vec![name]);
    let mut installed: Vec<Backend> = names.iter().filter_map(|name| Backend::find(name)).collect();
    if installed.is_empty() && forced.is_none() {
        installed.extend(Backend::find(PLAIN));
    }
    if installed.is_empty() {
        return Err(Failure::NoIptables {
            looked_for: forced.map_or_else(|| [LEGACY, NFT, PLAIN].join(", "), str::to_owned),
        });
    }
    let (mut found, mut unreadable) = (Vec::new(), None);
    for backend in installed {
        match backend.read() {
            Ok(state) => found.push((backend, state)),
            Err(failure) => unreadable = Some(failure),
        }
    }
    match unreadable {
        Some(failure) if found.is_empty() => Err(failure),
        _ => Ok(found),
    }
}

/// Tries each in turn with a rule that can match nothing that matters and is removed again at once.
fn first_that_works(candidates: Vec<(Backend, State)>) -> Result<(Backend, State), Failure> {
    let mut said = Vec::new();
    for (backend, state) in candidates {
        match backend.try_out() {
            Ok(()) => return Ok((backend, state)),
            Err(answer) => said.push(format!("{}: {answer}", backend.name)),
        }
    }
    Err(Failure::NoneWorks { said: said.join(" ") })
}

impl Backend {
    fn find(name: &'static str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
        let complete = |path: &PathBuf| ["", "-save", "-restore"].iter().all(|part| with_suffix(path, part).is_file());
        let path = folders.map(|folder| folder.join(name)).find(complete)?;
        let said = Command::new(&path).arg("--version").output();
        let version = said.map(|output| Version::parse(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default();
        Some(Self { name, path, version })
    }

    /// What is in force.
    pub(crate) fn read(&self) -> Result<State, Failure> {
        let output = self.program("-save").stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(State::parse(&String::from_utf8_lossy(&output.stdout))),
            other => Err(Failure::Unreadable { program: format!("{}-save", self.name), said: answer(other) }),
        }
    }

    /// Whether this very rule is in force, wherever in its chain.
    pub(crate) fn holds(&self, rule: &Rule) -> bool {
        let output = self.on_table(rule.table, "-C", rule.chain, &rule.args).output();
        output.is_ok_and(|output| output.status.success())
    }

    /// Puts a document in force, all of it or nothing.
    pub(crate) fn restore(&self, document: &str) -> Result<(), Failure> {
        let mut command = self.program("-restore");
        command.arg("--noflush").args(self.wait());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let output = child.and_then(|mut child| {
            if let Some(mut input) = child.stdin.take() {
                let _ = input.write_all(document.as_bytes()); // it ended early: its own answer says why
            }
            child.wait_with_output()
        });
        match output {
            Ok(output) if output.status.success() => Ok(()),
            other => Err(Failure::Refused { program: format!("{}-restore", self.name), said: answer(other) }),
        }
    }

    /// Lower goes first.
    fn rank(&self, state: &State) -> u8 {
        match (self.version.nft, state.holds_rules()) {
            (false, true) => 0,
            (true, _) => 1,
            (false, false) => 2,
        }
    }

    fn try_out(&self) -> Result<(), String> {
        for verb in ["-A", "-D"] {
            let output = self.on_table("nat", verb, "INPUT", "-p 255 -j RETURN").output();
            match output {
                Ok(output) if output.status.success() && !says_missing(&output) => {}
                other => return Err(answer(other)),
            }
        }
        Ok(())
    }

    fn on_table(&self, table: &str, verb: &str, chain: &str, args: &str) -> Command {
        let mut command = self.program("");
        command.args(self.wait()).args(["-t", table, verb, chain]).args(args.split(' ')).stdin(Stdio::null());
        command
    }

    fn program(&self, suffix: &str) -> Command {
        Command::new(with_suffix(&self.path, suffix))
    }

    /// Only legacy takes a lock, and only from 1.6.2 on does every program of it know how to wait.
    fn wait(&self) -> Option<String> {
        let waits = !self.version.nft && self.version.numbers.as_slice() >= [1, 6, 2].as_slice();
        waits.then(|| format!("--wait={LOCK_WAIT_S}"))
    }
}

impl Version {
    /// Reads `iptables v1.8.9 (nf_tables)`.
    fn parse(said: &str) -> Self {
        let number = |word: &str| word.strip_prefix('v').and_then(numbers);
        match said.split_whitespace().find_map(number) {
            Some(numbers) => Self { numbers, nft: said.contains("nf_tables") },
            None => Self::default(),
        }
    }
}

fn numbers(text: &str) -> Option<Vec<u32>> {
    let numbers: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() > 1).then_some(numbers)
}

fn with_suffix(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn says_missing(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("does not exist")
}

/// What a program said when it failed, on one line.
fn answer(output: std::io::Result<Output>) -> String {
    match output {
        Err(error) => error.to_string(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> =
                said.lines().map(str::trim).filter(|line| !line.is_empty()).take(ANSWER_LINES).collect();
            if said.is_empty() { format!("it ended with {}", output.status) } else { said.join(" ") }
        }
    }
}

const LEGACY: &str = "iptables-legacy";
const NFT: &str = "iptables-nft";
const PLAIN: &str = "iptables";
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
const LOCK_WAIT_S: u32 = 30;
const ANSWER_LINES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_istio_reads_them() {
        let table: [(&str, &[u32], bool); 6] = [
            ("iptables v1.6.1", &[1, 6, 1], false),
            ("iptables v1.4.21", &[1, 4, 21], false),
            ("iptables v1.8.4 (nf_tables)", &[1, 8, 4], true),
            ("iptables v1.8.9 (legacy)\n", &[1, 8, 9], false),
            ("unrecognized option '--version'", &[], false),
            ("", &[], false),
        ];
        for (said, numbers, nft) in table {
            assert_eq!(Version::parse(said), Version { numbers: numbers.to_vec(), nft }, "{said}");
        }
    }

    #[test]
    fn only_legacy_from_1_6_2_on_waits_for_the_lock() {
        let table = [
            ("iptables v1.6.1", None),
            ("iptables v1.6.2", Some("--wait=30")),
            ("iptables v1.8.9 (legacy)", Some("--wait=30")),
            ("iptables v1.8.9 (nf_tables)", None),
            ("?", None),
        ];
        for (said, expected) in table {
            let backend = Backend { name: PLAIN, path: PathBuf::new(), version: Version::parse(said) };
            assert_eq!(backend.wait().as_deref(), expected, "{said}");
        }
    }

    #[test]
    fn legacy_goes_first_only_where_it_holds_rules() {
        let backend = |said| Backend { name: PLAIN, path: PathBuf::new(), version: Version::parse(said) };
        let (legacy, nft) = (backend("iptables v1.8.9 (legacy)"), backend("iptables v1.8.9 (nf_tables)"));
        let empty = State::parse("*nat\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
        let used = State::parse("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n");
        assert!(legacy.rank(&used) < nft.rank(&used));
        assert!(nft.rank(&empty) < legacy.rank(&empty));
    }
}
