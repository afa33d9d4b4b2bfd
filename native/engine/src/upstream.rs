//! From a permitted route to an upstream connection: which address, from which source, under which security.
//!
//! In: a `Permit` and the pinned snapshot.  Out: `Target`, then an open `Stream`, pooled or fresh.
//! Limits: connect time-out of the cluster; handshake bound of the settings.
//! Fails: a `Reason` naming what did not work, before any byte of the request was sent.
//! Source: istio-semantics A.5 (127.0.0.6), B.2 (ALPN, SNI), B.4 (client-side mTLS per endpoint), B.5 (TLS of a `DestinationRule`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use meshdp_model::authz::Permit;
use meshdp_model::balance::{self, EndpointSet};
use meshdp_model::sections::{Cluster, Endpoint, Origination, PortProtocol};
use meshdp_model::version::{Use, Version};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::observe::outcome::Reason;
use crate::pool::PoolKey;
use crate::settings::Settings;
use crate::stream::Stream;
use crate::sys;
use crate::tls::{self, ClientAlpn, ExpectedPeer, TlsFailure, TlsStream};
use crate::worker::Worker;

/// Where a permitted connection or request goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The address dialled.
    pub(crate) address: SocketAddr,
    /// The source address, towards the application only.
    source: Option<IpAddr>,
    /// The cluster and the endpoint in it; `None` for the application and for unknown destinations.
    pub(crate) member: Option<Member>,
    pub(crate) connect_timeout: Duration,
    alpn: ClientAlpn,
}

/// One endpoint of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The cluster; it names the identities that the peer must prove.
    pub(crate) cluster: Arc<Cluster>,
    endpoints: Arc<EndpointSet>,
    index: usize,
}

impl Member {
    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.index]
    }
}

impl Target {
    /// The application behind an inbound connection. Needs the permit that let the connection in.
    pub(crate) fn application(_permit: &Permit, address: SocketAddr, worker: &Worker) -> Self {
        let source = worker.settings.inbound_source;
        // A loopback source reaches this host's own addresses only; a destination of the other family has none.
        let source = (source.is_ipv4() == address.is_ipv4()).then_some(source);
        let connect_timeout = Duration::from_millis(worker.settings.limits.connect_ms);
        Self { address, source, member: None, connect_timeout, alpn: ClientAlpn::Tcp }
    }

    /// A destination outside the registry, dialled as the application meant it.
    pub(crate) fn passthrough(_permit: &Permit, address: SocketAddr, worker: &Worker) -> Self {
        let connect_timeout = Duration::from_millis(worker.settings.limits.connect_ms);
        Self { address, source: None, member: None, connect_timeout, alpn: ClientAlpn::Tcp }
    }

    /// One endpoint of a cluster, chosen among the healthy ones by least requests of two; those that could not be
    /// connected to lately only where there is no other.
    ///
    /// # Errors
    /// `NoHealthyUpstream` when none may be picked.
    pub(crate) fn endpoint(
        cluster: &Arc<Cluster>,
        endpoints: &Arc<EndpointSet>,
        alpn: ClientAlpn,
        worker: &Worker,
    ) -> Result<Self, Reason> {
        let address = |index: usize| SocketAddr::new(endpoints[index].address, endpoints[index].port);
        let in_flight = |index: usize| worker.load.of(address(index));
        let avoided = |index: usize| worker.health.avoids(address(index), worker.coarse_ms());
        let picked = if worker.health.is_quiet() {
            balance::pick(endpoints, in_flight, worker.random())
        } else {
            balance::pick_avoiding(endpoints, in_flight, avoided, worker.random())
        };
        let picked = picked.ok_or(Reason::NoHealthyUpstream)?;
        Ok(Self {
            address: address(picked),
            source: None,
            member: Some(Member { cluster: Arc::clone(cluster), endpoints: Arc::clone(endpoints), index: picked }),
            connect_timeout: Duration::from_millis(cluster.connect_timeout_ms),
            alpn,
        })
    }

    /// An endpoint for another try, among those in force now. A cluster that has changed since the request was routed may
    /// expect other identities: under it nothing is tried again.
    pub(crate) fn again(&self, worker: &Worker) -> Option<Self> {
        let routed = &self.member.as_ref()?.cluster;
        let pinned = worker.pin();
        let (cluster, endpoints) = pinned.snapshot.cluster(&routed.key)?;
        let same = Arc::ptr_eq(cluster, routed);
        if same { Self::endpoint(cluster, endpoints, self.alpn, worker).ok() } else { None }
    }

    /// Which version of HTTP carries a request to this target; `application` is what was declared of the application's port.
    pub(crate) fn version(&self, application: PortProtocol, asked: Version, wanted: Use) -> Version {
        match &self.member {
            Some(member) => member.cluster.spoken_to(member.endpoint(), asked, wanted),
            None => application.spoken_to_application(asked, wanted),
        }
    }

    /// Whether HTTP/2 is what its port, its policy or its client asked for, whatever a handshake says; towards a sidecar of ours we
    /// choose it ourselves.
    pub(crate) fn declares_http2(&self) -> bool {
        let Some(member) = &self.member else { return true };
        let Cluster { protocol, h2_upgrade, .. } = &*member.cluster;
        *protocol == PortProtocol::Http2 || *h2_upgrade || !member.endpoint().is_meshdp()
    }

    /// Whether its peer must prove to be of the mesh.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure_cluster().is_some()
    }

    /// Whether the endpoint's sidecar is one of ours.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_secure() && self.member.as_ref().is_some_and(|member| member.endpoint().is_meshdp())
    }

    /// The key under which connections to this target may be shared.
    pub(crate) fn pool_key(&self, worker: &Worker) -> PoolKey {
        let originating = self.origination().map(|(cluster, _)| cluster);
        let security = self.secure_cluster().or(originating).map(|cluster| {
            let epoch = worker.credentials.load().map_or(0, |credentials| credentials.epoch);
            (Arc::clone(cluster), epoch)
        });
        PoolKey { address: self.address, source: self.source, security }
    }

    /// Opens a fresh connection: TCP, then TLS to an expected identity where the endpoint speaks it, or TLS as a
    /// `DestinationRule` asks for it.
    ///
    /// # Errors
    /// The reason, before any byte of the request was sent.
    pub(crate) async fn connect(&self, worker: &Worker) -> Result<Stream, Reason> {
        self.connect_as(self.alpn, worker).await
    }

    /// As `connect`, for HTTP/2; what the peer chose is for [`Stream::speaks_http2`] to say.
    ///
    /// # Errors
    /// As `connect`.
    pub(crate) async fn connect_http2(&self, worker: &Worker) -> Result<Stream, Reason> {
        self.connect_as(ClientAlpn::Http2, worker).await
    }

    async fn connect_as(&self, alpn: ClientAlpn, worker: &Worker) -> Result<Stream, Reason> {
        // What cannot begin is known before anything is dialled.
        let originating = self.origination().map(|(_, asked)| {
            let config = worker.originations.borrow_mut().config(asked);
            config.map(|config| (config, asked)).map_err(|failure| refused(&failure, worker))
        });
        let originating = originating.transpose()?;
        let tcp = match timeout(self.connect_timeout, dial(self.address, self.source, &worker.settings)).await {
            Err(_) => return Err(Reason::UpstreamConnectTimeout),
            Ok(Err(_)) => return Err(Reason::UpstreamConnectFailed),
            Ok(Ok(tcp)) => tcp,
        };
        if let Some((config, asked)) = originating {
            return within(tls::originate(tcp, config, &asked.sni, alpn), worker).await;
        }
        let Some(cluster) = self.secure_cluster() else { return Ok(Stream::Plain(tcp)) };
        let credentials = worker.own_credentials()?;
        let identities: Vec<String> = cluster.identities.iter().map(ToString::to_string).collect();
        let expected = ExpectedPeer { identities: &identities };
        let handshake = tls::connect(tcp, &credentials, &cluster.sni, &expected, alpn);
        within(async { handshake.await.map(|(stream, _peer)| stream) }, worker).await
    }
}

/// A handshake in the time that it may take.
async fn within(
    handshake: impl Future<Output = Result<Box<TlsStream>, TlsFailure>>,
    worker: &Worker,
) -> Result<Stream, Reason> {
    match timeout(worker.settings.handshake(), handshake).await {
        Err(_) => Err(Reason::UpstreamTlsTimeout),
        Ok(Err(failure)) => Err(refused(&failure, worker)),
        Ok(Ok(stream)) => Ok(Stream::Tls(stream)),
    }
}

/// The reason of a failure, counted.
fn refused(failure: &TlsFailure, worker: &Worker) -> Reason {
    let reason = reason_of(failure);
    worker.telemetry.borrow().tls_failed(reason);
    reason
}

impl Target {
    /// The cluster whose identities the peer must prove; `None` dials plaintext.
    fn secure_cluster(&self) -> Option<&Arc<Cluster>> {
        let mesh = |member: &&Member| member.endpoint().mtls && member.cluster.origination.is_none();
        self.member.as_ref().filter(mesh).map(|member| &member.cluster)
    }

    /// TLS to be begun for the application.
    fn origination(&self) -> Option<(&Arc<Cluster>, &Origination)> {
        let cluster = self.member.as_ref().map(|member| &member.cluster)?;
        cluster.origination.as_ref().map(|asked| (cluster, asked))
    }
}

#[cfg(test)]
impl Target {
    /// An endpoint of a cluster, or an address alone.
    pub(crate) fn of_tests(address: SocketAddr, member: Option<(&Arc<Cluster>, Endpoint)>) -> Self {
        let member = member.map(|(cluster, endpoint)| Member {
            cluster: Arc::clone(cluster),
            endpoints: Arc::new(EndpointSet::new(vec![endpoint])),
            index: 0,
        });
        Self { address, source: None, member, connect_timeout: Duration::from_secs(2), alpn: ClientAlpn::Http11 }
    }
}

async fn dial(address: SocketAddr, source: Option<IpAddr>, settings: &Settings) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = settings.mark {
        sys::set_mark(socket.as_fd(), mark)?; // without it the redirection would send this connection back to us
    }
    socket.set_nodelay(true)?;
    if let Some(probing) = settings.limits.keepalive() {
        SockRef::from(&socket).set_tcp_keepalive(&probing)?;
    }
    if let Some(source) = source {
        sys::bind_address_without_port(socket.as_fd())?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

fn reason_of(failure: &TlsFailure) -> Reason {
    match failure.code() {
        "tls_identity_mismatch" => Reason::UpstreamTlsIdentity,
        "tls_material" => Reason::UpstreamTlsUnusable,
        "tls_untrusted_chain" | "tls_expired" | "tls_trust_domain" => Reason::UpstreamTlsUntrusted,
        _ => Reason::UpstreamTlsFailed,
    }
}
