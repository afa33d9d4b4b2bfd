//! Wycheproof's JSON web signatures: none is accepted that must not be, none refused but those that we refuse by choice.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::jwt::KeySet;
use crate::jwt::jws::Compact;

/// Tests that are valid and that we refuse, with the reason.
const BY_CHOICE: [(&str, &str); 3] = [
    ("emptyPayload", "a token has claims: three sections that are not empty, as Envoy demands"),
    ("Figure20", "the key says PS256 and the token PS384: a key is for the algorithm that it names"),
    ("Figure27", "the key names an algorithm that there is not (ES521)"),
];

#[test]
fn jw_11_wycheproof_vectors_are_judged_as_they_say() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/conformance/wycheproof/json_web_signature_test.json");
    let Ok(text) = std::fs::read(path) else {
        return println!("skipped: no vectors at ../shared/conformance/wycheproof");
    };
    let vectors: Value = serde_json::from_slice(&text).unwrap();
    let (mut wrong, mut by_choice, mut count) = (Vec::new(), 0, 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let key = group.get("public").or(group.get("private")).unwrap();
        let keys = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes());
        for test in group["tests"].as_array().unwrap() {
            count += 1;
            let accepted = keys.as_ref().is_ok_and(|keys| verifies(keys, &token_of(&test["jws"])));
            let valid = test["result"] == "valid";
            if accepted && !valid || !accepted && valid && !is_by_choice(group, test) {
                wrong.push(format!("{}: {} in {}", test["tcId"], test["comment"], group["comment"]));
            } else if !accepted && valid {
                by_choice += 1;
                let (unnamed, token) = (without_algorithm(key), token_of(&test["jws"]));
                let figure = test["comment"].as_str().unwrap().starts_with("Figure") && group.get("public").is_some();
                assert!(!figure || verifies(&unnamed.unwrap(), &token), "the algorithm itself is known: {test}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{count} vectors, {by_choice} refused by choice");
    assert_eq!(count, vectors["numberOfTests"].as_u64().unwrap());
}

fn without_algorithm(key: &Value) -> Option<KeySet> {
    let mut key = key.clone();
    key.as_object_mut()?.remove("alg");
    KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).ok()
}

/// A compact token stands as its parts; anything else is no token and stays as it is.
fn token_of(jws: &Value) -> Vec<u8> {
    match jws {
        Value::Array(parts) => parts.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>().join("."),
        other => other.as_str().map_or_else(|| other.to_string(), str::to_owned),
    }
    .into_bytes()
}

fn verifies(keys: &KeySet, token: &[u8]) -> bool {
    let Ok(compact) = Compact::parse(token) else { return false };
    compact.signature().and_then(|signature| keys.prove(&compact, &signature)).is_ok()
}

fn is_by_choice(group: &Value, test: &Value) -> bool {
    let symmetric = group.get("public").is_none();
    let named = BY_CHOICE.iter().any(|(comment, _)| *comment == test["comment"]);
    symmetric || named
}
