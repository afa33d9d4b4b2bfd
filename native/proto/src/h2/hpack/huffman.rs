//! Huffman strings, both ways.
//!
//! In: octets. Out: octets, appended. Limits: a string grows by 8/5 at most when decoded; a code longer than a step costs one
//! look per bit. Fails: [`HpackFault`]. Source: RFC 7541 5.2.

use super::HpackFault;
use super::huffman_code::{BITS, BY_LENGTH, CODES, EOS, IN_ORDER, LONGEST, STEP_BITS, STEPS};

/// The shortest code: what bounds how much a string grows.
const SHORTEST: usize = 5;

/// The longest padding (5.2).
const MOST_PADDING: u32 = 7;

/// Appends what `coded` means to `out`.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackFault> {
    let start = out.len();
    // One more, because a step writes two octets even when only the first is meant.
    out.resize(start + coded.len() * 8 / SHORTEST + 1, 0);
    let length = decode_into(coded, &mut out[start..])?;
    out.truncate(start + length);
    Ok(())
}

fn decode_into(coded: &[u8], out: &mut [u8]) -> Result<usize, HpackFault> {
    let mut bits = Bits { rest: coded, word: 0, count: 0 };
    let mut written = 0;
    loop {
        bits.refill();
        if bits.count < 4 * STEP_BITS {
            return finish(bits, out, written);
        }
        while bits.count >= LONGEST {
            let step = STEPS[(bits.word >> (64 - STEP_BITS)) as usize];
            if step.first == 0 {
                let (symbol, length) = long_code(bits.word);
                out[written] = octet(symbol)?;
                written += 1;
                bits.drop(length);
            } else {
                out[written..written + 2].copy_from_slice(&step.symbols);
                written += step.count();
                bits.drop(u32::from(step.all));
            }
        }
    }
}

/// The last bits, one code at a time: the last of them may be followed by padding.
fn finish(mut bits: Bits<'_>, out: &mut [u8], mut written: usize) -> Result<usize, HpackFault> {
    while bits.count > 0 {
        // Ones below the end: what is cut off reads as a code that is longer than what is left.
        let word = bits.word | u64::MAX >> bits.count;
        let step = STEPS[(word >> (64 - STEP_BITS)) as usize];
        let (symbol, length) =
            if step.first > 0 { (u16::from(step.symbols[0]), u32::from(step.first)) } else { long_code(word) };
        if length > bits.count {
            let padded = word == u64::MAX && bits.count <= MOST_PADDING;
            return if padded { Ok(written) } else { Err(HpackFault::HuffmanPadding) };
        }
        out[written] = octet(symbol)?;
        written += 1;
        bits.drop(length);
    }
    Ok(written)
}

/// The code at the head of `word`, which is longer than a step.
fn long_code(word: u64) -> (u16, u32) {
    let head = (word >> 32) as u32;
    let mut bits = STEP_BITS + 1;
    while bits < LONGEST && u64::from(head) >= BY_LENGTH[bits as usize].end {
        bits += 1;
    }
    let length = BY_LENGTH[bits as usize];
    let at = u32::from(length.offset) + ((head - length.start) >> (32 - bits));
    (IN_ORDER[at as usize], bits)
}

fn octet(symbol: u16) -> Result<u8, HpackFault> {
    if symbol == EOS { Err(HpackFault::HuffmanEos) } else { Ok(symbol as u8) }
}

/// The bits to come, the next one highest in `word`. What lies in `word` below `count` bits is a part of `rest` or zero.
struct Bits<'b> {
    rest: &'b [u8],
    word: u64,
    count: u32,
}

impl Bits<'_> {
    /// Fills the word to 56 bits at least, unless the string ends.
    fn refill(&mut self) {
        if let Some(chunk) = self.rest.first_chunk() {
            self.word |= u64::from_be_bytes(*chunk) >> self.count;
            let octets = (63 - self.count) / 8;
            self.rest = &self.rest[octets as usize..];
            self.count += octets * 8;
            return;
        }
        while self.count < 56
            && let Some((first, rest)) = self.rest.split_first()
        {
            self.word |= u64::from(*first) << (56 - self.count);
            self.count += 8;
            self.rest = rest;
        }
    }

    fn drop(&mut self, bits: u32) {
        self.word <<= bits;
        self.count -= bits;
    }
}

/// How many octets `plain` takes when coded.
pub(super) fn coded_length(plain: &[u8]) -> usize {
    let bits: usize = plain.iter().map(|octet| usize::from(BITS[usize::from(*octet)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `plain`.
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut word, mut count) = (0_u64, 0_u32);
    for octet in plain {
        let (code, bits) = CODES[usize::from(*octet)];
        word = word << bits | u64::from(code);
        count += u32::from(bits);
        if count >= 32 {
            count -= 32;
            out.extend_from_slice(&((word >> count) as u32).to_be_bytes());
        }
    }
    // The padding is the beginning of EOS: ones.
    let padding = (8 - count % 8) % 8;
    let tail = (word << padding | ((1 << padding) - 1)) << (32 - count - padding);
    out.extend_from_slice(&(tail as u32).to_be_bytes()[..(count + padding) as usize / 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, HpackFault> {
        let mut out = b"before".to_vec();
        decode(coded, &mut out)?;
        assert!(out.starts_with(b"before"));
        Ok(out.split_off(6))
    }

    #[test]
    fn codes_of_the_appendix() {
        for (octet, code, bits) in
            [(b'0', 0, 5), (b' ', 0x14, 6), (b'~', 0x1ffd, 13), (0, 0x1ff8, 13), (22, 0x3fff_fffe, 30)]
        {
            assert_eq!(CODES[usize::from(octet)], (code, bits));
        }
        assert_eq!(CODES[0xff], (0x03ff_ffee, 26));
        assert_eq!(CODES[b'\\' as usize], (0x7_fff0, 19));
    }

    #[test]
    fn every_octet_alone_in_pairs_and_in_runs_comes_back() {
        for first in 0..=255_u8 {
            for second in 0..=255_u8 {
                let plain = [first, second, b'a', first, first, second, b'0'];
                for length in 0..=plain.len() {
                    let mut coded = Vec::new();
                    encode(&plain[..length], &mut coded);
                    assert_eq!(coded.len(), coded_length(&plain[..length]));
                    assert_eq!(decoded(&coded).as_deref(), Ok(&plain[..length]));
                }
            }
        }
    }

    #[test]
    fn padding_is_ones_and_short_and_eos_never_comes() {
        // "0" is five zeros; three bits of padding follow.
        assert_eq!(decoded(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        for wrong in [&[0b0000_0110][..], &[0b0000_0011], &[0b0000_0111, 0xff], &[0xff], &[0xff, 0xff, 0xff]] {
            assert_eq!(decoded(wrong), Err(HpackFault::HuffmanPadding), "{wrong:x?}");
        }
        for eos in [&[0xff; 4][..], &[0xff; 64], &[0x07, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decoded(eos), Err(HpackFault::HuffmanEos), "{eos:x?}");
        }
    }
}
