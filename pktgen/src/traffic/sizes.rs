//! Frame sizes: one, several by weight, or the Internet mix. Counted from the Ethernet header to the last byte of
//! payload, tags included, FCS not: what the kernel counts.

use std::fmt;
use std::str::FromStr;

use crate::frame::MAX_LEN;

/// The simple IMIX, 7:4:1 of 64, 594 and 1518 bytes with FCS.
const IMIX: [(u16, u32); 3] = [(60, 7), (590, 4), (1514, 1)];

/// Sizes by weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    parts: Vec<(u16, u32)>,
    imix: bool,
}

impl Sizes {
    /// The Internet mix.
    #[must_use]
    pub fn imix() -> Self {
        Self { parts: IMIX.to_vec(), imix: true }
    }

    /// Whether all frames have one size.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.parts.len() == 1
    }

    /// Whether frames whose headers need more than their size become longer. Only the mix's smallest do.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        self.imix
    }

    /// `count` sizes in their shares, in random order.
    pub(super) fn spread(&self, count: usize, random: &mut fastrand::Rng) -> Vec<u16> {
        let weights: Vec<u32> = self.parts.iter().map(|(_, weight)| *weight).collect();
        let mut sizes: Vec<u16> =
            super::apportion(&weights, count).into_iter().map(|part| self.parts[part].0).collect();
        random.shuffle(&mut sizes);
        sizes
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self::imix());
        }
        let usage =
            || format!("{text:?} is no size: use 64, imix, or sizes by weight such as 64:7,594:4,1514:1");
        let part = |part: &str| {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let size: u16 = size.trim().parse().map_err(|_| usage())?;
            let weight: u32 = weight.trim().parse().map_err(|_| usage())?;
            match (size, weight) {
                (0, _) | (_, 0) => Err(usage()),
                (size, _) if size > MAX_LEN => Err(format!("{size} bytes: a frame has at most {MAX_LEN}")),
                part => Ok(part),
            }
        };
        let parts = text.split(',').map(part).collect::<Result<_, _>>()?;
        Ok(Self { parts, imix: false })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.imix {
            return f.write_str("imix");
        }
        match self.parts.as_slice() {
            [(size, _)] => write!(f, "{size}"),
            parts => {
                let text: Vec<_> = parts.iter().map(|(size, weight)| format!("{size}:{weight}")).collect();
                f.write_str(&text.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for text in ["64", "imix", "64:7,594:4"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
        for wrong in ["", "0", "64:0", "9020", "big", "64:"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }
}
