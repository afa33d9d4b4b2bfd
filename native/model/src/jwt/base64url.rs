//! base64url without padding, read strictly: one text for each value and no other.
//!
//! In: text.  Out: bytes, and back.  Fails: `NotBase64`, for padding, another alphabet, white space or bits left over.
//! Source: RFC 4648 §3.5 and §5, RFC 7515 §2; attack case JW-11.

/// The text is not base64url of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBase64;

/// Decodes.
///
/// # Errors
/// The text has another form than the one that encoding gives.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, NotBase64> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.chunks(4) {
        let mut bits = 0_u32;
        for letter in chunk {
            bits = bits << 6 | u32::from(sextet(*letter).ok_or(NotBase64)?);
        }
        let (count, unused) = match chunk.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return Err(NotBase64),
        };
        if bits & ((1 << unused) - 1) != 0 {
            return Err(NotBase64);
        }
        bits >>= unused;
        bytes.extend_from_slice(&bits.to_be_bytes()[4 - count..]);
    }
    Ok(bytes)
}

/// Encodes with the standard alphabet and padding, as Envoy sends claims that are lists or objects.
pub(crate) fn encode_standard(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for letter in 0..4 {
            let filled = letter <= chunk.len();
            text.push(if filled { STANDARD[(bits >> (18 - 6 * letter)) as usize & 63] } else { b'=' });
        }
    }
    text
}

fn sextet(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jw_11_a_value_has_one_text() {
        assert_eq!(decode(b"Zm9v"), Ok(b"foo".to_vec()));
        assert_eq!(decode(b"Zm8"), Ok(b"fo".to_vec()));
        assert_eq!(decode(b"-_8"), Ok(vec![0xfb, 0xff]));
        for other in [&b"Zm8="[..], b"Zm9", b"Zm9vZ", b"+/8", b"Zm 9v", b"Zm9v\n", b"Zh", b"="] {
            assert_eq!(decode(other), Err(NotBase64), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn the_standard_form_is_padded() {
        assert_eq!(encode_standard(b"[\"g1\",\"g2\"]"), b"WyJnMSIsImcyIl0=");
        assert_eq!(encode_standard(b"f"), b"Zg==");
        assert_eq!(encode_standard(b"foo"), b"Zm9v");
    }
}
