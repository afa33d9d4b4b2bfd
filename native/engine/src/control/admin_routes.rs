//! Maps a request of the admin servers to its answer.
//!
//! In:      a parsed request, who sent it and to which listener.
//! Out:     a response; the table [`ROUTES`] is what `docs/admin.md` describes (a test compares their paths).
//! Limits:  what changes something is taken from loopback only, never from a browser's page.
//! Source:  DESIGN 4.6; istio-semantics G.5.

use std::net::IpAddr;

use crate::control::admin::{AdminState, Face, Request, Response};

/// Answers one request.
pub(crate) async fn answer(request: &Request<'_>, peer: IpAddr, face: Face, state: &dyn AdminState) -> Response {
    if face == Face::Admin && !(is_local(peer) && names_loopback(request.host)) {
        return Response::error(403, "the admin server answers on localhost only, under a loopback name");
    }
    match find(request, face) {
        Ok(action) if action.changes() && (!is_local(peer) || request.has_origin) => {
            Response::error(403, "this is taken from loopback only, and not from a browser's page")
        }
        Ok(action) => act(action, request, state).await,
        Err(refusal) => refusal,
    }
}

/// The action of the route, or 404, or 405.
fn find(request: &Request<'_>, face: Face) -> Result<Action, Response> {
    let mut routes = ROUTES.iter().filter(|route| route.0 == face && route.2 == request.path);
    let Some(first) = routes.clone().next() else {
        return Err(Response::error(404, "no such path; see docs/admin.md"));
    };
    routes.find(|route| route.1 == request.method).map(|route| route.3).ok_or_else(|| {
        let message = format!("expected {}", first.1);
        Response { allow: first.1, ..Response::error(405, &message) }
    })
}

async fn act(action: Action, request: &Request<'_>, state: &dyn AdminState) -> Response {
    match action {
        Action::Ready => match state.ready() {
            Ok(()) => Response::json(200, "{\"ready\":true}".to_owned()),
            Err(reason) => Response::json(503, serde_json::json!({"ready": false, "reason": reason}).to_string()),
        },
        Action::Config => Response::json(200, state.config(request.query.strip_prefix("sections="))),
        Action::Connections => Response::json(200, state.connections().await),
        Action::Certs => Response::json(200, state.certs()),
        Action::Stats => Response::json(200, state.stats()),
        Action::Prometheus => Response { content_type: PROMETHEUS, ..Response::json(200, state.prometheus()) },
        Action::Logging => log_as(request.query, state),
        Action::Drain => {
            state.drain();
            Response::json(200, "{\"draining\":true}".to_owned())
        }
        Action::Quit => Response { quits: true, ..Response::json(200, "{\"quitting\":true}".to_owned()) },
    }
}

fn log_as(query: &str, state: &dyn AdminState) -> Response {
    let Some(mode) = query.strip_prefix("access_log=") else {
        return Response::error(400, "expected ?access_log=off, text or json");
    };
    match state.set_access_log(mode) {
        Ok(()) => Response::json(200, serde_json::json!({ "access_log": mode }).to_string()),
        Err(message) => Response::error(400, &message),
    }
}

/// Whether the peer is on this machine and speaks for itself. Traffic that this sidecar carries to the application comes
/// from 127.0.0.6, whoever sent it.
fn is_local(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() && peer != INBOUND_SOURCE
}

/// Whether `Host` is a loopback name: a page whose name was bound to 127.0.0.1 sends its own name.
fn names_loopback(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    if let Some(rest) = host.strip_prefix("[::1]") {
        return rest.is_empty() || is_port(rest);
    }
    let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
    let known =
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    known && (port.is_empty() || is_port(port))
}

/// Whether `text` is a colon and a port.
fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| digits.parse::<u16>().is_ok())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Ready,
    Config,
    Connections,
    Certs,
    Stats,
    Prometheus,
    Logging,
    Drain,
    Quit,
}

impl Action {
    fn changes(self) -> bool {
        matches!(self, Self::Logging | Self::Drain | Self::Quit)
    }
}

/// Who answers what.
pub(crate) const ROUTES: [(Face, &str, &str, Action); 17] = [
    (Face::Admin, "GET", "/ready", Action::Ready),
    (Face::Admin, "GET", "/config", Action::Config),
    (Face::Admin, "GET", "/connections", Action::Connections),
    (Face::Admin, "GET", "/certs", Action::Certs),
    (Face::Admin, "GET", "/stats", Action::Stats),
    (Face::Admin, "GET", "/stats/prometheus", Action::Prometheus),
    (Face::Admin, "POST", "/logging", Action::Logging),
    (Face::Admin, "POST", "/drain", Action::Drain),
    (Face::Admin, "POST", "/quitquitquit", Action::Quit),
    (Face::Status, "GET", "/healthz/ready", Action::Ready),
    (Face::Status, "GET", "/stats/prometheus", Action::Prometheus),
    (Face::Status, "GET", "/metrics", Action::Prometheus),
    (Face::Status, "POST", "/drain", Action::Drain),
    (Face::Status, "POST", "/quitquitquit", Action::Quit),
    (Face::Readiness, "GET", "/healthz/ready", Action::Ready),
    (Face::Metrics, "GET", "/stats/prometheus", Action::Prometheus),
    (Face::Metrics, "GET", "/metrics", Action::Prometheus),
];

/// Where inbound traffic comes from once a sidecar has carried it (istio-semantics A.4).
const INBOUND_SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 6));

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
