//! Matching: facts into marks, one for each distinct list of values of the policies that holds.
//!
//! In:      value lists, from `compile`; facts, from `authz`.      Out: `Marks`, which rules are tested against.
//! Each distinct value is compared once a request, however many policies name it; the cost follows the request.
//! Fails:   a value that its field cannot have.
//! Source:  istio-semantics D.3; istio-observed 1 (repeated headers), 6 (server name).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::authz::marks::{Lists, Marks};
use crate::authz::patterns::{Pattern, PatternList};
use crate::bytemap::ByteMap;
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::sections::{Field, Predicate, Value, ValueKind};
use crate::wordhash::WordMap;

/// All value lists of the policies, by attribute.
#[derive(Debug)]
pub(crate) struct Matchers {
    principal: TextMatcher,
    identity: TextMatcher,
    sni: TextMatcher,
    source_ip: NetMatcher,
    destination_ip: NetMatcher,
    destination_port: WordMap<u16, Lists>,
    remote_ip: NetMatcher,
    host: TextMatcher,
    method: TextMatcher,
    path: TextMatcher,
    headers: Vec<(Arc<str>, TextMatcher)>,
    request_principal: TextMatcher,
    claims: Vec<(Arc<str>, TextMatcher)>,
}

impl Matchers {
    /// Builds the matchers of lists, which are numbered by their place.
    pub(crate) fn build(lists: &[Predicate]) -> Result<Self, String> {
        let text = |field: Field| TextMatcher::build(field, lists, |list| list.field == field);
        let by_name = |field: Field| {
            let names: BTreeSet<&Arc<str>> =
                lists.iter().filter(|list| list.field == field).map(|list| &list.name).collect();
            let of = |name: &Arc<str>| {
                let matcher = TextMatcher::build(field, lists, |list| list.field == field && list.name == *name)?;
                Ok((Arc::clone(name), matcher))
            };
            names.into_iter().map(of).collect::<Result<Vec<_>, String>>()
        };
        Ok(Self {
            principal: text(Field::Principal)?,
            identity: text(Field::Identity)?,
            sni: text(Field::Sni)?,
            source_ip: NetMatcher::build(Field::SourceIp, lists)?,
            destination_ip: NetMatcher::build(Field::DestinationIp, lists)?,
            destination_port: ports(lists)?,
            remote_ip: NetMatcher::build(Field::RemoteIp, lists)?,
            host: text(Field::Host)?,
            method: text(Field::Method)?,
            path: text(Field::Path)?,
            headers: by_name(Field::Header)?,
            request_principal: text(Field::RequestPrincipal)?,
            claims: by_name(Field::Claim)?,
        })
    }

    /// Numbers the values; those of each list, and how many there are. A value that stays without a number is right and slow.
    pub(crate) fn values_by_list(&mut self, list_count: usize) -> (Vec<Vec<u32>>, usize) {
        let (mut by_list, mut next) = (vec![Vec::new(); list_count], 0);
        let texts = [&mut self.principal, &mut self.identity, &mut self.sni, &mut self.host, &mut self.method];
        let texts = texts.into_iter().chain([&mut self.path]).chain(self.headers.iter_mut().map(|(_, own)| own));
        let networks = [&mut self.source_ip, &mut self.destination_ip, &mut self.remote_ip];
        let networks = networks.into_iter().flat_map(|own| own.networks.values_mut());
        for value in texts.flat_map(TextMatcher::values_mut).chain(networks).chain(self.destination_port.values_mut()) {
            value.settle(next).iter().for_each(|&list| by_list[list as usize].push(next));
            next += 1;
        }
        (by_list, next as usize)
    }

    /// Marks the lists that hold for a connection, whatever is asked on it.
    pub(crate) fn mark_connection(&self, connection: &ConnectionFacts, marks: &mut Marks) {
        if let Some(peer) = &connection.peer {
            self.principal.mark(peer.principal().as_bytes(), marks);
            self.identity.mark(peer.uri().as_bytes(), marks);
        }
        if let Some(sni) = &connection.sni {
            self.sni.mark(sni.as_bytes(), marks);
        }
        self.source_ip.mark(connection.source.ip(), marks);
        self.destination_ip.mark(connection.destination.ip(), marks);
        marks.set_all(self.destination_port.get(&connection.destination.port()));
    }

    /// Marks the lists that hold for the client's address: of a request, or of an opaque connection (its TCP peer).
    pub(crate) fn mark_remote(&self, remote_ip: IpAddr, marks: &mut Marks) {
        self.remote_ip.mark(remote_ip, marks);
    }

    /// Marks the lists that hold for a request.
    pub(crate) fn mark_request(&self, request: &RequestFacts<'_>, marks: &mut Marks) {
        self.mark_remote(request.remote_ip, marks);
        self.host.mark(request.authority, marks);
        self.method.mark(request.method, marks);
        self.path.mark(request.path, marks);
        for (name, matcher) in &self.headers {
            request.visit_header(name, &mut |value| {
                matcher.mark(value, marks);
                false
            });
        }
        if let Some(claims) = request.claims {
            self.request_principal.mark(claims.principal(), marks);
            for (path, matcher) in &self.claims {
                claims.visit(path, &mut |value| {
                    matcher.mark(value, marks);
                    false
                });
            }
        }
    }
}

impl RequestFacts<'_> {
    /// Visits the values of a header. The head fields of HTTP are headers too for Envoy (istio-semantics D.4; `host` is
    /// `:authority`).
    pub(crate) fn visit_header(&self, name: &str, each: &mut dyn FnMut(&[u8]) -> bool) {
        match name {
            ":authority" | "host" => drop(each(self.authority)),
            ":method" => drop(each(self.method)),
            ":path" => {
                // With the query where the caller has it; without is the lesser evil, never nothing.
                let mut visited = false;
                self.headers.visit(name, &mut |value| {
                    visited = true;
                    each(value)
                });
                if !visited {
                    each(self.path);
                }
            }
            _ => self.headers.visit(name, each),
        }
    }
}

/// The values that one text attribute is compared with.
#[derive(Debug)]
struct TextMatcher {
    exact: ByteMap<Lists>,
    prefix: ByteMap<Lists>,
    suffix: ByteMap<Lists>,
    present: Lists,
    empty_is_present: bool,
    patterns: PatternList<Lists>,
}

impl TextMatcher {
    fn build(field: Field, lists: &[Predicate], mine: impl Fn(&Predicate) -> bool) -> Result<Self, String> {
        let fold_case = field == Field::Host;
        let (mut exact, mut prefix) = (ByteMap::of_prefixes(fold_case), ByteMap::of_prefixes(fold_case));
        let (mut suffix, mut present) = (ByteMap::of_suffixes(fold_case), Lists::new());
        let mut patterns: Vec<(Pattern, Lists)> = Vec::new();
        let mut known: HashMap<&Value, usize> = HashMap::new();
        for (number, list) in (0..).zip(lists).filter(|(_, list)| mine(list)) {
            for value in &list.values {
                let text = value.value.as_bytes();
                match value.kind {
                    ValueKind::Exact => exact.entry(text, Lists::new).push(number),
                    ValueKind::Prefix => prefix.entry(text, Lists::new).push(number),
                    ValueKind::Suffix => suffix.entry(text, Lists::new).push(number),
                    ValueKind::Present => present.push(number),
                    ValueKind::Regex | ValueKind::Template | ValueKind::Cidr => {
                        let place = *known.entry(value).or_insert(patterns.len());
                        if place == patterns.len() {
                            patterns.push((pattern(field, value)?, Lists::new()));
                        }
                        patterns[place].1.push(number);
                    }
                }
            }
        }
        let empty_is_present = empty_is_present(field);
        Ok(Self { exact, prefix, suffix, present, empty_is_present, patterns: PatternList::new(patterns) })
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Lists> {
        let affixes = [&mut self.exact, &mut self.prefix, &mut self.suffix].into_iter().flat_map(ByteMap::values_mut);
        affixes.chain([&mut self.present]).chain(self.patterns.values_mut())
    }

    fn mark(&self, text: &[u8], marks: &mut Marks) {
        marks.set_all(self.exact.get(text));
        marks.set_all(self.prefix.affixes_of(text));
        marks.set_all(self.suffix.affixes_of(text));
        if self.empty_is_present || !text.is_empty() {
            marks.set_all(Some(&self.present));
        }
        marks.set_all(self.patterns.matching(text));
    }
}

/// The pattern of a regex or template value.
pub(crate) fn pattern(field: Field, value: &Value) -> Result<Pattern, String> {
    match value.kind {
        ValueKind::Regex => Pattern::regex(&value.value, field == Field::Host),
        ValueKind::Template if field == Field::Path => Pattern::template(&value.value),
        kind => Err(format!("{field:?} cannot be compared with {:?} as {kind:?}", value.value)),
    }
}

/// istio-observed 2 and the request.headers sets: `*` on a header or host takes an empty one too.
pub(crate) fn empty_is_present(field: Field) -> bool {
    matches!(field, Field::Header | Field::Host)
}

/// The networks that one address attribute is compared with.
#[derive(Debug)]
struct NetMatcher {
    networks: HashMap<IpNet, Lists>,
    /// Prefix lengths in use, for IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl NetMatcher {
    fn build(field: Field, lists: &[Predicate]) -> Result<Self, String> {
        let mut matcher = Self { networks: HashMap::new(), lengths: Default::default() };
        for (number, list) in (0..).zip(lists).filter(|(_, list)| list.field == field) {
            for value in &list.values {
                let network = network(field, value)?;
                matcher.lengths[usize::from(network.addr().is_ipv6())].insert(network.prefix_len());
                matcher.networks.entry(network).or_insert_with(Lists::new).push(number);
            }
        }
        Ok(matcher)
    }

    fn mark(&self, address: IpAddr, marks: &mut Marks) {
        for &length in &self.lengths[usize::from(address.is_ipv6())] {
            // The lengths of a family fit its addresses.
            if let Ok(network) = IpNet::new(address, length) {
                marks.set_all(self.networks.get(&network.trunc()));
            }
        }
    }
}

/// The network of a value: an address alone is a network of one. IPv4 in IPv6 form is IPv6 (istio-observed 7).
pub(crate) fn network(field: Field, value: &Value) -> Result<IpNet, String> {
    let parsed = value.value.parse().map(|network: IpNet| network.trunc());
    match parsed.or_else(|_| value.value.parse::<IpAddr>().map(IpNet::from)) {
        Ok(network) if value.kind == ValueKind::Cidr => Ok(network),
        _ => Err(format!("{field:?} is compared with networks, not with {:?} as {:?}", value.value, value.kind)),
    }
}

fn ports(lists: &[Predicate]) -> Result<WordMap<u16, Lists>, String> {
    let mut ports: WordMap<u16, Lists> = WordMap::default();
    for (number, list) in (0..).zip(lists).filter(|(_, list)| list.field == Field::DestinationPort) {
        for value in &list.values {
            ports.entry(port(value)?).or_insert_with(Lists::new).push(number);
        }
    }
    Ok(ports)
}

/// The port of a value.
pub(crate) fn port(value: &Value) -> Result<u16, String> {
    let decimal = value.value.bytes().all(|byte| byte.is_ascii_digit());
    match value.value.parse() {
        Ok(port) if decimal && value.kind == ValueKind::Exact => Ok(port),
        _ => Err(format!("a port is compared with decimal numbers, not with {:?} as {:?}", value.value, value.kind)),
    }
}
