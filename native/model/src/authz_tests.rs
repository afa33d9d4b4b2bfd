use serde_json::{Value, json};

use super::*;
use crate::fixtures::{Headers, Sections, inbound, request, with_policies};

const PAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";

/// One policy of namespace `ns` with the given rules.
fn policy(name: &str, action: &str, rules: &Value) -> Value {
    let where_ = format!("{name}.yaml:1");
    json!({"namespace": "ns", "name": name, "action": action, "dry_run": false, "where": where_, "rules": rules})
}

fn predicate(field: &str, values: &[(&str, &str)]) -> Value {
    let values: Vec<_> = values.iter().map(|(kind, value)| json!({"kind": kind, "value": value})).collect();
    json!({"field": field, "name": if field == "header" { "x-k" } else { "" }, "negate": false, "values": values})
}

fn negated(mut predicate: Value) -> Value {
    predicate["negate"] = json!(true);
    predicate
}

/// One rule of one condition.
fn when_one(predicate: &Value) -> Value {
    when(std::slice::from_ref(predicate))
}

fn when(predicates: &[Value]) -> Value {
    json!([{"from": [], "to": [], "when": predicates}])
}

/// Whether an ALLOW policy with one predicate lets the request pass. Both evaluators are asked.
fn holds(predicate: &Value, connection: &ConnectionFacts, request: &RequestFacts<'_>) -> bool {
    let snapshot = with_policies(json!([policy("p", "ALLOW", &when_one(predicate))]));
    let allowed = snapshot.authorize_request(connection, request).is_ok();
    assert_eq!(
        reference::decide(&snapshot.policies().section, connection, Some(request)).is_ok(),
        allowed,
        "{predicate}"
    );
    allowed
}

#[test]
fn the_golden_decides_and_names_its_policies() {
    let snapshot = Sections::golden().snapshot();
    let decide = |peer: Option<&str>, method: &str, path: &str, headers: Headers<'_>| {
        let decision = snapshot.authorize_request(&inbound(peer), &request(method, path, &headers));
        decision.map(|permit| permit.policy().unwrap().to_string()).map_err(|denial| denial.detail())
    };
    let none = "rbac_access_denied_matched_policy[none]".to_owned();
    let deny = "rbac_access_denied_matched_policy[ns[default]-policy[deny-teapots]-rule[0]]".to_owned();
    assert_eq!(
        decide(Some(PAGE), "GET", "/details/0", &[]),
        Ok("ns[default]-policy[details-viewer]-rule[0]".to_owned())
    );
    assert_eq!(decide(Some(PAGE), "POST", "/details/0", &[]), Err(none.clone()));
    assert_eq!(decide(Some(PAGE), "GET", "/ping", &[]), Err(none.clone()));
    assert_eq!(decide(None, "GET", "/details/0", &[]), Err(none.clone()));
    assert_eq!(decide(Some("spiffe://cluster.local/ns/default/sa/x"), "GET", "/details/0", &[]), Err(none.clone()));
    assert_eq!(decide(Some(PAGE), "GET", "/details/0", &[("x-beverage", b"teapot")]), Err(deny));
    assert!(
        snapshot.authorize_connection(&inbound(Some(PAGE))).is_err(),
        "the ALLOW rule is about HTTP and drops out on TCP"
    );
    let denial = snapshot
        .authorize_request(
            &inbound(Some(PAGE)),
            &request("GET", "/details/", &(&[("x-beverage", b"tea".as_slice())] as Headers)),
        )
        .unwrap_err();
    assert_eq!(&*denial.policy.unwrap().where_, "policies/deny.yaml:1");
}

/// Field, value, and whether it matches the request of `strings_are_compared_by_their_rules` (istio-semantics D.3).
const STRINGS: &[(&str, (&str, &str), bool)] = &[
    ("principal", ("exact", "td/ns/foo/sa/sleep"), true),
    ("principal", ("exact", "spiffe://td/ns/foo/sa/sleep"), false),
    ("principal", ("exact", "TD/ns/foo/sa/sleep"), false),
    ("principal", ("prefix", "td/ns/foo/"), true),
    ("principal", ("prefix", "td/ns/fo"), true),
    ("principal", ("suffix", "/sa/sleep"), true),
    ("principal", ("suffix", "/sa/slee"), false),
    ("principal", ("present", ""), true),
    ("principal", ("regex", ".*/ns/foo/.*"), true),
    ("principal", ("regex", "/ns/foo/"), false),
    ("identity", ("exact", "spiffe://td/ns/foo/sa/sleep"), true),
    ("identity", ("regex", "spiffe://.+/ns/foo/(.+/)?sa/sleep(/.+)?"), true),
    ("sni", ("exact", "a.example"), true),
    ("sni", ("exact", "A.example"), false),
    ("sni", ("suffix", ".example"), true),
    ("source_ip", ("cidr", "10.0.0.0/8"), true),
    ("source_ip", ("cidr", "10.0.0.1"), true),
    ("source_ip", ("cidr", "10.0.0.2"), false),
    ("source_ip", ("cidr", "::/0"), false),
    ("source_ip", ("cidr", "0.0.0.0/0"), true),
    ("remote_ip", ("cidr", "10.0.0.1/32"), true),
    ("destination_ip", ("cidr", "10.244.0.0/30"), true),
    ("destination_ip", ("cidr", "10.244.0.4/30"), false),
    ("destination_port", ("exact", "9080"), true),
    ("destination_port", ("exact", "908"), false),
    ("host", ("exact", "w.example.com:8080"), true),
    ("host", ("exact", "w.example.com"), false),
    ("host", ("prefix", "w.EXAMPLE.com:"), true),
    ("host", ("suffix", ":8080"), true),
    ("host", ("regex", "w\\.example\\..*"), true),
    ("method", ("exact", "GET"), true),
    ("method", ("exact", "get"), false),
    ("path", ("exact", "/a/b"), true),
    ("path", ("exact", "/a"), false),
    ("path", ("prefix", "/a"), true),
    ("path", ("suffix", "/b"), true),
    ("path", ("suffix", "*b"), false),
    ("path", ("template", "/a/{*}"), true),
    ("path", ("template", "/{*}"), false),
    ("header", ("exact", "v1"), true),
    ("header", ("exact", "V1"), false),
    ("header", ("prefix", "v"), true),
    ("header", ("suffix", "1"), true),
    ("header", ("present", ""), true),
];

#[test]
fn strings_are_compared_by_their_rules() {
    let facts = inbound(Some("spiffe://td/ns/foo/sa/sleep"));
    let facts = ConnectionFacts { sni: Some("a.example".into()), ..facts };
    let headers: Headers = &[("x-k", b"v1"), ("x-empty", b"")];
    let asked = RequestFacts { authority: b"W.Example.com:8080", ..request("GET", "/a/b", &headers) };
    for &(field, value, expected) in STRINGS {
        let one = predicate(field, &[value]);
        assert_eq!(holds(&one, &facts, &asked), expected, "{field} {value:?}");
        assert_eq!(holds(&negated(one), &facts, &asked), !expected, "not {field} {value:?}");
        let among = predicate(
            field,
            &[
                if field == "destination_port" {
                    ("exact", "1")
                } else if field.ends_with("_ip") {
                    ("cidr", "1.1.1.1")
                } else {
                    ("exact", "other")
                },
                value,
            ],
        );
        assert_eq!(holds(&among, &facts, &asked), expected, "any one of {field} {value:?}");
    }
}

#[test]
fn an_attribute_that_is_missing_fails_positive_and_holds_negated() {
    let plain = inbound(None);
    let headers: Headers = &[];
    let asked = request("GET", "/", &headers);
    for field in ["principal", "identity", "sni", "header"] {
        for value in [("present", ""), ("prefix", ""), ("suffix", ""), ("exact", ""), ("regex", ".*")] {
            assert!(!holds(&predicate(field, &[value]), &plain, &asked), "{field} {value:?}");
            assert!(holds(&negated(predicate(field, &[value])), &plain, &asked), "not {field} {value:?}");
        }
    }
}

#[test]
fn repeated_headers_are_matched_one_by_one() {
    // istio-observed 1.
    let facts = inbound(None);
    let hold = |kind: &str, value: &str, headers: Headers<'_>| {
        holds(&predicate("header", &[(kind, value)]), &facts, &request("GET", "/", &headers))
    };
    let hold_not = |value: &str, headers: Headers<'_>| {
        holds(&negated(predicate("header", &[("exact", value)])), &facts, &request("GET", "/", &headers))
    };
    let two: Headers = &[("x-k", b"a"), ("x-k", b"v1")];
    assert!(hold("exact", "v1", two) && hold("exact", "a", two));
    assert!(!hold_not("v1", two));
    assert!(!hold("exact", "a,v1", two));
    let joined: Headers = &[("x-k", b"v1,a")];
    assert!(hold("exact", "v1,a", joined) && !hold("exact", "v1", joined) && hold_not("v1", joined));
    assert!(hold("present", "", &[("x-k", b"")]), "a header without a value is present");
    assert!(!hold("present", "", &[("x-k2", b"v1")]));
}

#[test]
fn two_hosts_are_one_joined_host_and_an_empty_host_is_present() {
    // istio-observed 2.
    let facts = inbound(None);
    let none: Headers = &[];
    let hold = |kind: &str, value: &str, authority: &str| {
        let asked = RequestFacts { authority: authority.as_bytes(), ..request("GET", "/", &none) };
        holds(&predicate("host", &[(kind, value)]), &facts, &asked)
    };
    let joined = "a.example,w.example.com";
    assert!(hold("suffix", ".example.com", joined) && hold("present", "", joined));
    assert!(!hold("exact", "w.example.com", joined) && !hold("exact", "a.example", joined));
    assert!(hold("present", "", ""));
}

#[test]
fn head_fields_are_headers_too() {
    let snapshot = |name: &str, value: &str| {
        let mut header = predicate("header", &[("exact", value)]);
        header["name"] = json!(name);
        with_policies(json!([policy("p", "DENY", &when(&[header]))]))
    };
    let (with_query, none): (Headers, Headers) = (&[(":path", b"/a?x")], &[]);
    let denied = |name: &str, value: &str, headers| {
        snapshot(name, value).authorize_request(&inbound(None), &request("GET", "/a", headers)).is_err()
    };
    assert!(
        denied(":method", "GET", &none)
            && denied(":authority", "details:9080", &none)
            && denied("host", "details:9080", &none)
    );
    assert!(!denied("host", "DETAILS:9080", &none), "as a header the host is compared with case");
    assert!(denied(":path", "/a?x", &with_query) && !denied(":path", "/a", &with_query));
    assert!(denied(":path", "/a", &none), "without the query when there is nothing better");
}

#[test]
fn deny_comes_before_allow_and_allow_must_match_once_it_exists() {
    let (get, post) = (predicate("method", &[("exact", "GET")]), predicate("method", &[("exact", "POST")]));
    let (all, nothing) = (json!([{"from": [], "to": [], "when": []}]), json!([]));
    let dry = |mut policy: Value| {
        policy["dry_run"] = json!(true);
        policy
    };
    let none: Headers = &[];
    for (policies, expected) in [
        (json!([]), "allowed"),
        (json!([policy("a", "ALLOW", &all)]), "allowed"),
        (json!([policy("a", "ALLOW", &nothing)]), "none"),
        (json!([policy("a", "DENY", &nothing)]), "allowed"),
        (json!([policy("a", "ALLOW", &all), policy("d", "DENY", &all)]), "ns[ns]-policy[d]-rule[0]"),
        (json!([policy("a", "ALLOW", &when_one(&post))]), "none"),
        (json!([policy("a", "ALLOW", &when_one(&post)), policy("b", "ALLOW", &when_one(&get))]), "allowed"),
        (json!([policy("d", "DENY", &when_one(&post))]), "allowed"),
        (json!([policy("u", "AUDIT", &all)]), "allowed"),
        (json!([dry(policy("a", "ALLOW", &nothing))]), "allowed"),
        (json!([dry(policy("d", "DENY", &all))]), "allowed"),
        (json!([policy("a", "ALLOW", &nothing), dry(policy("b", "ALLOW", &all))]), "none"),
    ] {
        let decision = with_policies(policies.clone()).authorize_request(&inbound(None), &request("GET", "/", &none));
        let found = decision.map_or_else(
            |denial| denial.policy.map_or("none".to_owned(), |policy| policy.to_string()),
            |_| "allowed".to_owned(),
        );
        assert_eq!(found, expected, "{policies}");
    }
}

#[test]
fn the_first_in_the_order_of_names_is_reported() {
    // Envoy asks its policies in the order of their names, where rule[10] comes before rule[2].
    let never = json!({"from": [], "to": [], "when": [predicate("method", &[("exact", "PUT")])]});
    let always = json!({"from": [], "to": [], "when": []});
    let rules: Vec<_> =
        (0..11).map(|index| if index == 10 || index == 2 { always.clone() } else { never.clone() }).collect();
    let none: Headers = &[];
    let snapshot = with_policies(json!([policy("d", "DENY", &json!(rules)), policy("e", "DENY", &json!([always]))]));
    let denial = snapshot.authorize_request(&inbound(None), &request("GET", "/", &none)).unwrap_err();
    assert_eq!(denial.detail(), "rbac_access_denied_matched_policy[ns[ns]-policy[d]-rule[10]]");
}

#[test]
fn a_rule_is_any_from_and_any_to_and_every_when() {
    let (foo, get) = (predicate("principal", &[("prefix", "td/ns/foo/")]), predicate("method", &[("exact", "GET")]));
    let (admin, put) = (predicate("path", &[("exact", "/admin")]), predicate("method", &[("exact", "PUT")]));
    let elsewhere = predicate("source_ip", &[("cidr", "9.9.9.9")]);
    let rule = json!({"from": [[foo], [elsewhere]], "to": [[get, negated(admin)], [put]],
        "when": [predicate("destination_port", &[("exact", "9080")]), predicate("header", &[("present", "")])]});
    let snapshot = with_policies(json!([policy("a", "ALLOW", &json!([rule]))]));
    let (marked, none): (Headers, Headers) = (&[("x-k", b"1")], &[]);
    let allowed = |peer, method, path, headers: &Headers<'_>| {
        snapshot.authorize_request(&inbound(peer), &request(method, path, headers)).is_ok()
    };
    let foo = Some("spiffe://td/ns/foo/sa/a");
    assert!(allowed(foo, "GET", "/", &marked) && allowed(foo, "PUT", "/admin", &marked));
    assert!(
        !allowed(foo, "GET", "/admin", &marked)
            && !allowed(foo, "GET", "/", &none)
            && !allowed(foo, "POST", "/", &marked)
    );
    assert!(!allowed(None, "GET", "/", &marked) && !allowed(Some("spiffe://td/ns/bar/sa/a"), "GET", "/", &marked));
}

#[test]
fn on_tcp_allow_loses_http_rules_and_deny_loses_http_conditions() {
    // istio-semantics D.5.
    let foo = predicate("principal", &[("prefix", "td/ns/foo/")]);
    let get = predicate("method", &[("exact", "GET")]);
    let both = json!([{"from": [[foo]], "to": [[get]], "when": []}]);
    let only_http =
        json!([{"from": [], "to": [[get], [predicate("destination_port", &[("exact", "9080")])]], "when": []}]);
    let (insider, outsider) = (inbound(Some("spiffe://td/ns/foo/sa/a")), inbound(None));
    let allowed = |action: &str, rules: &Value, connection| {
        with_policies(json!([policy("p", action, rules)])).authorize_connection(connection).is_ok()
    };
    assert!(!allowed("ALLOW", &both, &insider), "the rule is dropped, the policy still counts");
    assert!(!allowed("ALLOW", &only_http, &insider), "dropped whole, the other alternative too");
    assert!(!allowed("DENY", &both, &insider) && allowed("DENY", &both, &outsider), "wider: any method");
    assert!(!allowed("DENY", &only_http, &outsider), "an alternative that is emptied holds");
    assert!(allowed("AUDIT", &only_http, &outsider));
    let tcp = json!([{"from": [[foo]], "to": [], "when": [predicate("remote_ip", &[("cidr", "10.0.0.1")])]}]);
    assert!(
        allowed("ALLOW", &tcp, &insider) && !allowed("ALLOW", &tcp, &outsider),
        "the remote address is the TCP peer"
    );
}

#[test]
fn what_cannot_be_honoured_never_allows_and_always_denies() {
    let unsupported = json!({"field": "unsupported", "name": "request.auth.claims[x]", "negate": false, "values": []});
    let get = predicate("method", &[("exact", "GET")]);
    let rules = when(&[unsupported, get]);
    let none: Headers = &[];
    let allowed = |action: &str, method: &str| {
        with_policies(json!([policy("p", action, &rules)]))
            .authorize_request(&inbound(None), &request(method, "/", &none))
            .is_ok()
    };
    assert!(!allowed("ALLOW", "GET") && !allowed("DENY", "GET") && allowed("DENY", "PUT"));
}

#[test]
fn values_that_a_field_cannot_have_are_refused() {
    for (field, value) in [
        ("path", ("regex", "(")),
        ("path", ("template", "/a{*}")),
        ("host", ("template", "/{*}")),
        ("method", ("cidr", "10.0.0.0/8")),
        ("source_ip", ("cidr", "10.0.0.0/33")),
        ("source_ip", ("exact", "10.0.0.1")),
        ("destination_port", ("exact", "65536")),
        ("destination_port", ("exact", "+80")),
        ("destination_port", ("exact", "")),
        ("destination_port", ("prefix", "80")),
        ("principal", ("regex", "(a{999}){999}")),
    ] {
        for action in ["ALLOW", "AUDIT"] {
            let sections = Sections::golden().edited(
                "authz",
                "/policies",
                json!([policy("wrong", action, &when(&[predicate(field, &[value])]))]),
            );
            let error = Snapshot::empty().apply(&sections.whole()).unwrap_err().to_string();
            assert!(error.contains("ns/wrong (wrong.yaml:1)"), "{error}");
        }
    }
    let sections =
        Sections::golden().edited("authz", "/policies", json!([policy("p", "DENY", &when(&[predicate("path", &[])]))]));
    assert!(Snapshot::empty().apply(&sections.whole()).is_err(), "no values");
    for name in ["", "X-K"] {
        let mut header = predicate("header", &[("exact", "v")]);
        header["name"] = json!(name);
        let sections =
            Sections::golden().edited("authz", "/policies", json!([policy("p", "DENY", &when_one(&header))]));
        assert!(Snapshot::empty().apply(&sections.whole()).is_err(), "a header named {name:?}");
    }
}

#[test]
fn a_context_gives_the_same_and_follows_new_policies() {
    let connection = inbound(Some(PAGE));
    let none: Headers = &[];
    let (first, second) = (Sections::golden().snapshot(), with_policies(json!([policy("a", "ALLOW", &json!([]))])));
    let mut context = first.connection_context(&connection);
    assert!(first.authorize_request_in(&mut context, &connection, &request("GET", "/details/0", &none)).is_ok());
    assert!(first.authorize_request_in(&mut context, &connection, &request("GET", "/ping", &none)).is_err());
    assert!(second.authorize_request_in(&mut context, &connection, &request("GET", "/details/0", &none)).is_err());
    assert!(first.authorize_request_in(&mut context, &connection, &request("GET", "/details/0", &none)).is_ok());
}

#[test]
fn many_policies_need_more_marks_than_stand_inline_and_decide_the_same() {
    let rule = |n: u32| {
        let caller = predicate("principal", &[("exact", &format!("td/ns/foo/sa/a{n}"))]);
        let path = predicate("path", &[("prefix", &format!("/p{n}/"))]);
        json!([{"from": [[caller]], "to": [[path]], "when": []}])
    };
    let policies: Vec<_> = (0..1500).map(|n| policy(&format!("p{n}"), "ALLOW", &rule(n))).collect();
    let snapshot = with_policies(json!(policies));
    let none: Headers = &[];
    let decide = |n: u32, path: &str| {
        let peer = format!("spiffe://td/ns/foo/sa/a{n}");
        let decision = snapshot.authorize_request(&inbound(Some(&peer)), &request("GET", path, &none));
        decision.ok().map(|permit| permit.policy().unwrap().name.to_string())
    };
    assert_eq!(decide(1499, "/p1499/x"), Some("p1499".to_owned()));
    assert_eq!(decide(7, "/p7/"), Some("p7".to_owned()));
    assert_eq!(decide(7, "/p8/"), None);
}

#[test]
#[should_panic(expected = "an inbound connection is authorized by policy")]
fn an_inbound_connection_gets_no_permit_around_the_policies() {
    let _ = Snapshot::empty().permit_outbound(&inbound(None));
}

#[test]
fn an_explanation_shows_every_predicate() {
    let none: Headers = &[];
    let explanation =
        Sections::golden().snapshot().explain_request(&inbound(Some(PAGE)), &request("POST", "/details/0", &none));
    let shown = serde_json::to_value(&explanation).unwrap();
    assert_eq!(shown["allowed"], false);
    assert_eq!(shown["detail"], "rbac_access_denied_matched_policy[none]");
    let viewer = &shown["policies"][1];
    assert_eq!(
        (&viewer["name"], &viewer["matched"], &viewer["where"]),
        (&json!("details-viewer"), &json!(false), &json!("policies/details.yaml:1"))
    );
    assert_eq!(viewer["rules"][0]["from"][0][0]["holds"], true);
    assert_eq!(viewer["rules"][0]["to"][0][0]["holds"], false, "the method");
    assert_eq!(viewer["rules"][0]["to"][0][1]["holds"], true, "the path");
    let tcp = serde_json::to_value(Sections::golden().snapshot().explain_connection(&inbound(Some(PAGE)))).unwrap();
    assert_eq!(tcp["policies"][1]["rules"][0]["to"][0][0]["holds"], Value::Null, "left out on TCP");
}

#[test]
fn more_values_than_are_remembered_change_no_verdict() {
    let none: Headers<'_> = &[];
    let path = format!("/{}", "a".repeat(80));
    let rule = |length: usize, negate: bool| {
        let value = json!([{"kind": "prefix", "value": path[..length]}]);
        let own = json!([{"kind": "exact", "value": format!("/{length}")}]);
        json!({"from": [], "when": [], "to": [[{"field": "path", "name": "", "negate": negate, "values": value},
               {"field": "path", "name": "", "negate": !negate, "values": own}]]})
    };
    for (count, negate) in [(10, true), (70, true), (70, false)] {
        let rules: Vec<_> = (1..=count).map(|length| rule(length, negate)).collect();
        let policy = json!({"namespace": "n", "name": "p", "action": "DENY", "dry_run": false, "where": "f:1",
                            "rules": rules});
        let snapshot = with_policies(json!([policy]));
        let verdict = snapshot.authorize_request(&inbound(None), &request("GET", &path, &none));
        assert_eq!(verdict.is_err(), !negate, "{count} values match");
    }
}
