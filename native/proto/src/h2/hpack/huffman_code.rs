//! The static Huffman code: lengths of its codes, and the tables that both directions read, built at compile time.
//!
//! The code is canonical: codes of one length are consecutive in the order of their symbols, and shorter ones come first.
//! So the lengths say everything. Source: RFC 7541 Appendix B.

/// The symbol after the 256 octets: end of string. Its code is all ones.
pub(super) const EOS: u16 = 256;

/// The longest code, EOS among them.
pub(super) const LONGEST: u32 = 30;

/// Bits that one step of the decoder looks at. Two codes of six bits fit: most pairs of letters are one step.
pub(super) const STEP_BITS: u32 = 12;

/// `(code, bits)` of each octet.
pub(super) static CODES: [(u32, u8); 256] = codes();

/// Bits of each octet's code.
pub(super) static BITS: [u8; 256] = octet_bits();

/// What the next [`STEP_BITS`] bits say.
pub(super) static STEPS: [Step; 1 << STEP_BITS] = steps();

/// Where the codes of each length begin; see [`Length`].
pub(super) static BY_LENGTH: [Length; LONGEST as usize + 1] = lengths();

/// Symbols in the order of their codes.
pub(super) static IN_ORDER: [u16; 257] = in_order();

/// One step of the decoder: one or two whole codes, or none when the code is longer than the step.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) symbols: [u8; 2],
    /// Bits of the first code; 0: longer than the step.
    pub(super) first: u8,
    /// Bits of all codes in here.
    pub(super) all: u8,
}

impl Step {
    pub(super) fn count(self) -> usize {
        1 + usize::from(self.all > self.first)
    }
}

/// The codes of one length.
#[derive(Clone, Copy)]
pub(super) struct Length {
    /// The first of them, in the high bits of 32.
    pub(super) start: u32,
    /// One past the last of them, likewise (wide, because the longest end at 2^32).
    pub(super) end: u64,
    /// Where their symbols begin in [`IN_ORDER`].
    pub(super) offset: u16,
}

const fn in_order() -> [u16; 257] {
    let mut order = [0; 257];
    let mut filled = 0;
    let mut bits = 1;
    while bits <= LONGEST {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as u32 == bits {
                order[filled] = symbol as u16;
                filled += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    order
}

const fn lengths() -> [Length; LONGEST as usize + 1] {
    let mut table = [Length { start: 0, end: 0, offset: 0 }; LONGEST as usize + 1];
    let (mut start, mut offset, mut bits) = (0_u64, 0, 1);
    while bits <= LONGEST {
        let mut end = start;
        let before = offset;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as u32 == bits {
                end += 1 << (32 - bits);
                offset += 1;
            }
            symbol += 1;
        }
        table[bits as usize] = Length { start: start as u32, end, offset: before };
        start = end;
        bits += 1;
    }
    assert!(start == 1 << 32, "the code is complete");
    table
}

const fn codes() -> [(u32, u8); 256] {
    let (order, table) = (in_order(), lengths());
    let mut codes = [(0, 0); 256];
    let mut at = 0;
    while at < 257 {
        let symbol = order[at];
        if symbol != EOS {
            let bits = LENGTHS[symbol as usize];
            let length = table[bits as usize];
            codes[symbol as usize] = ((length.start >> (32 - bits)) + (at as u32 - length.offset as u32), bits);
        }
        at += 1;
    }
    codes
}

const fn octet_bits() -> [u8; 256] {
    let mut bits = [0; 256];
    let mut symbol = 0;
    while symbol < 256 {
        bits[symbol] = LENGTHS[symbol];
        symbol += 1;
    }
    bits
}

const fn steps() -> [Step; 1 << STEP_BITS] {
    let codes = codes();
    let mut steps = [Step { symbols: [0, 0], first: 0, all: 0 }; 1 << STEP_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let (code, bits) = codes[symbol];
        if bits as u32 <= STEP_BITS {
            let spare = STEP_BITS - bits as u32;
            let mut at = code << spare;
            while at < (code + 1) << spare {
                steps[at as usize] = Step { symbols: [symbol as u8, 0], first: bits, all: bits };
                at += 1;
            }
        }
        symbol += 1;
    }
    join(&steps)
}

/// Adds the second code to each step that has room for it.
const fn join(single: &[Step; 1 << STEP_BITS]) -> [Step; 1 << STEP_BITS] {
    let mut joined = *single;
    let mut at = 0;
    while at < 1 << STEP_BITS {
        let first = single[at];
        let second = single[(at << first.first) & ((1 << STEP_BITS) - 1)];
        let all = first.first + second.first;
        if first.first > 0 && second.first > 0 && all as u32 <= STEP_BITS {
            joined[at] = Step { symbols: [first.symbols[0], second.symbols[0]], first: first.first, all };
        }
        at += 1;
    }
    joined
}

#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
