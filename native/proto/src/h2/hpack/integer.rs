//! Prefix integers and the position in a block.
//!
//! In: a block. Out: bytes, integers and slices of it. Limits: [`LARGEST`]. Fails: [`HpackFault`]. Source: RFC 7541 5.1.

use super::HpackFault;

/// The largest integer taken: settings are 32 bits wide, and nothing else in a block is larger.
const LARGEST: u64 = u32::MAX as u64;

/// Bits below which continuation octets may reach: five octets carry 32 bits; more are leading zeros or an attack.
const LAST_SHIFT: u32 = 28;

/// A block and how far it is read.
pub(super) struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    pub(super) fn new(block: &'b [u8]) -> Self {
        Self { rest: block }
    }

    /// The next octet, not taken.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next octet.
    pub(super) fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// The next `count` octets.
    pub(super) fn take(&mut self, count: usize) -> Result<&'b [u8], HpackFault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(HpackFault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The integer whose prefix is the low bits of `first` under `mask`, which was taken already.
    pub(super) fn integer(&mut self, first: u8, mask: u8) -> Result<usize, HpackFault> {
        let prefix = first & mask;
        if prefix < mask { Ok(usize::from(prefix)) } else { self.long_integer(mask) }
    }

    fn long_integer(&mut self, mask: u8) -> Result<usize, HpackFault> {
        let mut value = u64::from(mask);
        for shift in (0..=LAST_SHIFT).step_by(7) {
            let octet = self.octet().ok_or(HpackFault::Truncated)?;
            value += u64::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return if value <= LARGEST { Ok(value as usize) } else { Err(HpackFault::IntegerOverflow) };
            }
        }
        Err(HpackFault::IntegerOverflow)
    }
}

/// Appends `value` with the representation's `pattern` above the prefix bits under `mask`.
pub(super) fn put_integer(value: usize, pattern: u8, mask: u8, out: &mut Vec<u8>) {
    if value < usize::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn there_and_back(value: usize, mask: u8) -> Result<usize, HpackFault> {
        let mut bytes = Vec::new();
        put_integer(value, !mask, mask, &mut bytes);
        let mut input = Input::new(&bytes);
        let first = input.octet().unwrap();
        assert_eq!(first & !mask, !mask, "the pattern stays");
        let read = input.integer(first, mask);
        assert_eq!(input.peek(), None, "nothing is left");
        read
    }

    #[test]
    fn integers_come_back_around_every_border() {
        for mask in [0x7f, 0x3f, 0x1f, 0x0f] {
            for value in [0, 1, 14, 15, 16, 30, 31, 62, 63, 64, 126, 127, 128, 254, 255, 1337, 16_383, 16_384, 1 << 28]
            {
                assert_eq!(there_and_back(value, mask), Ok(value));
            }
            assert_eq!(there_and_back(u32::MAX as usize, mask), Ok(u32::MAX as usize));
            assert_eq!(there_and_back(u32::MAX as usize + 1, mask), Err(HpackFault::IntegerOverflow));
        }
    }

    #[test]
    fn leading_zeros_and_endless_octets_are_refused() {
        for octets in [&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..], &[0xff; 64][..]] {
            assert_eq!(Input::new(octets).integer(0x1f, 0x1f), Err(HpackFault::IntegerOverflow));
        }
        assert_eq!(Input::new(&[0x80, 0x80]).integer(0x1f, 0x1f), Err(HpackFault::Truncated));
    }
}
