use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authz::{Denial, Permit};
use crate::facts::Direction;
use crate::fixtures::{request, with_policies};

/// Small alphabets, so that values and facts meet often.
fn any_predicate() -> impl Strategy<Value = Value> {
    let text = || {
        let kind = prop::sample::select(vec!["exact", "prefix", "suffix", "present", "regex"]);
        (kind, "(td/)?[ab/A]{0,3}").prop_map(|(kind, value)| json!({"kind": kind, "value": value}))
    };
    let path = prop_oneof![
        text(),
        "/(a|b|\\{\\*\\})(/|/a|/\\{\\*\\}|/\\{\\*\\*\\})".prop_map(|value| json!({"kind": "template", "value": value}))
    ];
    let network = (0_u8..4, 0_u8..=32)
        .prop_map(|(last, length)| json!({"kind": "cidr", "value": format!("10.0.0.{last}/{length}")}));
    let port = prop_oneof![Just("80"), Just("81")].prop_map(|value| json!({"kind": "exact", "value": value}));
    let of = |fields: &'static [&'static str], value: BoxedStrategy<Value>| {
        (prop::sample::select(fields), prop::collection::vec(value, 1..4)).boxed()
    };
    let texts =
        of(&["principal", "identity", "sni", "host", "method", "header", "request_principal", "claim"], text().boxed());
    let paths = of(&["path"], path.boxed());
    let networks = of(&["source_ip", "remote_ip", "destination_ip"], network.boxed());
    let unsupported = of(&["unsupported"], text().boxed());
    let ports = of(&["destination_port"], port.boxed());
    let listed = prop_oneof![6 => texts, 2 => paths, 2 => networks, 1 => ports, 1 => unsupported];
    (listed, any::<bool>(), prop::sample::select(vec!["x-a", "x-b"])).prop_map(|((field, values), negate, name)| {
        let name = match field {
            "header" => name,
            "claim" if name == "x-a" => "[a]",
            "claim" => "[b][c]",
            _ => "",
        };
        json!({"field": field, "name": name, "negate": negate, "values": values})
    })
}

fn any_policies() -> impl Strategy<Value = Value> {
    let all = || prop::collection::vec(any_predicate(), 0..3);
    let any = || prop::collection::vec(all(), 0..3);
    let rule = (any(), any(), all()).prop_map(|(from, to, when)| json!({"from": from, "to": to, "when": when}));
    let action = prop::sample::select(vec!["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"]);
    let one = (action, prop::collection::vec(rule, 0..4), "[ab]", prop::bool::weighted(0.1));
    prop::collection::vec(one, 0..5).prop_map(|policies| {
        let policy = |(n, (action, rules, namespace, dry_run)): (usize, (&str, Vec<Value>, String, bool))| {
            json!({
                "namespace": namespace, "name": format!("p{n}"), "action": action, "dry_run": dry_run, "where": "",
                "rules": rules,
            })
        };
        json!(policies.into_iter().enumerate().map(policy).collect::<Vec<_>>())
    })
}

#[derive(Clone, Debug)]
struct Asked {
    peer: Option<String>,
    sni: Option<String>,
    addresses: [u8; 3],
    port: u16,
    method: String,
    path: String,
    host: String,
    headers: Vec<(&'static str, String)>,
}

fn any_request() -> impl Strategy<Value = Asked> {
    let peer = prop::option::of("spiffe://td(/[ab]){0,2}");
    let head = ("[abA]{1,2}", "/[ab/]{0,4}", "[abA/]{0,3}");
    let headers = prop::collection::vec((prop::sample::select(vec!["x-a", "x-b", "x-c"]), "[abA]{0,2}"), 0..4);
    let addresses = prop::array::uniform3(0_u8..4);
    (peer, prop::option::of("[ab/]{1,2}"), addresses, 80_u16..82, head, headers).prop_map(
        |(peer, sni, addresses, port, (method, path, host), headers)| Asked {
            peer,
            sni,
            addresses,
            port,
            method,
            path,
            host,
            headers,
        },
    )
}

/// The claims of a request with headers: issuer and subject from its head, a text and a list from its headers.
fn claims_of(asked: &Asked) -> Option<crate::jwt::Claims> {
    let (_, first) = asked.headers.first()?;
    let all: Vec<_> = asked.headers.iter().map(|(_, value)| value).collect();
    let claims = json!({"iss": asked.host, "sub": asked.method, "a": first, "b": {"c": all}});
    crate::jwt::Claims::of(claims.as_object()?.clone(), &[]).ok()
}

/// Headers as facts borrow them.
type Borrowed<'a> = Vec<(&'a str, &'a [u8])>;

fn connection_of(asked: &Asked) -> ConnectionFacts {
    ConnectionFacts {
        direction: Direction::Inbound,
        peer: asked.peer.as_deref().map(|uri| crate::Peer::parse(uri).unwrap()),
        source: ([10, 0, 0, asked.addresses[0]], 1).into(),
        destination: ([10, 0, 0, asked.addresses[1]], asked.port).into(),
        sni: asked.sni.as_deref().map(Into::into),
    }
}

/// Asks the evaluator and the plain form about a request and about an opaque connection.
fn assert_agreement(policies: &Value, asked: &Asked) {
    let snapshot = with_policies(policies.clone());
    let section = &snapshot.policies().section;
    let connection = connection_of(asked);
    let headers: Borrowed<'_> = asked.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let headers = &headers[..];
    let claims = claims_of(asked);
    let request = RequestFacts {
        claims: claims.as_ref(),
        authority: asked.host.as_bytes(),
        remote_ip: [10, 0, 0, asked.addresses[2]].into(),
        ..request(&asked.method, &asked.path, &headers)
    };
    let plain = |decision: Result<Permit, Denial>| {
        let decision = decision.map(|permit| permit.policy().cloned());
        decision.map_err(|denial| denial.policy.as_deref().cloned())
    };
    let http = plain(snapshot.authorize_request(&connection, &request));
    assert_eq!(http, decide(section, &connection, Some(&request)), "http {policies} {asked:?}");
    let tcp = plain(snapshot.authorize_connection(&connection));
    assert_eq!(tcp, decide(section, &connection, None), "tcp {policies} {asked:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_evaluator_agrees_with_the_plain_form(
        policies in any_policies(),
        requests in prop::collection::vec(any_request(), 1..6),
    ) {
        for asked in &requests {
            assert_agreement(&policies, asked);
        }
    }
}
