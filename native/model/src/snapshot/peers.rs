//! Callers by address, in blocks of neighbours: a pod that moves must not change what is said of all the others.
//!
//! In:      sections `peers/<block>`, and `peers` of schema 1, from `decode`.      Out: `PeerTable`, read by every connection.
//! Fails:   a sentence: a block that is none, or an address outside its block.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::sections::PeerEntry;

/// The callers of one section.
#[derive(Debug)]
pub(crate) struct PeerBlock {
    /// Its first address; `None` where the section holds all callers.
    of: Option<IpAddr>,
    /// Sorted by address; several may share one.
    peers: Vec<PeerEntry>,
}

impl PeerBlock {
    /// All callers.
    pub(crate) fn whole(mut peers: Vec<PeerEntry>) -> Self {
        peers.sort_by_key(|peer| peer.address);
        Self { of: None, peers }
    }

    /// The callers of a block.
    pub(crate) fn named(name: &str, peers: Vec<PeerEntry>) -> Result<Self, String> {
        let of = block_named(name).ok_or_else(|| format!("{name:?} is not the first address of a block"))?;
        match peers.iter().find(|peer| block_of(peer.address) != of) {
            Some(stray) => Err(format!("{} does not belong to the block {of}", stray.address)),
            None => Ok(Self { of: Some(of), ..Self::whole(peers) }),
        }
    }

    fn at(&self, address: IpAddr, identity: Option<&str>) -> Option<&PeerEntry> {
        let start = self.peers.partition_point(|peer| peer.address < address);
        let mut here = self.peers[start..].iter().take_while(|peer| peer.address == address);
        here.find(|peer| identity.is_none_or(|identity| *peer.identity == *identity))
    }
}

/// All blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTable {
    blocks: HashMap<Option<IpAddr>, Arc<PeerBlock>>,
}

impl PeerTable {
    /// Puts a block in, for the one before.
    pub(crate) fn put(&mut self, block: &Arc<PeerBlock>) {
        self.blocks.insert(block.of, Arc::clone(block));
    }

    /// Takes out the block of this name.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(of) = block_named(name) {
            self.blocks.remove(&Some(of));
        }
    }

    /// The entry at an address, with the identity if one is given.
    pub(crate) fn at(&self, address: IpAddr, identity: Option<&str>) -> Option<&PeerEntry> {
        let within = |of: Option<IpAddr>| self.blocks.get(&of).and_then(|block| block.at(address, identity));
        within(Some(block_of(address))).or_else(|| within(None))
    }
}

/// The block that a name is of; each has one spelling.
fn block_named(name: &str) -> Option<IpAddr> {
    name.parse::<IpAddr>().ok().filter(|of| block_of(*of) == *of && of.to_string() == name)
}

/// The first of the 256 addresses among which this one is.
fn block_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !0xff).into(),
    }
}
