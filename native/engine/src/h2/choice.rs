//! Which version of HTTP carries a request to the next hop: a pure decision.
//!
//! In: what the request is, what was declared of the application's port, what is known of the endpoint.  Out: `Version`.
//! Source: DESIGN section 5 ("Between sidecars"); istio-semantics B.3; decision 0088.

use meshdp_model::sections::{Cluster, Endpoint, PortProtocol};

/// A version of HTTP on one hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// A connection that carries one request at a time.
    Http1,
    /// A connection that is shared.
    Http2,
}

/// What matters of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// What its client speaks, however it has come to us since.
    pub(crate) spoken: Version,
    /// It takes the connection over: an upgrade, or CONNECT.
    pub(crate) own_connection: bool,
}

/// Towards an application, or a destination outside the registry: what its port declares, else what the client speaks.
pub(crate) fn towards_application(port: PortProtocol, asked: Asked) -> Version {
    match port {
        _ if asked.own_connection => Version::Http1,
        PortProtocol::Http => Version::Http1,
        PortProtocol::Http2 => Version::Http2,
        PortProtocol::Auto | PortProtocol::Tcp => asked.spoken,
    }
}

/// Towards an endpoint: our own sidecars share connections; to all others goes what goes to the application, unless
/// `h2UpgradePolicy` says otherwise.
pub(crate) fn towards_endpoint(cluster: &Cluster, endpoint: &Endpoint, asked: Asked) -> Version {
    let shared = endpoint.mtls && endpoint.is_meshdp() || cluster.h2_upgrade;
    if shared && !asked.own_connection { Version::Http2 } else { towards_application(cluster.protocol, asked) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Asked = Asked { spoken: Version::Http1, own_connection: false };
    const NEW: Asked = Asked { spoken: Version::Http2, own_connection: false };
    const UPGRADE: Asked = Asked { spoken: Version::Http1, own_connection: true };

    fn cluster(protocol: &str, h2_upgrade: bool) -> Cluster {
        let text = format!(
            r#"{{"key": "outbound|80||a", "host": "a", "namespace": "n", "name": "a", "port": 80, "protocol": "{protocol}",
                "h2_upgrade": {h2_upgrade}, "balance": "LEAST_REQUEST", "sni": "", "identities": [], "connect_timeout_ms": 1}}"#
        );
        serde_json::from_str(&text).expect("a cluster")
    }

    fn endpoint(mtls: bool, capabilities: &str) -> Endpoint {
        let text = format!(
            r#"{{"address": "10.0.0.1", "port": 80, "mtls": {mtls}, "tls_mode": "istio", "identity": "", "workload": "",
                "namespace": "", "canonical_name": "", "canonical_revision": "", "locality": "", "network": "", "weight": 1,
                "health": "HEALTHY", "capabilities": [{capabilities}]}}"#
        );
        serde_json::from_str(&text).expect("an endpoint")
    }

    #[test]
    fn an_application_gets_what_its_port_declares_else_what_the_client_speaks() {
        for (port, asked, version) in [
            (PortProtocol::Http, NEW, Version::Http1),
            (PortProtocol::Http2, OLD, Version::Http2),
            (PortProtocol::Auto, OLD, Version::Http1),
            (PortProtocol::Auto, NEW, Version::Http2),
            (PortProtocol::Http2, UPGRADE, Version::Http1),
            (PortProtocol::Auto, UPGRADE, Version::Http1),
        ] {
            assert_eq!(towards_application(port, asked), version, "{port:?} {asked:?}");
        }
    }

    #[test]
    fn sidecars_of_ours_share_whatever_the_applications_speak() {
        let ours = endpoint(true, r#""meshdp""#);
        for protocol in ["http", "http2", "auto"] {
            assert_eq!(towards_endpoint(&cluster(protocol, false), &ours, OLD), Version::Http2, "{protocol}");
            assert_eq!(towards_endpoint(&cluster(protocol, false), &ours, UPGRADE), Version::Http1, "{protocol}");
        }
        let plain = endpoint(false, r#""meshdp""#);
        assert_eq!(
            towards_endpoint(&cluster("http", false), &plain, NEW),
            Version::Http1,
            "no identity to trust a note of"
        );
    }

    #[test]
    fn other_endpoints_get_http2_where_the_port_or_the_policy_says_so() {
        let other = endpoint(true, "");
        for (protocol, upgrade, asked, version) in [
            ("http", false, OLD, Version::Http1),
            ("http", false, NEW, Version::Http1),
            ("http", true, OLD, Version::Http2),
            ("http", true, UPGRADE, Version::Http1),
            ("http2", false, OLD, Version::Http2),
            ("auto", false, OLD, Version::Http1),
            ("auto", false, NEW, Version::Http2),
        ] {
            assert_eq!(towards_endpoint(&cluster(protocol, upgrade), &other, asked), version, "{protocol} {upgrade}");
        }
    }
}
