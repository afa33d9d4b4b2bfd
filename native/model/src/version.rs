//! Versions: what was asked in, and who is asked, into the HTTP version that the request goes on in.
//!
//! In:      the client's version (its original one, where a sidecar of ours noted it), from the engine; a port's
//!          protocol, a cluster and an endpoint, from the snapshot.      Out: `Version`.
//! Source:  DESIGN "Between sidecars"; istio-semantics B.3 (what each protocol means) and F.3 (`h2UpgradePolicy`).

use crate::sections::{Cluster, Endpoint, PortProtocol};

/// A version of HTTP as far as connections differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 or HTTP/1.1: one request at a time.
    Http1,
    /// HTTP/2: requests are streams of one connection.
    Http2,
}

/// What a request wants of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// One stream of messages, which another connection can carry as well.
    Exchange,
    /// The connection itself: `Upgrade` or CONNECT. Only HTTP/1.1 hands one over.
    Takeover,
}

impl PortProtocol {
    /// The version spoken to an application behind a port of this protocol.
    pub fn spoken_to_application(self, asked: Version, wanted: Use) -> Version {
        match (wanted, self) {
            (Use::Takeover, _) | (_, Self::Http) => Version::Http1,
            (_, Self::Http2) => Version::Http2,
            (_, Self::Auto | Self::Tcp) => asked,
        }
    }
}

impl Cluster {
    /// The version spoken to an endpoint: what its sidecar shares if it is one of ours, what a foreign sidecar is
    /// known to take, and without a sidecar what the application speaks.
    pub fn spoken_to(&self, endpoint: &Endpoint, asked: Version, wanted: Use) -> Version {
        let upgraded = endpoint.mtls && (self.h2_upgrade || endpoint.is_meshdp());
        if upgraded && wanted == Use::Exchange {
            return Version::Http2;
        }
        self.protocol.spoken_to_application(asked, wanted)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::Sections;

    const KEY: &str = "outbound|9080||ratings.default.svc.cluster.local";

    /// The version towards an endpoint that is dialled with mTLS or not and has these capabilities.
    fn spoken(protocol: &str, upgrade: bool, (mtls, ours): (bool, bool), asked: Version, wanted: Use) -> Version {
        let (cluster, endpoints) = (format!("cluster/{KEY}"), format!("endpoints/{KEY}"));
        let snapshot = Sections::golden()
            .edited(&cluster, "/protocol", json!(protocol))
            .edited(&cluster, "/h2_upgrade", json!(upgrade))
            .edited(&endpoints, "/endpoints/0/mtls", json!(mtls))
            .edited(&endpoints, "/endpoints/0/capabilities", if ours { json!(["meshdp"]) } else { json!(["other"]) })
            .snapshot();
        let (cluster, endpoints) = snapshot.cluster(KEY).unwrap();
        cluster.spoken_to(endpoints.iter().next().unwrap(), asked, wanted)
    }

    #[test]
    fn the_version_follows_from_the_port_the_endpoint_and_the_client() {
        use Version::{Http1, Http2};
        let (plain, foreign, ours) = ((false, false), (true, false), (true, true));
        // For a client of HTTP/1.1, and for one of HTTP/2.
        for (protocol, upgrade, endpoint, expected) in [
            ("http", false, plain, [Http1, Http1]),
            ("http2", false, plain, [Http2, Http2]),
            ("auto", false, plain, [Http1, Http2]),
            ("http", true, plain, [Http1, Http1]),
            ("http", false, foreign, [Http1, Http1]),
            ("http2", false, foreign, [Http2, Http2]),
            ("auto", false, foreign, [Http1, Http2]),
            ("http", true, foreign, [Http2, Http2]),
            ("auto", true, foreign, [Http2, Http2]),
            ("http", false, ours, [Http2, Http2]),
            ("auto", false, ours, [Http2, Http2]),
            // Ours, but its namespace disables mTLS: the application is what answers there.
            ("http", false, (false, true), [Http1, Http1]),
        ] {
            for (asked, expected) in [Http1, Http2].into_iter().zip(expected) {
                let found = spoken(protocol, upgrade, endpoint, asked, Use::Exchange);
                assert_eq!(found, expected, "{protocol} {upgrade} {endpoint:?} {asked:?}");
                assert_eq!(spoken(protocol, upgrade, endpoint, asked, Use::Takeover), Http1, "{protocol} {endpoint:?}");
            }
        }
    }

    #[test]
    fn an_application_is_spoken_to_as_its_port_says() {
        use Version::{Http1, Http2};
        for (protocol, expected) in [
            (PortProtocol::Http, [Http1, Http1]),
            (PortProtocol::Http2, [Http2, Http2]),
            (PortProtocol::Auto, [Http1, Http2]),
        ] {
            for (asked, expected) in [Http1, Http2].into_iter().zip(expected) {
                assert_eq!(protocol.spoken_to_application(asked, Use::Exchange), expected, "{protocol:?} {asked:?}");
                assert_eq!(protocol.spoken_to_application(asked, Use::Takeover), Http1);
            }
        }
    }
}
