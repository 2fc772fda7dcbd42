//! Bytes to records and back, as the spec lays them out. No I/O and no policy: what a record means is for `parse` to say.

pub mod footer;
pub mod header;
pub mod tables;
pub mod trailer;

/// Blocks, the payload and the header page of a sealed file are multiples of this many bytes.
pub const PAGE: u64 = 4096;

/// The largest offset, length or count in any layout: what a double, and so any JSON reader, holds exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// `value` rounded up to a multiple of `unit`; `None` on overflow or for a unit of 0.
#[must_use]
pub fn round_up(value: u64, unit: u64) -> Option<u64> {
    // Most units are powers of two, and a division for each tensor is what opening a large pack would mostly do.
    if unit.is_power_of_two() {
        let low = unit.checked_sub(1)?;
        return Some(value.checked_add(low)? & !low);
    }
    match value.checked_rem(unit)? {
        0 => Some(value),
        rest => value.checked_add(unit.checked_sub(rest)?),
    }
}

/// Where the first byte other than zero is. Mostly there is none, which is seen many bytes at a time.
pub(crate) fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    let any = bytes.iter().fold(0, |any, byte| any | byte);
    if any == 0 { None } else { bytes.iter().position(|&byte| byte != 0) }
}

/// The number of elements of a shape: 1 for a scalar, 0 if any dim is 0. `None` when the product of the dims other than zero is over
/// 2^53 - 1 (`TENSOR-SHAPE-01`).
#[must_use]
pub fn element_count(dims: impl Iterator<Item = u64>) -> Option<u64> {
    let mut product = 1_u64;
    let mut empty = false;
    for dim in dims {
        match dim {
            0 => empty = true,
            dim => product = product.checked_mul(dim).filter(|&product| product <= MAX_INTEGER)?,
        }
    }
    Some(if empty { 0 } else { product })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    /// Every small number, every power of two with its neighbours, and the largest ones: where sums and products go wrong.
    fn numbers() -> Vec<u64> {
        let powers = (0..64).flat_map(|log2| {
            let power = 1_u64 << log2;
            [power - 1, power, power + 1]
        });
        let mut numbers: Vec<u64> = (0..130).chain(powers).chain(u64::MAX - 130..=u64::MAX).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// What exact arithmetic gives, if it fits.
    fn fits(exact: Option<u128>) -> Option<u64> {
        exact.and_then(|exact| u64::try_from(exact).ok())
    }

    #[test]
    fn rounding_up_is_exact_or_none() {
        for &value in &numbers() {
            for &unit in &numbers() {
                let exact = u128::from(value).div_ceil(u128::from(unit.max(1))) * u128::from(unit);
                assert_eq!(round_up(value, unit), fits((unit > 0).then_some(exact)), "{value} to {unit}");
            }
        }
    }

    #[test]
    fn element_counts_are_exact_or_none() {
        let numbers = numbers();
        for &a in &numbers {
            for &b in &numbers {
                let product = u128::from(a) * u128::from(b);
                for dims in [[a, b, 1], [1, a, b], [a, 0, b]] {
                    let expected = if dims.contains(&0) {
                        // The dims other than zero must fit all the same: a reader multiplies them.
                        let rest = dims.iter().filter(|&&dim| dim > 0).fold(1_u128, |product, &dim| product * u128::from(dim));
                        (rest <= u128::from(MAX_INTEGER)).then_some(0)
                    } else {
                        fits(Some(product)).filter(|&count| count <= MAX_INTEGER)
                    };
                    assert_eq!(element_count(dims.into_iter()), expected, "{dims:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_and_elements_are_exact_or_none() {
        for &dtype in Dtype::ALL {
            let bits = u128::from(dtype.bits());
            for &number in &numbers() {
                let exact = u128::from(number) * bits;
                let bytes = dtype.bytes_of(number);
                // For elements smaller than a byte a product over 2^64 bits is none; packs end far below.
                if bits >= 8 || exact <= u128::from(u64::MAX) {
                    assert_eq!(bytes, fits(exact.is_multiple_of(8).then_some(exact / 8)), "{number} {dtype}");
                } else {
                    assert_eq!(bytes, None);
                }
                if let Some(bytes) = bytes.filter(|&bytes| bytes <= MAX_INTEGER) {
                    assert_eq!(dtype.elements_in(bytes), Some(number), "{bytes} bytes of {dtype}");
                }
                let unit = dtype.rounding_unit(number);
                if let Some(unit) = unit {
                    // The smallest that is a multiple of the alignment and holds whole elements.
                    let good =
                        |unit: u128| (number == 0 || unit.is_multiple_of(number.into())) && (unit * 8).is_multiple_of(bits);
                    assert!(unit > 0 && good(unit.into()), "{unit} for {number} of {dtype}");
                    let step = u128::from(number.max(1));
                    assert!((1..).map(|k| k * step).take_while(|&less| less < unit.into()).take(200).all(|less| !good(less)));
                }
            }
        }
    }
}
