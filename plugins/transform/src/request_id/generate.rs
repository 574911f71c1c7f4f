//! Ids. The surprise: randomness is the thread's own generator (ChaCha, seeded by the system), as a system call per
//! request would cost more than everything else here.
use std::cell::Cell;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The text form of RFC 9562 section 4.
fn uuid_text(bytes: [u8; 16]) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        if let Some([high, low]) = text.get_mut(at..at + 2) {
            *high = HEX[usize::from(byte >> 4)];
            *low = HEX[usize::from(byte & 15)];
        }
        at += 2;
    }
    text
}

/// A random UUID (RFC 9562 section 5.4).
pub(super) fn uuid_v4() -> [u8; 36] {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    uuid_text(bytes)
}

thread_local! {
    /// The last `uuidv7`'s millisecond and its number within that (18 bits).
    static LAST: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// A UUID of this millisecond (RFC 9562 section 5.7 with method 1 of 6.2). Ids of one thread only grow: within a
/// millisecond, and while the clock goes back, they are numbered; when the numbers run out, the time is taken as one on.
pub(super) fn uuid_v7(millis: u64) -> [u8; 36] {
    let (last, number) = LAST.get();
    let (millis, number) = match number {
        _ if millis > last => (millis, 0),
        0..0x3_ffff => (last, number + 1),
        _ => (last + 1, 0),
    };
    LAST.set((millis, number));
    let random = u128::from(rand::random::<u64>() >> 8);
    let (high, low) = (u128::from(number >> 6), u128::from(number & 0x3f));
    let bits = u128::from(millis & 0xffff_ffff_ffff) << 80 | (0x7000 | high) << 64 | (0x80 | low) << 56 | random;
    uuid_text(bits.to_be_bytes())
}

/// 21 characters of 64: 126 random bits.
pub(super) fn nanoid() -> [u8; 21] {
    const ALPHABET: &[u8; 64] = b"-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bits: u128 = rand::random();
    std::array::from_fn(|_| {
        let character = ALPHABET[(bits & 63) as usize];
        bits >>= 6;
        character
    })
}

/// So many bytes of a set.
pub(super) fn range_id(length: usize, set: &[u8]) -> Vec<u8> {
    let mut random = rand::rng();
    (0..length).filter_map(|_| set.get(rand::Rng::random_range(&mut random, 0..set.len().max(1))).copied()).collect()
}

/// A KSUID: seconds since 2014-05-13 and 128 random bits, 27 digits to the base of 62.
pub(super) fn ksuid(seconds: u64) -> [u8; 27] {
    ksuid_of(seconds.saturating_sub(1_400_000_000) as u32, rand::random())
}

fn ksuid_of(seconds: u32, random: u128) -> [u8; 27] {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // Five words of 32 bits, divided by 62 again and again.
    let mut words = [seconds, (random >> 96) as u32, (random >> 64) as u32, (random >> 32) as u32, random as u32];
    let mut text = [b'0'; 27];
    for digit in text.iter_mut().rev() {
        let mut rest = 0u64;
        for word in &mut words {
            let value = rest << 32 | u64::from(*word);
            *word = (value / 62) as u32;
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn known_ksuids() {
        // The largest one, and the example of the KSUID specification (segmentio/ksuid).
        assert_eq!(&ksuid_of(u32::MAX, u128::MAX), b"aWgEPTl1tmebfsQzFP4bxwgy80V");
        assert_eq!(&ksuid_of(0, 0), b"000000000000000000000000000");
        assert_eq!(&ksuid_of(107_608_047, 0xB5A1_CD34_B5F9_9D11_54FB_6853_345C_9735), b"0ujtsYcgvSTl8PAuAdqWYSMnLOv");
    }

    #[test]
    fn ids_do_not_repeat() {
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        for _ in 0..2000 {
            assert!(seen.insert(uuid_v4().to_vec()));
            assert!(seen.insert(uuid_v7(1).to_vec()));
            assert!(seen.insert(nanoid().to_vec()));
            assert!(seen.insert(ksuid(1_700_000_000).to_vec()));
            assert!(seen.insert(range_id(16, b"abcdefghijklmnop")));
        }
    }

    proptest! {
        #[test]
        fn uuid_v7_only_grows(times in prop::collection::vec(1_600_000_000_000u64..1_600_000_000_050, 1..100)) {
            LAST.set((0, 0));
            let ids: Vec<_> = times.iter().map(|t| uuid_v7(*t)).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b));
            for id in ids {
                prop_assert_eq!(id[14], b'7');
                prop_assert!(matches!(id[19], b'8' | b'9' | b'a' | b'b'));
            }
        }
    }

    #[test]
    fn uuid_v7_goes_on_when_numbers_run_out() {
        LAST.set((5, 0x3_ffff));
        let before = uuid_v7(5);
        assert_eq!(LAST.get(), (6, 0));
        assert!(before < uuid_v7(5));
    }
}
