//! The static table, and which of its entries a field matches.
//!
//! In: an index, or a field. Out: a field, or an index. Source: RFC 7541 2.3.1 and Appendix A.

use super::lookup::hash;

/// Index of the last static entry.
pub(super) const STATIC_LENGTH: usize = ENTRIES.len();

/// The field at `index` (from 1), or none beyond the static table.
pub(super) fn static_field(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    ENTRIES.get(index.wrapping_sub(1)).map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

/// The first index with this name; `hashed` is its [`hash`].
pub(super) fn static_name(name: &[u8], hashed: u32) -> Option<usize> {
    let mut slot = hashed as usize % SLOTS;
    loop {
        let index = usize::from(BY_NAME[slot]);
        let (found, _) = static_field(index)?;
        if found == name {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The index that has this value too, among those of the name whose first index is `first`.
pub(super) fn static_value(first: usize, value: &[u8]) -> Option<usize> {
    let last = match first {
        2 | 4 | 6 => first + 1,
        8 => 14,
        _ => first,
    };
    (first..=last).find(|index| ENTRIES[index - 1].1.as_bytes() == value)
}

/// Slots of the open-addressed table of names: a power of two, mostly empty, so that most misses end at once.
const SLOTS: usize = 256;

/// Where each name's first index lies; 0 is an empty slot, and ends a search.
static BY_NAME: [u8; SLOTS] = index_names();

const fn index_names() -> [u8; SLOTS] {
    let mut slots = [0_u8; SLOTS];
    let mut index = 1;
    while index <= ENTRIES.len() {
        let name = ENTRIES[index - 1].0.as_bytes();
        if index == 1 || !same(name, ENTRIES[index - 2].0.as_bytes()) {
            let mut slot = hash(name) as usize % SLOTS;
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8;
        }
        index += 1;
    }
    slots
}

const fn same(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    left.len() == right.len()
}

static ENTRIES: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_by_name_and_value() {
        for index in 1..=STATIC_LENGTH {
            let (name, value) = static_field(index).unwrap();
            let first = static_name(name, hash(name)).unwrap();
            assert_eq!(static_value(first, value), Some(index));
            assert_eq!(static_value(first, b"something else"), None);
        }
        assert_eq!(static_field(0), None);
        assert_eq!(static_field(62), None);
        assert_eq!(static_name(b"x-request-id", hash(b"x-request-id")), None);
        assert_eq!(static_name(b"", hash(b"")), None);
    }
}
