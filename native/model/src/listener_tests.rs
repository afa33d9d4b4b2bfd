use serde_json::{Value, json};

use super::*;
use crate::fixtures::Sections;

/// Istio's chains for each mode and declared protocol (istio-semantics B.3), as the compiler writes them.
fn port(mode: &str, protocol: &str) -> Inbound {
    let http = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
    let tcp = ["istio-peer-exchange", "istio"];
    let all = [&http[..], &tcp[..]].concat();
    let plain = ["http/1.1", "h2c"];
    let chain = |name: &str, transport: &str, application: &[&str]| {
        let (terminate, protocol) = (name.starts_with("mtls"), name.rsplit('-').next().unwrap());
        json!({
            "name": name, "transport": transport, "application": application, "terminate": terminate,
            "protocol": protocol,
        })
    };
    let (inspect, chains) = match (mode, protocol) {
        ("STRICT", "http") => ((true, false), vec![chain("mtls-http", "tls", &[])]),
        ("STRICT", "tcp") => ((true, false), vec![chain("mtls-tcp", "tls", &[])]),
        ("STRICT", _) => ((true, false), vec![chain("mtls-http", "tls", &http), chain("mtls-tcp", "tls", &[])]),
        ("PERMISSIVE", "http") => {
            ((true, false), vec![chain("mtls-http", "tls", &all), chain("plain-http", "raw", &[])])
        }
        ("PERMISSIVE", "tcp") => {
            let passed = [chain("opaque-tcp", "tls", &[]), chain("plain-tcp", "raw", &[])];
            ((true, false), [vec![chain("mtls-tcp", "tls", &all)], passed.to_vec()].concat())
        }
        ("PERMISSIVE", _) => {
            let first = vec![chain("mtls-http", "tls", &http), chain("plain-http", "raw", &plain)];
            let then =
                [chain("mtls-tcp", "tls", &tcp), chain("plain-tcp", "raw", &[]), chain("opaque-tcp", "tls", &[])];
            ((true, true), [first, then.to_vec()].concat())
        }
        (_, "http") => ((false, false), vec![chain("plain-http", "any", &[])]),
        (_, "tcp") => ((false, false), vec![chain("plain-tcp", "any", &[])]),
        _ => ((false, true), vec![chain("plain-http", "any", &plain), chain("plain-tcp", "any", &[])]),
    };
    section(mode, protocol, inspect, &chains)
}

fn section(mode: &str, protocol: &str, (inspect_tls, inspect_http): (bool, bool), chains: &[Value]) -> Inbound {
    serde_json::from_value(json!({
        "port": 1, "service": "", "service_name": "", "service_namespace": "", "mode": mode, "protocol": protocol,
        "inspect_tls": inspect_tls, "inspect_http": inspect_http, "chains": chains,
    }))
    .unwrap()
}

/// What a client may look like: TLS or not, and the ALPN list or the sniffed protocol.
const CLIENTS: [(&str, bool, &[&str]); 9] = [
    ("sidecar http", true, &["istio-http/1.1", "istio", "http/1.1"]),
    ("sidecar h2", true, &["istio-h2", "istio", "h2"]),
    ("sidecar tcp", true, &["istio-peer-exchange", "istio"]),
    ("foreign tls, alpn", true, &["h2", "http/1.1"]),
    ("foreign tls", true, &[]),
    ("plain http/1.1", false, &["http/1.1"]),
    ("plain http/1.0", false, &["http/1.0"]),
    ("plain http/2", false, &["h2c"]),
    ("plain bytes", false, &[]),
];

const NONE: &str = "none";

#[test]
fn chains_are_chosen_as_istio_does() {
    // One column a client of `CLIENTS`.
    let table: [(&str, &str, [&str; 9]); 9] = [
        ("STRICT", "http", ["mtls-http", "mtls-http", "mtls-http", "mtls-http", "mtls-http", NONE, NONE, NONE, NONE]),
        ("STRICT", "tcp", ["mtls-tcp", "mtls-tcp", "mtls-tcp", "mtls-tcp", "mtls-tcp", NONE, NONE, NONE, NONE]),
        ("STRICT", "auto", ["mtls-http", "mtls-http", "mtls-tcp", "mtls-tcp", "mtls-tcp", NONE, NONE, NONE, NONE]),
        (
            "PERMISSIVE",
            "http",
            ["mtls-http", "mtls-http", "mtls-http", NONE, NONE, "plain-http", "plain-http", "plain-http", "plain-http"],
        ),
        (
            "PERMISSIVE",
            "tcp",
            [
                "mtls-tcp",
                "mtls-tcp",
                "mtls-tcp",
                "opaque-tcp",
                "opaque-tcp",
                "plain-tcp",
                "plain-tcp",
                "plain-tcp",
                "plain-tcp",
            ],
        ),
        (
            "PERMISSIVE",
            "auto",
            [
                "mtls-http",
                "mtls-http",
                "mtls-tcp",
                "opaque-tcp",
                "opaque-tcp",
                "plain-http",
                "plain-tcp",
                "plain-http",
                "plain-tcp",
            ],
        ),
        ("DISABLE", "http", ["plain-http"; 9]),
        ("DISABLE", "tcp", ["plain-tcp"; 9]),
        (
            "DISABLE",
            "auto",
            [
                "plain-tcp",
                "plain-tcp",
                "plain-tcp",
                "plain-tcp",
                "plain-tcp",
                "plain-http",
                "plain-tcp",
                "plain-http",
                "plain-tcp",
            ],
        ),
    ];
    for (mode, protocol, expected) in table {
        let inbound = port(mode, protocol);
        for ((client, tls, application), expected) in CLIENTS.iter().zip(expected) {
            let application: Vec<&[u8]> = application.iter().map(|name| name.as_bytes()).collect();
            let chain = inbound.filter_chain(&Detected { tls: *tls, application: &application });
            let found = chain.map_or(NONE, |chain| &chain.name);
            assert_eq!(found, expected, "{mode} {protocol}: {client}");
        }
    }
}

#[test]
fn the_first_chain_that_fits_wins() {
    let chain = |name: &str| {
        let application: [&str; 0] = [];
        json!({"name": name, "transport": "any", "application": application, "terminate": false, "protocol": "tcp"})
    };
    let inbound = section("DISABLE", "tcp", (false, false), &[chain("first"), chain("second")]);
    assert_eq!(&*inbound.filter_chain(&Detected { tls: false, application: &[] }).unwrap().name, "first");
}

#[test]
fn a_port_with_its_own_section_never_falls_back() {
    let snapshot = Sections::golden().edited("inbound/9080", "/chains", json!([])).snapshot();
    assert!(snapshot.inbound(9080).unwrap().filter_chain(&Detected { tls: true, application: &[b"istio"] }).is_none());
    assert!(snapshot.inbound(1).unwrap().filter_chain(&Detected { tls: true, application: &[b"istio"] }).is_some());
}

fn service(host: &str, port: u16, protocol: &str, addresses: &[&str]) -> (String, Value) {
    let section = json!({
        "host": host, "namespace": "default", "name": host, "port": port, "protocol": protocol, "addresses": addresses,
        "domains": [host], "rules": [],
    });
    (format!("service/default/{host}/{port}"), section)
}

#[test]
fn destinations_are_looked_up_by_address_then_port() {
    let services = [
        service("web", 80, "http", &["240.0.0.1"]),
        service("grpc", 81, "http2", &["240.0.0.5"]),
        service("db", 5432, "tcp", &["240.0.0.2"]),
        service("queue", 80, "tcp", &["240.0.0.3"]),
        service("odd", 7000, "auto", &["240.0.0.4"]),
        service("any", 6000, "tcp", &[]),
        service("queue2", 80, "tcp", &["240.0.0.3"]),
    ];
    let sections = services.iter().fold(Sections::golden(), |sections, (name, section)| sections.with(name, section));
    let snapshot = sections.snapshot();
    for (destination, expected) in [
        ("240.0.0.1:80", "http 80"),
        ("9.9.9.9:80", "http 80"),
        ("240.0.0.2:80", "http 80"),
        ("240.0.0.2:5432", "service db"),
        ("9.9.9.9:5432", "unknown"),
        ("240.0.0.3:80", "service queue"),
        ("240.0.0.4:7000", "auto odd"),
        ("9.9.9.9:7000", "unknown"),
        ("9.9.9.9:6000", "service any"),
        ("[fd00::1]:80", "http 80"),
        ("240.0.0.1:82", "unknown"),
        ("240.0.0.5:81", "http 81"),
        ("240.0.0.1:81", "http 81"),
    ] {
        let found = match snapshot.outbound(destination.parse().unwrap()) {
            Outbound::Http { port } => format!("http {port}"),
            Outbound::Service(service) => format!("service {}", service.name),
            Outbound::Auto(service) => format!("auto {}", service.name),
            Outbound::Unknown => "unknown".to_owned(),
        };
        assert_eq!(found, expected, "{destination}");
    }
}

#[test]
fn what_was_declared_of_a_destination_is_that_of_its_address() {
    let services = [service("grpc", 81, "http2", &["240.0.0.5"]), service("odd", 7000, "auto", &["240.0.0.4"])];
    let sections = services.iter().fold(Sections::golden(), |sections, (name, section)| sections.with(name, section));
    let snapshot = sections.snapshot();
    let declared = |destination: &str| snapshot.declared(destination.parse().unwrap());
    assert_eq!(declared("240.0.0.5:81"), PortProtocol::Http2);
    assert_eq!(declared("240.0.0.4:7000"), PortProtocol::Auto);
    assert_eq!(declared("240.0.0.5:82"), PortProtocol::Auto, "another port");
    assert_eq!(declared("240.0.0.4:81"), PortProtocol::Auto, "another address, whatever its port carries elsewhere");
}
