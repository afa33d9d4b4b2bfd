//! Plans and alarms on clocks that the tests set.

use super::*;

const NOW_MS: u64 = 1_781_481_600_000;
const HOUR_S: u64 = 3_600;
const NOW_S: u64 = NOW_MS / 1_000;

fn plan(random: u64) -> (Instant, Renewal) {
    let now = Instant::now();
    (now, Renewal::plan(now, NOW_MS, (NOW_S - 60, NOW_S + HOUR_S), random))
}

fn facts(serial: &str, life_s: u64) -> Facts {
    Facts { serial: serial.to_owned(), not_after_unix: NOW_S + life_s, ..Facts::default() }
}

#[test]
fn ca_01_renewals_come_before_half_of_the_remaining_life_and_are_spread() {
    let mut waits = Vec::new();
    for random in 0..200 {
        let (now, renewal) = plan(random);
        let wait = renewal.at - now;
        assert_eq!(renewal.wall_ms, (NOW_MS - 60_000, NOW_MS + wait.as_millis() as u64));
        waits.push(wait.as_secs());
    }
    waits.sort_unstable();
    waits.dedup();
    assert_eq!((waits[0], waits[waits.len() - 1]), (1_440, 1_724), "40 to 48 % of an hour");
    assert!(waits.len() > 60, "{waits:?}");
}

#[test]
fn ca_03_remaining_life_counts_and_not_the_whole() {
    let now = Instant::now();
    let old = Renewal::plan(now, NOW_MS, (NOW_S - 86_400, NOW_S + 100), 0);
    assert_eq!(old.at - now, Duration::from_secs(40), "a day old, 100 s left");
    let spent = Renewal::plan(now, NOW_MS, (NOW_S - 86_400, NOW_S - 1), 0);
    assert!(spent.is_due(now, NOW_MS), "nothing is left");
}

#[test]
fn ca_03_a_clock_that_steps_out_of_the_plan_makes_it_due() {
    let (now, renewal) = plan(0);
    assert!(!renewal.is_due(now, NOW_MS));
    assert!(!renewal.is_due(now + Duration::from_secs(1_400), NOW_MS + 1_400_000));
    for step_s in [3_600, 86_400, 366 * 86_400] {
        assert!(renewal.is_due(now, NOW_MS + step_s * 1_000), "ahead by {step_s} s");
        assert!(renewal.is_due(now, NOW_MS - step_s * 1_000), "back by {step_s} s, before the certificate began");
    }
    assert!(!renewal.is_due(now, NOW_MS - 1_000), "a leap second changes nothing");
    assert!(renewal.is_due(now + Duration::from_secs(1_440), NOW_MS - 30_000), "the other clock renews in time");
    assert!(renewal.is_due(now, 0) && renewal.is_due(now, u64::MAX), "any clock");
}

#[test]
fn ca_03_waits_are_short_enough_to_see_a_step() {
    let (now, renewal) = plan(0);
    assert_eq!(renewal.pause(now, NOW_MS), WALL_CHECK);
    assert_eq!(renewal.pause(now + Duration::from_secs(5_000), NOW_MS), Duration::ZERO);
    assert_eq!(renewal.pause(now, u64::MAX), Duration::ZERO);
}

#[test]
fn ca_02_alarms_rise_at_50_80_95_and_100_percent() {
    let life = 1_000_000;
    let at = |spent: u64| Alarm::of(life, life - life * spent / 1_000, true);
    let heard: Vec<Alarm> = [0, 499, 500, 799, 800, 949, 950, 999, 1_000].map(at).to_vec();
    let (none, half, late, last) = (Alarm::None, Alarm::Half, Alarm::Late, Alarm::Last);
    assert_eq!(heard, [none, none, half, half, late, late, last, last, Alarm::Expired]);
    assert_eq!(Alarm::of(life, life / 2, false), none, "who renews from outside does so later");
    assert_eq!(Alarm::of(life, life / 5, false), late);
    assert_eq!(heard.iter().map(|alarm| alarm.percent()).max(), Some(100));
}

#[test]
fn ca_02_each_alarm_is_said_once_and_a_certificate_ends_it() {
    let turnover = Turnover::default();
    assert!(turnover.news(NOW_MS, true).is_none(), "without a certificate readiness says it");
    turnover.installed(&facts("01", 1_000), NOW_MS);
    let said = |spent_s: u64| turnover.news(NOW_MS + spent_s * 1_000, true).map(|(alarm, _)| alarm);
    assert_eq!(said(499), Option::None);
    assert_eq!((said(500), said(700)), (Some(Alarm::Half), Option::None));
    turnover.failed("the authority is away");
    assert_eq!(
        turnover.news(NOW_MS + 960_000, true).map(|(_, report)| report.last_error).as_deref(),
        Some("the authority is away")
    );
    assert_eq!((said(1_000), said(2_000)), (Some(Alarm::Expired), Option::None));
    turnover.installed(&facts("02", 3_000), NOW_MS + 2_000_000);
    assert_eq!(said(2_000), Option::None);
    let report = turnover.report(NOW_MS + 2_000_000, true);
    assert_eq!((report.renewals, report.failures, report.last_error.as_str()), (1, 1, ""));
    assert_eq!((report.alarm, report.remaining_s), (Alarm::None, 1_000));
}

#[test]
fn ca_06_another_bundle_does_not_lengthen_a_life() {
    let turnover = Turnover::default();
    turnover.installed(&facts("01", 1_000), NOW_MS);
    turnover.installed(&facts("01", 1_000), NOW_MS + 900_000);
    let report = turnover.report(NOW_MS + 900_000, true);
    assert_eq!((report.alarm, report.renewals), (Alarm::Late, 0));
}
