use proptest::prelude::*;
use serde_json::json;

use super::fixtures::{ISSUER, NOW_S, Signer, claims, compiled, encode, judge_bearer, rule};
use super::jws::Compact;
use super::{Claims, KeySet, base64url};

proptest! {
    #[test]
    fn base64url_is_a_bijection(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(base64url::decode(encode(&bytes).as_bytes()), Ok(bytes));
    }

    #[test]
    fn a_text_that_decodes_is_the_one_that_encodes(text in "[A-Za-z0-9_=+ -]{0,40}") {
        if let Ok(bytes) = base64url::decode(text.as_bytes()) {
            prop_assert_eq!(encode(&bytes), text);
        }
    }

    #[test]
    fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(compact) = Compact::parse(&bytes) {
            let _ = compact.signature();
        }
        let _ = Claims::parse(&bytes, &[]);
        let _ = KeySet::parse(&bytes);
    }

    #[test]
    fn headers_and_payloads_of_any_shape_are_judged(
        header in r#"\{("(alg|kid|crit|b64)":("ES256"|"k"|1|null|\[\])(,"(typ|kid)":"k")?)?\}"#,
        payload in r#"\{("(iss|sub|exp|nbf|aud)":("x"|1|-1|1\.5|null|\[\]|\{\})(,"(iss|exp)":("y"|9))?)?\}"#,
    ) {
        let signer = Signer::new("k");
        let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
        // None of these payloads names the issuer, so none may be let in, whatever the header says.
        prop_assert!(judge_bearer(&rules, &signer.raw(header.as_bytes(), payload.as_bytes())).is_err());
    }

    #[test]
    fn one_changed_byte_is_another_token(place in any::<prop::sample::Index>(), letter in "[A-Za-z0-9._~=-]") {
        let signer = Signer::new("k");
        let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
        let token = signer.token(&claims());
        prop_assert!(judge_bearer(&rules, &token).is_ok());
        let mut changed = token.clone().into_bytes();
        let at = place.index(changed.len());
        changed[at] = letter.as_bytes()[0];
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(changed == token || judge_bearer(&rules, &changed).is_err(), "{changed}");
    }

    #[test]
    fn no_token_counts_after_its_end(exp in NOW_S - 200..NOW_S + 200) {
        let signer = Signer::new("k");
        let rules = compiled(&[rule(ISSUER, &[signer.jwk()], json!({}))]);
        let token = signer.token(&json!({"iss": ISSUER, "sub": "a", "exp": exp}));
        prop_assert_eq!(judge_bearer(&rules, &token).is_ok(), exp + super::CLOCK_SKEW_S >= NOW_S);
    }
}
