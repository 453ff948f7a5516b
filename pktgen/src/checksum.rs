//! The Internet checksum (RFC 1071), for frames as they come and go: verification and change in place (RFC 1624).

/// The one's complement sum of the bytes as big-endian words, folded; 0xffff for data with its right checksum.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let mut sum: u64 = words.by_ref().map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum after one of the words it covers went from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
    }

    proptest! {
        #[test]
        fn an_update_is_as_good_as_a_new_sum(mut data in prop::collection::vec(any::<u8>(), 20), new: u16) {
            data[0] = 0x45;
            let before = !sum(&data);
            let old = u16::from_be_bytes([data[6], data[7]]);
            data[6..8].copy_from_slice(&new.to_be_bytes());
            let whole = !sum(&data);
            let quick = updated(before, old, new);
            // 0 and 0xffff are the same number in one's complement.
            prop_assert!(quick == whole || (quick ^ whole) == 0xffff && (quick == 0 || whole == 0));
        }
    }
}
