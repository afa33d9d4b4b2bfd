use serde_json::{Value, json};

use crate::fixtures::{Headers, inbound, request, with_policies};

fn policy(name: &str, action: &str, dry_run: bool, path: &str) -> Value {
    let values = json!([{"kind": "exact", "value": path}]);
    let rule =
        json!({"from": [], "to": [[{"field": "path", "name": "", "negate": false, "values": values}]], "when": []});
    let where_ = format!("{name}.yaml:1");
    json!({"namespace": "ns", "name": name, "action": action, "dry_run": dry_run, "where": where_, "rules": [rule]})
}

/// The verdict on a path, and what stands in its shadow.
fn asked(policies: &[Value], path: &str) -> (bool, Option<String>) {
    let snapshot = with_policies(json!(policies));
    let headers: Headers<'_> = &[];
    let (connection, asked) = (inbound(None), request("GET", path, &headers));
    let shadow = Some(snapshot.shadow_request(&connection, &asked).to_string()).filter(|text| !text.is_empty());
    (snapshot.authorize_request(&connection, &asked).is_ok(), shadow)
}

#[test]
fn az_15_a_dry_run_says_what_it_would_have_done_and_decides_nothing() {
    let deny = policy("d", "DENY", true, "/a");
    let allow = policy("w", "ALLOW", true, "/b");
    let said = |text: &str| Some(text.to_owned());
    let only = std::slice::from_ref;
    assert_eq!(asked(only(&deny), "/a"), (true, said("deny=denied:ns[ns]-policy[d]-rule[0]")));
    assert_eq!(asked(only(&deny), "/b"), (true, said("deny=allowed")));
    assert_eq!(asked(only(&allow), "/a"), (true, said("allow=denied")), "the default stays: allowed");
    assert_eq!(asked(only(&allow), "/b"), (true, said("allow=allowed:ns[ns]-policy[w]-rule[0]")));
    let both = [deny, allow];
    assert_eq!(asked(&both, "/a"), (true, said("deny=denied:ns[ns]-policy[d]-rule[0],allow=denied")));
}

#[test]
fn az_15_what_is_enforced_is_not_in_the_shadow_and_the_reverse() {
    let enforced = policy("e", "DENY", false, "/a");
    let dry = policy("d", "DENY", true, "/b");
    assert_eq!(asked(std::slice::from_ref(&enforced), "/a"), (false, None), "no shadow without a policy in it");
    let both = [dry, enforced];
    assert_eq!(asked(&both, "/a"), (false, Some("deny=allowed".to_owned())));
    assert_eq!(asked(&both, "/b"), (true, Some("deny=denied:ns[ns]-policy[d]-rule[0]".to_owned())));
}

#[test]
fn az_01_an_audit_rule_that_matches_is_told_of_and_decides_nothing() {
    let audit = policy("a", "AUDIT", false, "/a");
    assert_eq!(
        asked(std::slice::from_ref(&audit), "/a"),
        (true, Some("audit=matched:ns[ns]-policy[a]-rule[0]".to_owned()))
    );
    assert_eq!(asked(std::slice::from_ref(&audit), "/b"), (true, None));
}

#[test]
fn az_04_on_opaque_connections_a_dry_deny_widens_and_a_dry_allow_never_matches() {
    let both = json!([policy("d", "DENY", true, "/a"), policy("w", "ALLOW", true, "/a")]);
    let snapshot = with_policies(both);
    assert!(snapshot.authorize_connection(&inbound(None)).is_ok());
    let shadow = snapshot.shadow_connection(&inbound(None)).to_string();
    assert_eq!(shadow, "deny=denied:ns[ns]-policy[d]-rule[0],allow=denied");
}

fn told(action: &str, port: u16) -> Value {
    let port = json!([{"field": "destination_port", "name": "", "negate": false,
                       "values": [{"kind": "exact", "value": port.to_string()}]}]);
    let policy = json!({"namespace": "n", "name": "p", "action": action, "dry_run": action != "AUDIT", "where": "f:1",
                        "rules": [{"from": [], "to": [port], "when": []}]});
    let snapshot = with_policies(json!([policy]));
    let facts = inbound(None);
    assert!(snapshot.authorize_connection(&facts).is_ok(), "nothing is enforced");
    serde_json::to_value(snapshot.shadow_connection(&facts)).unwrap()
}

#[test]
fn each_action_has_its_result() {
    let rule = json!({"namespace": "n", "name": "p", "rule": 0, "where": "f:1"});
    assert_eq!(told("DENY", 9080), json!({"allow": null, "deny": {"allowed": false, "policy": rule}}));
    assert_eq!(told("DENY", 1), json!({"allow": null, "deny": {"allowed": true, "policy": null}}));
    assert_eq!(told("ALLOW", 9080), json!({"allow": {"allowed": true, "policy": rule}, "deny": null}));
    assert_eq!(told("ALLOW", 1), json!({"allow": {"allowed": false, "policy": null}, "deny": null}));
    assert_eq!(told("AUDIT", 9080), json!({"allow": null, "deny": null, "audit": rule}));
    assert_eq!(told("AUDIT", 1), json!({"allow": null, "deny": null}));
}
