//! The access log: golden lines, escaping, times, overflow.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::observe::outcome::Reason;

/// What a writer got; the test reads it after the thread has ended.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn outcome() -> Outcome {
    Outcome {
        bytes_in: 0,
        bytes_out: 19,
        duration_us: 1_999,
        ..Outcome::of(Reason::RbacDenied).because("default/details viewer")
    }
}

fn entry<'a>(outcome: &'a Outcome, path: &'a [u8]) -> Entry<'a> {
    Entry {
        time: UNIX_EPOCH + Duration::from_millis(1_772_236_799_042),
        direction: Direction::Inbound,
        http: Some(HttpFields {
            method: b"GET",
            path,
            protocol: "HTTP/1.1",
            authority: b"details:9080",
            user_agent: b"curl/8",
            request_id: b"",
            forwarded_for: b"",
            upstream_service_us: Some(1_500),
        }),
        outcome,
        upstream: Some("127.0.0.1:9080".parse().expect("an address")),
        upstream_local: None,
        cluster: "inbound|9080||",
        destination: Some("10.0.0.2:9080".parse().expect("an address")),
        remote: "[fd00::1]:4711".parse().expect("an address"),
        principal: "spiffe://cluster.local/ns/default/sa/bookinfo-productpage",
        sni: "outbound_.9080_._.details.default.svc.cluster.local",
        route: "default",
        shadow: "deny=allowed",
    }
}

/// The lines that entries become in one mode.
fn lines(mode: Mode, entries: &[Entry<'_>]) -> String {
    let shared = Shared::default();
    let sink = Sink::start(shared.clone(), mode, Arc::default()).expect("a thread starts");
    let mut log = sink.worker();
    for entry in entries {
        log.write(entry);
    }
    drop(log);
    sink.finish();
    let bytes = std::mem::take(&mut *shared.0.lock().expect("the writer ended"));
    String::from_utf8(bytes).expect("the log is UTF-8 whatever peers send")
}

#[test]
fn a_request_becomes_istios_text_columns_and_three_more() {
    let outcome = outcome();
    assert_eq!(
        lines(Mode::Text, &[entry(&outcome, b"/details/0")]),
        "[2026-02-27T23:59:59.042Z] \"GET /details/0 HTTP/1.1\" 403 - rbac_denied default/details_viewer \"-\" 0 19 1 1 \
         \"-\" \"curl/8\" \"-\" \"details:9080\" \"127.0.0.1:9080\" inbound|9080|| - 10.0.0.2:9080 [fd00::1]:4711 \
         outbound_.9080_._.details.default.svc.cluster.local default inbound \
         \"spiffe://cluster.local/ns/default/sa/bookinfo-productpage\" deny=allowed\n"
    );
}

#[test]
fn an_opaque_connection_has_dashes_and_the_tcp_flags() {
    let outcome = outcome().answered(0);
    let connection = Entry {
        http: None,
        upstream: None,
        cluster: "",
        sni: "",
        route: "",
        principal: "",
        shadow: "",
        ..entry(&outcome, b"")
    };
    assert_eq!(
        lines(Mode::Text, &[connection]),
        "[2026-02-27T23:59:59.042Z] \"- - -\" 0 UAEX rbac_denied default/details_viewer \"-\" 0 19 1 - \
         \"-\" \"-\" \"-\" \"-\" \"-\" - - 10.0.0.2:9080 [fd00::1]:4711 - - inbound \"-\" -\n"
    );
}

#[test]
fn json_has_istios_keys_types_and_nulls() {
    let outcome = outcome();
    let line = lines(Mode::Json, &[entry(&outcome, b"/details/0")]);
    let value: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
    assert_eq!(value["start_time"], "2026-02-27T23:59:59.042Z");
    assert_eq!(value["response_code"], 403);
    assert_eq!(value["duration"], 1);
    assert_eq!(value["response_code_details"], "rbac_denied");
    assert_eq!(value["connection_termination_details"], "default/details viewer");
    assert_eq!(value["upstream_service_time"], 1);
    assert_eq!(value["downstream_remote_address"], "[fd00::1]:4711");
    assert!(value["request_id"].is_null() && value["upstream_local_address"].is_null());
    assert_eq!(value.as_object().map(serde_json::Map::len), Some(27));
}

#[test]
fn h1_64_no_byte_of_a_peer_ends_a_line_or_leaves_its_quotes() {
    let outcome = outcome();
    let hostile: Vec<u8> = (0..=255).collect();
    let plain = lines(Mode::Text, &[entry(&outcome, b"/x")]);
    let text = lines(Mode::Text, &[entry(&outcome, &hostile)]);
    assert_eq!(text.matches('\n').count(), 1);
    assert_eq!(text.matches('"').count(), plain.matches('"').count());
    assert!(text.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)));
    assert!(text.contains("\\x00") && text.contains("\\x0d") && text.contains("\\x22") && text.contains("\\xff"));

    let json = lines(Mode::Json, &[entry(&outcome, &hostile)]);
    assert_eq!(json.matches('\n').count(), 1);
    assert!(json.trim_end().chars().all(|c| !c.is_control()));
    let value: serde_json::Value = serde_json::from_str(&json).expect("still one object");
    let path: String = hostile.iter().map(|&byte| char::from(byte)).collect();
    assert_eq!(value["path"], path, "every byte is readable again");
}

#[test]
fn json_keeps_utf8_and_escapes_line_separators() {
    let outcome = outcome();
    let path = "/gr\u{fc}\u{df}e\u{2028}\u{85}\u{1f600}";
    let json = lines(Mode::Json, &[entry(&outcome, path.as_bytes())]);
    assert!(json.contains("/gr\u{fc}\u{df}e\\u2028\\u0085\u{1f600}"));
    let value: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(value["path"], path);
}

#[test]
fn h1_64_hostile_text_columns_cannot_make_a_column() {
    let outcome = outcome().because("a\r\nb \"c\" \u{e9}");
    let entry = Entry { sni: "evil \n name", ..entry(&outcome, b"/") };
    let line = lines(Mode::Text, &[entry]);
    assert!(line.contains(" a__b_\"c\"___ \"-\" ") && line.contains(" evil___name "), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_long_field_is_cut_and_marked() {
    let outcome = outcome();
    let path = vec![b'a'; MAX_FIELD_BYTES + 1];
    let line = lines(Mode::Text, &[entry(&outcome, &path), entry(&outcome, &path[1..])]);
    let (first, second) = line.split_once('\n').expect("two lines");
    assert!(first.contains(&format!("{}... HTTP", "a".repeat(MAX_FIELD_BYTES))));
    assert!(second.contains(&format!("{} HTTP", "a".repeat(MAX_FIELD_BYTES))) && !second.contains("..."));
}

#[test]
fn times_are_right_on_the_calendars_edges() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (1_735_689_600, "2025-01-01T00:00:00.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ] {
        let mut clock = format::Clock::default();
        let stamp = clock.stamp(UNIX_EPOCH + Duration::from_secs(seconds)).to_vec();
        assert_eq!(String::from_utf8_lossy(&stamp), expected);
    }
}

#[test]
fn off_writes_nothing_and_the_mode_changes_while_it_runs() {
    let shared = Shared::default();
    let sink = Sink::start(shared.clone(), Mode::Off, Arc::default()).expect("a thread starts");
    let mut log = sink.worker();
    let outcome = outcome();
    log.write(&entry(&outcome, b"/unseen"));
    assert!(!log.on() && !log.waits());
    sink.set_mode(Mode::named("json").expect("a mode"));
    log.write(&entry(&outcome, b"/seen"));
    assert!(log.waits());
    drop(log);
    sink.finish();
    let written = shared.0.lock().expect("the writer ended").clone();
    assert!(written.starts_with(b"{\"start_time\"") && written.split(|&byte| byte == b'\n').count() == 2);
}

/// A writer that waits until the test lets it go.
struct Stuck(Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_writer_never_blocks_a_worker_and_lost_lines_are_counted() {
    let dropped = Arc::new(AtomicU64::new(0));
    let (release, stuck) = sync_channel::<()>(1);
    let sink = Sink::start(Stuck(stuck), Mode::Text, Arc::clone(&dropped)).expect("a thread starts");
    let mut log = sink.worker();
    let outcome = outcome();
    let sent = QUEUE_BUFFERS + 10;
    for _ in 0..sent {
        log.write(&entry(&outcome, b"/a"));
        log.write(&entry(&outcome, b"/b"));
        log.flush();
    }
    // One batch may have left the queue for the writer; all else beyond the queue is lost, two lines a batch.
    let lost = dropped.load(Relaxed);
    assert!(lost == 18 || lost == 20, "{lost}");
    drop(release);
    drop(log);
    sink.finish();
}

#[test]
fn a_broken_writer_counts_lines_and_lives() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dropped = Arc::new(AtomicU64::new(0));
    let sink = Sink::start(Broken, Mode::Json, Arc::clone(&dropped)).expect("a thread starts");
    let mut log = sink.worker();
    let outcome = outcome();
    for _ in 0..3 {
        log.write(&entry(&outcome, b"/"));
        log.flush();
    }
    drop(log);
    sink.finish();
    assert_eq!(dropped.load(Relaxed), 3);
}

/// A disk with so much room; what is beyond is refused until there is more.
struct Disk {
    taken: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicU64>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fits = bytes.len().min(self.room.load(Relaxed) as usize);
        if fits == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(fits as u64, Relaxed);
        self.taken.lock().expect("no writer panics").extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn pr_07_a_full_disk_costs_lines_that_are_counted_and_tears_none_that_follow() {
    let (taken, room) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(300)));
    let dropped = Arc::new(AtomicU64::new(0));
    let disk = Disk { taken: Arc::clone(&taken), room: Arc::clone(&room) };
    let sink = Sink::start(disk, Mode::Json, Arc::clone(&dropped)).expect("a thread starts");
    let mut log = sink.worker();
    let outcome = outcome();
    log.write(&entry(&outcome, b"/cut"));
    log.flush();
    while dropped.load(Relaxed) == 0 {
        std::thread::yield_now();
    }
    room.store(1 << 20, Relaxed);
    log.write(&entry(&outcome, b"/whole"));
    log.flush();
    drop(log);
    sink.finish();
    let text = String::from_utf8(taken.lock().expect("the writer ended").clone()).expect("JSON is text");
    let whole = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
    assert_eq!(whole.filter(|line| line.contains("/whole")).count(), 1, "{text}");
    assert_eq!(dropped.load(Relaxed), 1);
}

#[test]
fn pr_07_a_reader_that_has_stopped_does_not_hold_the_end_up() {
    let (release, stuck) = sync_channel::<()>(1);
    let sink = Sink::start(Stuck(stuck), Mode::Text, Arc::default()).expect("a thread starts");
    let mut log = sink.worker();
    log.write(&entry(&outcome(), b"/"));
    drop(log);
    let started = std::time::Instant::now();
    sink.finish();
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    drop(release);
}
