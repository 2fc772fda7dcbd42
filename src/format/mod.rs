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
