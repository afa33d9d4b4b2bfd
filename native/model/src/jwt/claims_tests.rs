use serde_json::json;

use super::*;

fn read(members: Value, path: &str) -> Vec<String> {
    let Value::Object(members) = members else { panic!("claims are an object") };
    let claims = Claims::of(members, &["scope".into()]).unwrap();
    let mut found = Vec::new();
    claims.visit(path, &mut |text| {
        found.push(String::from_utf8(text.to_vec()).unwrap());
        false
    });
    found
}

#[test]
fn policy_compares_texts_the_words_of_some_and_the_elements_of_lists() {
    assert_eq!(read(json!({"a": "x y"}), "[a]"), ["x y"]);
    assert_eq!(read(json!({"scope": "read  write"}), "[scope]"), ["read", "write"]);
    assert_eq!(read(json!({"a": ["x", 7, "y", ["z"]]}), "[a]"), ["x", "y"]);
    assert_eq!(read(json!({"a": {"b": {"c": "x"}}}), "[a][b][c]"), ["x"]);
    assert_eq!(read(json!({"a.b": "x"}), "[a.b]"), ["x"]);
    for (claims, path) in [(json!({"a": 7}), "[a]"), (json!({"a": true}), "[a]"), (json!({"a": "x"}), "[a][b]")] {
        assert!(read(claims, path).is_empty());
    }
}

#[test]
fn a_principal_needs_issuer_and_subject() {
    let principal = |members: Value| {
        let Value::Object(members) = members else { panic!("claims are an object") };
        Claims::of(members, &[]).map(|claims| String::from_utf8(claims.principal().to_vec()).unwrap())
    };
    assert_eq!(principal(json!({"iss": "i", "sub": "s"})), Ok("i\0s".into()));
    assert_eq!(principal(json!({"iss": "i", "sub": ""})), Ok("i\0".into()));
    assert_eq!(principal(json!({"iss": "i"})), Ok(String::new()));
    assert_eq!(principal(json!({"iss": "i", "sub": "a\0b"})), Err(TokenRefusal::SubjectNotText));
}
