//! How much of the memory that its control group allows this process uses: first nothing is kept for later, then new
//! connections are refused, before the kernel has to choose whom to kill.
//!
//! In:      the limit and the use of the own control group, version 2 or 1, every [`LOOK`].  Out: a [`Pressure`].
//! Limits:  short from [`SHORT_PERCENT`]; tight from [`TIGHT_PERCENT`] until it is below [`EASY_PERCENT`]; caches that the kernel
//!          drops first do not count.
//!          A limit that only a group further up has is not seen.
//! Fails:   never: without a group, or a limit, memory is never tight.
//! Source:  Linux admin-guide/cgroup-v2 "Memory", cgroup-v1/memory; attack-cases PR-05, 2.19 (limits near: refuse new work first).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::observe::notice;

/// How short memory is, for workers to read.
#[derive(Default)]
pub(crate) struct Pressure {
    saving: AtomicBool,
    tight: AtomicBool,
}

impl Pressure {
    /// Nothing is kept for later: idle connections to upstreams, spare buffers, holes in the heap.
    pub(crate) fn is_saving(&self) -> bool {
        self.saving.load(Relaxed)
    }

    /// New connections are refused.
    pub(crate) fn is_tight(&self) -> bool {
        self.tight.load(Relaxed)
    }

    /// Takes a look's result; true when being tight began or ended.
    fn take(&self, percent: Option<u64>) -> bool {
        let reaches = |bound: u64| percent.is_some_and(|percent| percent >= bound);
        let was = self.is_tight();
        self.saving.store(reaches(SHORT_PERCENT), Relaxed);
        self.tight.store(reaches(if was { EASY_PERCENT } else { TIGHT_PERCENT }), Relaxed);
        self.is_tight() != was
    }
}

/// Keeps `pressure` up to date.
pub(crate) async fn watch(pressure: Arc<Pressure>) {
    let Some(group) = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|lines| Group::named_in(&lines))
    else {
        return;
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if pressure.take(group.percent()) {
            notice::say(if pressure.is_tight() { REFUSING } else { TAKING });
        }
    }
}

/// The files of one control group.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

impl Group {
    /// The group with a memory controller among the lines of `/proc/self/cgroup`.
    fn named_in(lines: &str) -> Option<Self> {
        let places = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?.to_owned(), parts.next()?.trim_start_matches('/').to_owned()))
        };
        let groups: Vec<_> = lines.lines().filter_map(places).collect();
        let first = groups.iter().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
        if let Some((_, path)) = first {
            return Some(Self {
                folder: PathBuf::from("/sys/fs/cgroup/memory").join(path),
                limit: "memory.limit_in_bytes",
                used: "memory.usage_in_bytes",
                cache: "total_inactive_file",
            });
        }
        let (_, path) = groups.iter().find(|(controllers, _)| controllers.is_empty())?;
        Some(Self {
            folder: PathBuf::from("/sys/fs/cgroup").join(path),
            limit: "memory.max",
            used: "memory.current",
            cache: "inactive_file",
        })
    }

    /// What is used of what is allowed; `None` without a limit. Caches are looked up only where they matter: the kernel sums
    /// that file up anew for each reader.
    fn percent(&self) -> Option<u64> {
        let limit = self.number(self.limit)?;
        let used = self.number(self.used)?;
        let of_limit = |used: u64| (limit > 0).then(|| (u128::from(used) * 100 / u128::from(limit)) as u64);
        match of_limit(used)? {
            SHORT_PERCENT.. => of_limit(used.saturating_sub(self.droppable())),
            comfortable => Some(comfortable),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }

    fn droppable(&self) -> u64 {
        let stat = std::fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let value = stat.lines().find_map(|line| line.strip_prefix(self.cache)?.trim().parse().ok());
        value.unwrap_or(0)
    }
}

const LOOK: Duration = Duration::from_millis(250);
const SHORT_PERCENT: u64 = 85;
const TIGHT_PERCENT: u64 = 95;
const EASY_PERCENT: u64 = 90;
const REFUSING: &str = "memory is nearly used up: new connections are refused; raise the limit of the control group";
const TAKING: &str = "memory is no longer tight: new connections are taken again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pr_05_the_group_of_either_version_is_found() {
        let first = Group::named_in("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n").expect("a version 1 group");
        assert_eq!((first.folder.to_str(), first.limit), (Some("/sys/fs/cgroup/memory/a/b"), "memory.limit_in_bytes"));
        let second = Group::named_in("0::/user.slice/x\n").expect("a version 2 group");
        assert_eq!((second.folder.to_str(), second.limit), (Some("/sys/fs/cgroup/user.slice/x"), "memory.max"));
        assert_eq!(Group::named_in(""), None);
    }

    #[test]
    fn pr_05_thresholds_are_passed_one_after_the_other_and_left_lower_down() {
        let pressure = Pressure::default();
        let states: Vec<_> = [84, 85, 94, 95, 91, 90, 89, 84, 96]
            .map(|percent| {
                let changed = pressure.take(Some(percent));
                (pressure.is_saving(), pressure.is_tight(), changed)
            })
            .into();
        let (easy, saving, tight) = ((false, false, false), (true, false, false), (true, true, false));
        let (began, ended) = ((true, true, true), (true, false, true));
        assert_eq!(states, [easy, saving, saving, began, tight, tight, ended, easy, began]);
        assert!(pressure.take(None) && !pressure.is_saving() && !pressure.is_tight(), "the limit was taken away");
    }
}
