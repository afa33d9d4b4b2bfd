use serde_json::{Value, json};

use super::fixtures::{ISSUER, NOW_S, Signer, claims, compiled, encode, judge, judge_at, judge_bearer, rule};
use super::{Authenticated, CLOCK_SKEW_S, KeySet, KeyTable, TokenRefusal, TokenRequest, VerifiedTokens, authenticate};
use crate::jwt::claims::PRINCIPAL_SEPARATOR;

fn subject(judged: Result<Authenticated, TokenRefusal>) -> Result<Option<String>, TokenRefusal> {
    judged.map(|authenticated| {
        let principal = authenticated.claims()?.principal().to_vec();
        String::from_utf8(principal).ok()?.split(PRINCIPAL_SEPARATOR).nth(1).map(str::to_owned)
    })
}

fn with(changes: Value) -> Value {
    let (mut all, Value::Object(changes)) = (claims(), changes) else { panic!("members are an object") };
    all.as_object_mut().unwrap().extend(changes);
    all
}

#[test]
fn jw_01_a_token_without_a_signature_is_none() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    for alg in ["none", "None", "nOnE", "NONE", ""] {
        let signed = signer.token_with(&json!({"alg": alg}), &claims());
        assert_eq!(judge_bearer(&rules, &signed).err(), Some(TokenRefusal::AlgorithmUnsupported), "{alg}");
        let (head, _) = signed.rsplit_once('.').unwrap();
        assert_eq!(judge_bearer(&rules, &format!("{head}.")).err(), Some(TokenRefusal::NotInForm));
    }
    let missing = signer.token_with(&json!({"kid": "k"}), &claims());
    assert_eq!(judge_bearer(&rules, &missing).err(), Some(TokenRefusal::AlgorithmMissing));
}

#[test]
fn jw_02_a_public_key_is_no_secret() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    for alg in ["HS256", "HS384", "HS512"] {
        let token = signer.token_with(&json!({"alg": alg, "kid": "k"}), &claims());
        assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::NoMatchingKey));
    }
    let mut unnamed = signer.jwk();
    unnamed.as_object_mut().unwrap().remove("alg");
    let rules = compiled(&[rule(ISSUER, &[unnamed], json!({}))]);
    let token = signer.token_with(&json!({"alg": "HS256"}), &claims());
    assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::NoMatchingKey));
}

#[test]
fn jw_03_keys_that_a_token_brings_along_are_not_looked_at() {
    let (ours, theirs) = (Signer::new("k"), Signer::new("k"));
    let rules = compiled(&[rule(ISSUER, &[ours.jwk()], json!({}))]);
    let header = json!({"alg": "ES256", "jwk": theirs.jwk(), "jku": "http://x/", "x5u": "http://x/", "x5c": ["AA"]});
    assert_eq!(judge_bearer(&rules, &theirs.token_with(&header, &claims())).err(), Some(TokenRefusal::BadSignature));
    assert_eq!(subject(judge_bearer(&rules, &ours.token_with(&header, &claims()))), Ok(Some("alice".into())));
}

#[test]
fn jw_04_a_key_id_is_a_name_and_nothing_else() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    for id in ["../../dev/null", "' OR 1=1 --", "", "K", "k\0"] {
        let token = signer.token_with(&json!({"alg": "ES256", "kid": id}), &claims());
        assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::NoMatchingKey), "{id}");
    }
    let number = signer.token_with(&json!({"alg": "ES256", "kid": 7}), &claims());
    assert_eq!(judge_bearer(&rules, &number).err(), Some(TokenRefusal::KeyIdNotText));
    let huge = signer.token_with(&json!({"alg": "ES256", "kid": "x".repeat(1 << 20)}), &claims());
    assert_eq!(judge_bearer(&rules, &huge).err(), Some(TokenRefusal::NotInForm));
    let many: Vec<Value> = [Signer::new("a"), Signer::new("b")].iter().map(Signer::jwk).chain([signer.jwk()]).collect();
    let absent = signer.token_with(&json!({"alg": "ES256"}), &claims());
    assert!(judge_bearer(&compiled(&[rule(ISSUER, &many, json!({}))]), &absent).is_ok(), "every key is tried");
}

#[test]
fn jw_04_an_unknown_key_id_is_told_to_who_fetches() {
    let signer = Signer::new("new");
    let fetched = rule(ISSUER, &[], json!({"jwks": "", "jwks_uri": "https://keys"}));
    let rules = compiled(&[fetched]);
    let mut known = VerifiedTokens::default();
    let old = KeySet::parse(json!({"keys": [Signer::new("old").jwk()]}).to_string().as_bytes()).unwrap();
    let table = KeyTable { generation: 1, sets: [("https://keys".into(), old.into())].into() };
    let header = format!("Bearer {}", signer.token(&claims()));
    let headers: &[(&str, &[u8])] = &[("authorization", header.as_bytes())];
    let request = TokenRequest { method: b"GET", query: b"", headers: &headers };
    let judged = authenticate(&rules, &request, (&table, NOW_S), &mut known);
    assert_eq!(
        (judged.err(), known.take_missed().as_deref()),
        (Some(TokenRefusal::NoMatchingKey), Some("https://keys"))
    );
    let none = authenticate(&rules, &request, (&KeyTable::default(), NOW_S), &mut known);
    assert_eq!((none.err(), known.take_missed()), (Some(TokenRefusal::NoKeys), None));
}

#[test]
fn jw_05_the_end_of_a_token_is_a_number_and_the_clocks_may_differ_by_so_much() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let judged = |exp: Value| judge_bearer(&rules, &signer.token(&with(json!({"exp": exp})))).err();
    assert_eq!(judged(json!("1")), Some(TokenRefusal::ExpiryNotInteger));
    assert_eq!(judged(json!(-1)), Some(TokenRefusal::ExpiryNotPositive));
    assert_eq!(judged(json!(1e308)), Some(TokenRefusal::ExpiryNotPositive));
    assert_eq!(judged(json!(0)), Some(TokenRefusal::Expired));
    assert_eq!(judged(json!(1_767_224_600.5)), Some(TokenRefusal::Expired));
    let last = NOW_S - CLOCK_SKEW_S;
    let around = [last - 1, last, last + 1].map(|exp| judged(json!(exp)));
    assert_eq!(around, [Some(TokenRefusal::Expired), None, None]);
    let duplicated = format!(r#"{{"iss":"{ISSUER}","sub":"a","exp":1,"exp":{}}}"#, NOW_S + 600);
    let token = signer.raw(br#"{"alg":"ES256"}"#, duplicated.as_bytes());
    assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::PayloadJson));
    let without = json!({"iss": ISSUER, "sub": "alice"});
    assert!(judge_bearer(&rules, &signer.token(&without)).is_ok(), "as Istio");
}

#[test]
fn jw_06_a_token_counts_from_its_beginning() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let judged = |changes: Value| judge_bearer(&rules, &signer.token(&with(changes))).err();
    let first = NOW_S + CLOCK_SKEW_S;
    let around = [first - 1, first, first + 1].map(|nbf| judged(json!({"nbf": nbf})));
    assert_eq!(around, [None, None, Some(TokenRefusal::NotYetValid)]);
    assert_eq!(judged(json!({"iat": NOW_S + 100_000})), None, "as Istio");
    assert_eq!(judged(json!({"iat": "x"})), Some(TokenRefusal::IssuedAtNotInteger));
}

#[test]
fn jw_07_one_audience_must_be_named_exactly() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({"audiences": ["a", "b"]}))]);
    let judged = |aud: Value| judge_bearer(&rules, &signer.token(&with(json!({"aud": aud})))).err();
    assert_eq!([judged(json!("a")), judged(json!(["x", "b"]))], [None, None]);
    for aud in [json!("A"), json!("ab"), json!([]), json!(["aa"]), json!("")] {
        assert_eq!(judged(aud.clone()), Some(TokenRefusal::AudienceNotAllowed), "{aud}");
    }
    assert_eq!(judge_bearer(&rules, &signer.token(&claims())).err(), Some(TokenRefusal::AudienceNotAllowed));
    assert_eq!(judged(json!(7)), Some(TokenRefusal::AudienceNotText));
    assert_eq!(TokenRefusal::AudienceNotAllowed.status(), 403);
}

#[test]
fn jw_08_an_issuer_is_named_exactly() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let judged = |iss: Value| judge_bearer(&rules, &signer.token(&with(json!({"iss": iss})))).err();
    for iss in ["https://issuer.example.com/", "HTTPS://issuer.example.com", "", "https://other"] {
        assert_eq!(judged(json!(iss)), Some(TokenRefusal::IssuerUnknown), "{iss}");
    }
    assert_eq!(judged(json!(1)), Some(TokenRefusal::IssuerNotText));
    assert_eq!(judged(Value::Null), Some(TokenRefusal::IssuerNotText));
    assert_eq!(judge_bearer(&rules, &signer.token(&json!({"sub": "a"}))).err(), Some(TokenRefusal::IssuerUnknown));
}

#[test]
fn jw_09_a_member_of_header_or_payload_stands_once() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let payload = claims().to_string();
    let header = signer.raw(br#"{"alg":"none","alg":"ES256"}"#, payload.as_bytes());
    assert_eq!(judge_bearer(&rules, &header).err(), Some(TokenRefusal::HeaderJson));
    let twice = format!(r#"{{"iss":"{ISSUER}","sub":"alice","sub":"bob"}}"#);
    let token = signer.raw(br#"{"alg":"ES256"}"#, twice.as_bytes());
    assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::PayloadJson));
}

#[test]
fn jw_10_extensions_that_must_be_understood_are_refused() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    for header in [
        json!({"alg": "ES256", "crit": ["x"], "x": 1}),
        json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "b64": false}),
        json!({"alg": "ES256", "zip": "DEF"}),
    ] {
        let token = signer.token_with(&header, &claims());
        assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::CriticalHeader), "{header}");
    }
    assert!(judge_bearer(&rules, &signer.token_with(&json!({"alg": "ES256", "typ": "at+jwt"}), &claims())).is_ok());
}

#[test]
fn jw_11_only_the_compact_form_is_a_token() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let token = signer.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let json_form = json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]}).to_string();
    for bad in [
        parts[..2].join("."),
        format!("{token}.x"),
        format!("{token}.x.y"),
        json_form,
        format!("{token}="),
        format!("{token} "),
        token.replacen('.', " .", 1),
        format!("{}.{}.{}", parts[0], parts[1], parts[2].replace(['-', '_'], "+")),
    ] {
        let judged = judge_bearer(&rules, &bad);
        assert!(judged.is_err() || bad == token, "{bad}");
    }
}

#[test]
fn jw_13_a_bad_token_is_worse_than_none() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    assert_eq!(judge_bearer(&rules, "abc").err(), Some(TokenRefusal::NotInForm));
    let unknown = signer.token(&with(json!({"iss": "https://unknown"})));
    assert_eq!(judge_bearer(&rules, &unknown).err(), Some(TokenRefusal::IssuerUnknown));
    assert_eq!(subject(judge(&rules, &[])), Ok(None));
}

#[test]
fn jw_14_every_token_in_the_places_of_a_rule_must_be_good() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({"headers": [{"name": "x-a", "prefix": ""}]}))]);
    let (good, bad) = (signer.token(&claims()), signer.token(&with(json!({"exp": 1}))));
    for pair in [[&good, &bad], [&bad, &good]] {
        let headers = [("x-a", pair[0].as_bytes()), ("x-a", pair[1].as_bytes())];
        assert_eq!(judge(&rules, &headers).err(), Some(TokenRefusal::Expired));
    }
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let bearer = format!("Bearer {good}");
    let twice = [("authorization", bearer.as_bytes()), ("authorization", bearer.as_bytes())];
    assert_eq!(judge(&rules, &twice).err(), Some(TokenRefusal::NotInForm), "joined they are no token");
    let beside = [("authorization", &b"Basic eDp5"[..]), ("authorization", bearer.as_bytes())];
    assert_eq!(judge(&rules, &beside).err(), Some(TokenRefusal::NotInForm));
}

#[test]
fn jw_14_more_tokens_than_anybody_needs_are_refused() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({"headers": [{"name": "x-a", "prefix": ""}]}))]);
    let tokens: Vec<String> = (0..5).map(|number| signer.token(&with(json!({"n": number})))).collect();
    let headers: Vec<(&str, &[u8])> = tokens.iter().map(|token| ("x-a", token.as_bytes())).collect();
    assert!(judge(&rules, &headers[..4]).is_ok());
    assert_eq!(judge(&rules, &headers).err(), Some(TokenRefusal::TooMany));
}

#[test]
fn jw_18_other_keys_empty_what_is_remembered() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[], json!({"jwks": "", "jwks_uri": "https://keys"}))]);
    let set = KeySet::parse(json!({"keys": [signer.jwk()]}).to_string().as_bytes()).unwrap();
    let table = KeyTable { generation: 1, sets: [("https://keys".into(), set.into())].into() };
    let other = KeySet::parse(json!({"keys": [Signer::new("n").jwk()]}).to_string().as_bytes()).unwrap();
    let rotated = KeyTable { generation: 2, sets: [("https://keys".into(), other.into())].into() };
    let header = format!("Bearer {}", signer.token(&claims()));
    let headers: &[(&str, &[u8])] = &[("authorization", header.as_bytes())];
    let request = TokenRequest { method: b"GET", query: b"", headers: &headers };
    let mut known = VerifiedTokens::default();
    assert!(authenticate(&rules, &request, (&table, NOW_S), &mut known).is_ok());
    assert_eq!(known.len(), 1);
    let removed = authenticate(&rules, &request, (&rotated, NOW_S), &mut known);
    assert_eq!((removed.err(), known.len()), (Some(TokenRefusal::NoMatchingKey), 0));
}

#[test]
fn jw_20_no_token_is_nobody() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    for value in ["", "Basic eDp5", "bearer a.b.c", "Bearer"] {
        assert_eq!(subject(judge(&rules, &[("authorization", value.as_bytes())])), Ok(None), "{value}");
    }
}

#[test]
fn jw_21_a_preflight_is_not_asked() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let headers: &[(&str, &[u8])] =
        &[("authorization", b"Bearer abc"), ("origin", b"http://a"), ("access-control-request-method", b"GET")];
    let ask = |method, headers: &[(&str, &[u8])]| {
        let request = TokenRequest { method, query: b"", headers: &headers };
        authenticate(&rules, &request, (&KeyTable::default(), NOW_S), &mut VerifiedTokens::default())
    };
    assert_eq!(subject(ask(b"OPTIONS", headers)), Ok(None));
    assert!(ask(b"OPTIONS", &headers[..2]).is_err());
    assert!(ask(b"GET", headers).is_err());
}

#[test]
fn jw_22_a_remembered_token_ends_like_any_other() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let header = format!("Bearer {}", signer.token(&with(json!({"nbf": NOW_S, "exp": NOW_S + 10}))));
    let headers: &[(&str, &[u8])] = &[("authorization", header.as_bytes())];
    let request = TokenRequest { method: b"GET", query: b"", headers: &headers };
    let mut known = VerifiedTokens::default();
    let mut at = |now_s| authenticate(&rules, &request, (&KeyTable::default(), now_s), &mut known).err();
    assert_eq!(at(NOW_S), None);
    assert_eq!(at(NOW_S + 10 + CLOCK_SKEW_S), None);
    assert_eq!(at(NOW_S + 11 + CLOCK_SKEW_S), Some(TokenRefusal::Expired));
    assert_eq!(at(NOW_S + 86_400), Some(TokenRefusal::Expired), "a clock that jumps a day on");
    assert_eq!(at(NOW_S - 86_400), Some(TokenRefusal::NotYetValid), "and a day back");
    assert_eq!(at(NOW_S), None);
}

#[test]
fn jw_23_long_tokens_cost_nothing_and_rich_ones_little() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let long = signer.token(&with(json!({"x": "y".repeat(60_000)})));
    assert_eq!(judge_bearer(&rules, &long).err(), Some(TokenRefusal::NotInForm));
    let many: serde_json::Map<String, Value> = (0..2_000).map(|number| (format!("c{number}"), json!(1))).collect();
    assert!(judge_bearer(&rules, &signer.token(&with(Value::Object(many)))).is_ok());
    let deep = format!(r#"{{"iss":"{ISSUER}","a":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let token = signer.raw(br#"{"alg":"ES256"}"#, deep.as_bytes());
    assert_eq!(judge_bearer(&rules, &token).err(), Some(TokenRefusal::PayloadJson));
}

#[test]
fn a_signature_covers_header_and_payload() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let token = signer.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let forged = encode(with(json!({"sub": "root"})).to_string().as_bytes());
    let other = format!("{}.{forged}.{}", parts[0], parts[2]);
    assert_eq!(judge_bearer(&rules, &other).err(), Some(TokenRefusal::BadSignature));
    let renamed = format!("{}.{}.{}", encode(br#"{"alg":"ES256"}"#), parts[1], parts[2]);
    assert_eq!(judge_bearer(&rules, &renamed).err(), Some(TokenRefusal::BadSignature));
}

#[test]
fn what_a_token_becomes_is_written_and_what_is_ours_is_taken() {
    let signer = Signer::new("k");
    let outputs = json!({"payload_header": "x-payload", "claim_headers": [
        {"header": "x-sub", "claim": ["sub"]}, {"header": "x-deep", "claim": ["a", "b"]},
        {"header": "x-none", "claim": ["none"]}, {"header": "x-list", "claim": ["list"]},
    ]});
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], outputs)]);
    let payload = with(json!({"a": {"b": 3}, "list": ["g"]}));
    let judged = judge_bearer(&rules, &signer.token(&payload)).unwrap();
    let sent: Vec<(&str, &[u8])> = judged.headers().collect();
    let encoded = encode(payload.to_string().as_bytes());
    assert_eq!(
        sent,
        [("x-sub", &b"alice"[..]), ("x-deep", b"3"), ("x-list", b"WyJnIl0="), ("x-payload", encoded.as_bytes())]
    );
    for name in ["x-sub", "X-Sub", "x-none", "x-payload", "x-list"] {
        assert!(judged.takes_field(name.as_bytes(), b"forged"), "{name}");
    }
    assert!(judged.takes_field(b"Authorization", b"Bearer a.b.c") && !judged.takes_field(b"authorization", b"Basic x"));
    let nobody = judge(&rules, &[]).unwrap();
    assert!(nobody.takes_field(b"x-sub", b"forged") && nobody.headers().next().is_none());
}

#[test]
fn jw_19_a_token_is_taken_from_where_it_was_unless_it_is_forwarded() {
    let signer = Signer::new("k");
    let places = |forward: bool| json!({"headers": [{"name": "x-a", "prefix": ""}], "params": ["t"], "cookies": ["c"], "forward": forward});
    let token = signer.token(&claims());
    for forward in [false, true] {
        let rules = compiled(&[rule(ISSUER, &[signer.jwk()], places(forward))]);
        let judged = judge(&rules, &[("x-a", token.as_bytes())]).unwrap();
        assert_eq!(judged.takes_field(b"X-A", token.as_bytes()), !forward);
        assert_eq!(judged.takes_param_of(b"a=1&t=x"), !forward);
        assert_eq!(judged.without_cookies(b"a=1; c=x; b=2"), (!forward).then(|| b"a=1; b=2".to_vec()));
    }
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], places(false))]);
    let judged = judge(&rules, &[("x-a", token.as_bytes())]).unwrap();
    let left: Vec<&[u8]> = judged.params_left(b"a=1&t=x&b=2&%74=y").collect();
    assert_eq!(left, [&b"a=1"[..], b"b=2"]);
}

#[test]
fn a_claim_that_is_no_header_value_stops_the_request() {
    let signer = Signer::new("k");
    let outputs = json!({"claim_headers": [{"header": "x-role", "claim": ["role"]}]});
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], outputs)]);
    let judged = judge_bearer(&rules, &signer.token(&with(json!({"role": "a\r\nx-admin: 1"})))).unwrap();
    assert_eq!((judged.headers().count(), judged.sendable()), (0, Err(TokenRefusal::HeaderValue)));
}

#[test]
fn remembered_tokens_have_a_bound() {
    let signer = Signer::new("k");
    let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
    let mut known = VerifiedTokens::default();
    for number in 0..1_100 {
        let header = format!("Bearer {}", signer.token(&with(json!({"n": number}))));
        let headers: &[(&str, &[u8])] = &[("authorization", header.as_bytes())];
        let request = TokenRequest { method: b"GET", query: b"", headers: &headers };
        assert!(authenticate(&rules, &request, (&KeyTable::default(), NOW_S), &mut known).is_ok());
    }
    assert_eq!(known.len(), 1_024);
    let _ = judge_at(&rules, &[], NOW_S);
}
