use super::*;

fn sources(addresses: &[&str], now: Instant) -> Sources {
    let wanted =
        |address: &&str| Wanted { address: (*address).into(), discovery: false, timeout_ms: 1, issuer: "i".into() };
    let wanted: Vec<Wanted> = addresses.iter().map(wanted).collect();
    let known = wanted.iter().map(|one| (Arc::clone(&one.address), Source::new(now))).collect();
    Sources { wanted, known, generation: 0 }
}

fn keys() -> KeySet {
    let text = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    KeySet::parse(text.as_bytes()).expect("a key")
}

#[test]
fn jw_18_one_fetch_is_under_way_and_tokens_cannot_hurry_it() {
    let now = Instant::now();
    let mut sources = sources(&["a"], now);
    let missed: BTreeSet<Arc<str>> = ["a".into()].into();
    assert_eq!(sources.due(&missed, now).len(), 1);
    assert_eq!(sources.due(&missed, now).len(), 0, "it is under way");
    let source = sources.known.get_mut("a").expect("it is known");
    source.took(Ok(keys()), now, "a");
    assert_eq!(sources.due(&missed, now).len(), 0, "ten thousand new key ids change nothing for a while");
    assert_eq!(sources.due(&BTreeSet::new(), now + LEAST_PAUSE).len(), 0, "and without them there is no need");
    assert_eq!(sources.due(&missed, now + LEAST_PAUSE).len(), 1);
}

#[test]
fn jw_15_the_last_good_keys_stay_until_they_are_too_old() {
    let now = Instant::now();
    let mut source = Source::new(now);
    source.took(Ok(keys()), now, "a");
    assert_eq!(source.due, now + REFRESH);
    source.took(Err("no".into()), now + REFRESH, "a");
    assert!(source.keys.is_some());
    source.took(Err("no".into()), now + KEPT + REFRESH, "a");
    assert!(source.keys.is_none());
}

#[test]
fn pauses_grow_up_to_a_bound() {
    let seconds = |failures, has_keys| pause_after(failures, has_keys).as_secs();
    assert_eq!([0, 1, 5, 6, u32::MAX].map(|failures| seconds(failures, false)), [1, 2, 32, 60, 60]);
    assert_eq!([0, 1, 6, u32::MAX].map(|failures| seconds(failures, true)), [60, 120, 3_600, 3_600]);
}

#[test]
fn few_are_fetched_at_a_time() {
    let now = Instant::now();
    let mut sources = sources(&["a", "b", "c", "d", "e", "f"], now);
    assert_eq!(sources.due(&BTreeSet::new(), now).len(), FETCHES);
    sources.known.get_mut("a").expect("it is known").took(Ok(keys()), now, "a");
    assert_eq!(sources.due(&BTreeSet::new(), now).len(), 1);
}
