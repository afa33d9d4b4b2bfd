//! Another try for a request of which no byte was sent: whether, when, and how long a failing endpoint is left alone.
//!
//! In:      how many tries were made, how the last one failed, whether there is another endpoint, randomness.
//! Out:     `Next`, and times in milliseconds. No clock here.
//! Limits:  [`TRIES`] connections for one request; pauses up to [`LONGEST_PAUSE_MS`]; an endpoint is avoided for [`LONGEST_AVOIDED_MS`] at most.
//! Source:  Istio's built-in policy: two retries on connect failures, other hosts first, 25 ms base, ten times that at most
//!          (istio-semantics F.4); RFC 9110 9.2.2.

/// How a connection to an endpoint was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It was refused or broken off: another try may succeed soon.
    Refused,
    /// Nobody answered in time, or somebody else did: the same endpoint will do no better now.
    Lasting,
}

/// What follows a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The failure is the answer.
    GiveUp,
    /// Try again, after so many milliseconds.
    After(u64),
}

/// Decides after `made` tries. Another endpoint is tried at once; the same one after a pause that grows, with jitter.
pub fn next(made: u32, failure: Failure, elsewhere: bool, random: u64) -> Next {
    match failure {
        _ if made >= TRIES => Next::GiveUp,
        _ if elsewhere => Next::After(0),
        Failure::Lasting => Next::GiveUp,
        Failure::Refused => {
            let longest = (BASE_PAUSE_MS << made.min(16)).min(LONGEST_PAUSE_MS);
            Next::After(longest / 2 + random % (longest / 2 + 1))
        }
    }
}

/// For how long balancing leaves an endpoint alone that has failed so many times in a row.
pub fn avoided_ms(failures: u32) -> u64 {
    (FIRST_AVOIDED_MS << failures.saturating_sub(1).min(16)).min(LONGEST_AVOIDED_MS)
}

/// Connections tried for one request: Istio's two retries.
pub const TRIES: u32 = 3;
/// The pause before the second try at the same endpoint is about this long.
const BASE_PAUSE_MS: u64 = 25;
/// No pause is longer.
pub const LONGEST_PAUSE_MS: u64 = 250;
/// After its first failure an endpoint is left alone for this long.
const FIRST_AVOIDED_MS: u64 = 1_000;
/// However often it fails, after this long one request tries it again.
pub const LONGEST_AVOIDED_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rt_01_tries_are_bounded_and_go_elsewhere_first() {
        assert_eq!(next(1, Failure::Refused, true, 7), Next::After(0));
        assert_eq!(next(2, Failure::Lasting, true, 7), Next::After(0));
        assert_eq!(next(1, Failure::Lasting, false, 7), Next::GiveUp);
        for (failure, elsewhere) in [(Failure::Refused, true), (Failure::Lasting, true), (Failure::Refused, false)] {
            assert_eq!(next(TRIES, failure, elsewhere, 7), Next::GiveUp);
        }
    }

    #[test]
    fn pauses_grow_with_jitter_up_to_their_bound() {
        for made in 1..40 {
            let longest = (25_u64 << made.min(16)).min(LONGEST_PAUSE_MS);
            for random in [0, 1, 12, 13, u64::MAX] {
                match next(made, Failure::Refused, false, random) {
                    Next::After(pause) => assert!(made < TRIES && (longest / 2..=longest).contains(&pause), "{pause}"),
                    Next::GiveUp => assert!(made >= TRIES),
                }
            }
        }
    }

    #[test]
    fn lc_14_a_failing_endpoint_is_avoided_longer_each_time_and_never_for_ever() {
        let times: Vec<u64> = (1..10).map(avoided_ms).collect();
        assert_eq!(times, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000]);
        assert_eq!(avoided_ms(u32::MAX), LONGEST_AVOIDED_MS);
    }
}
