//! The dynamic table: newest first, the oldest evicted when the size demands it.
//!
//! Bytes are appended to a buffer of up to twice the table's size and moved to its front when the end is reached, so every
//! entry is one slice and each byte is moved once for each byte that came.
//! In: fields. Out: fields by position. Limits: the table's size. Source: RFC 7541 2.3.2 and 4.

use super::FIELD_OVERHEAD;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Table {
    /// Oldest entry first; at most `capacity / 32`.
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    /// How many bytes were moved away in front of `bytes`, wrapping: entries keep their place when others are moved.
    moved: u32,
    size: usize,
    capacity: usize,
    /// How many fields were ever inserted, wrapping.
    inserted: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the name begins, counted with what was moved away.
    place: u32,
    name: u32,
    value: u32,
}

impl Entry {
    fn size(self) -> usize {
        (self.name + self.value) as usize + FIELD_OVERHEAD
    }
}

impl Table {
    /// A table of `capacity` bytes, counted as RFC 7541 4.1 does. Memory comes with the fields.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: Vec::new(), moved: 0, size: 0, capacity, inserted: 0 }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many fields were ever inserted, wrapping: the number of the next one.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// The position of the field that was inserted as `number`, if it is still there.
    pub(super) fn position(&self, number: u32) -> Option<usize> {
        let position = self.inserted.wrapping_sub(number).wrapping_sub(1) as usize;
        (position < self.entries.len()).then_some(position)
    }

    /// The field at `position`, 0 being the newest.
    pub(super) fn field(&self, position: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(self.entries.len().wrapping_sub(position).wrapping_sub(1))?;
        let start = entry.place.wrapping_sub(self.moved) as usize;
        let middle = start + entry.name as usize;
        Some((&self.bytes[start..middle], &self.bytes[middle..middle + entry.value as usize]))
    }

    /// A new size; what no longer fits goes (4.3).
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.evict(0);
    }

    /// Inserts a field. One above the whole table empties it, which is no error (4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let length = name.len() + value.len();
        let size = length + FIELD_OVERHEAD;
        self.evict(size);
        if size > self.capacity {
            return;
        }
        self.make_room(length);
        let place = self.moved.wrapping_add(self.bytes.len() as u32);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back(Entry { place, name: name.len() as u32, value: value.len() as u32 });
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
    }

    /// Evicts the oldest until `room` more fits, or nothing is left.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.capacity {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.size -= oldest.size();
        }
    }

    /// Moves the live bytes to the front when `length` more would pass twice the table's size.
    fn make_room(&mut self, length: usize) {
        if self.bytes.len() + length <= 2 * self.capacity {
            return;
        }
        let end = self.moved.wrapping_add(self.bytes.len() as u32);
        let first = self.entries.front().map_or(end, |oldest| oldest.place);
        self.bytes.drain(..first.wrapping_sub(self.moved) as usize);
        self.moved = first;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_and_fields_stay_right_while_thousands_pass() {
        let mut table = Table::new(512);
        table.moved = u32::MAX - 3000;
        table.inserted = u32::MAX - 40;
        for round in 0..5000_u32 {
            let name = format!("name-{}", round % 7);
            let value = "v".repeat((round * 31 % 90) as usize);
            let number = table.inserted();
            table.insert(name.as_bytes(), value.as_bytes());
            assert_eq!(table.position(number), Some(0));
            assert_eq!(table.field(0), Some((name.as_bytes(), value.as_bytes())));
            assert!(table.size <= 512 && table.bytes.len() <= 1024 && table.entries.len() <= 16);
            let counted: usize =
                (0..table.entries.len()).map(|at| table.field(at).unwrap()).map(|(n, v)| n.len() + v.len() + 32).sum();
            assert_eq!(counted, table.size);
        }
        assert_eq!(table.field(table.entries.len()), None);
        assert_eq!(table.position(table.inserted()), None);
    }

    #[test]
    fn fields_that_fill_the_table_exactly_stay() {
        let mut table = Table::new(68);
        table.insert(b"a", b"b");
        table.insert(b"c", b"d");
        assert_eq!((table.field(1), table.size), (Some((&b"a"[..], &b"b"[..])), 68));
        table.insert(b"e", b"");
        assert_eq!((table.field(1), table.size), (Some((&b"c"[..], &b"d"[..])), 67));
    }

    #[test]
    fn a_field_above_the_table_empties_it() {
        let mut table = Table::new(100);
        table.insert(b"a", b"b");
        table.insert(b"large", &[b'x'; 64]);
        assert_eq!((table.field(0), table.size), (None, 0));
        table.insert(b"c", b"d");
        table.resize(0);
        assert_eq!((table.field(0), table.size), (None, 0));
    }
}
