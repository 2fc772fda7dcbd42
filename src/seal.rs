//! Digests: the pack id, the tables, the footer, the groups of the payload (spec chapter 12).
//!
//! All are plain BLAKE3 of plain byte ranges. The chain is pack id -> tables digest -> group digests -> payload, and pack id ->
//! footer digest -> footer, so a caller who pins the id pins every byte.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::format::tables::Digest;
use crate::manifest::Manifest;
use crate::rule::{self, Violation};

/// The smallest and largest log2 of a digest group's size in bytes (spec clause `SEAL-HDR-07`).
pub const GROUP_LOG2: std::ops::RangeInclusive<u8> = 16..=26;

/// The BLAKE3 of a sealed file's header, which determines every byte of the file: the thing to pin or sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub [u8; 32]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no pack id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a pack id is 64 hexadecimal digits")]
pub struct NotAPackId;

impl FromStr for PackId {
    type Err = NotAPackId;

    fn from_str(text: &str) -> Result<PackId, NotAPackId> {
        blake3::Hash::from_hex(text).map(|hash| PackId(*hash.as_bytes())).map_err(|_| NotAPackId)
    }
}

/// The BLAKE3 of bytes, on all cores where there are enough of them to pay.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    // Below this, handing work to other threads takes longer than doing it.
    const PAYS: usize = 1 << 20;
    let mut hasher = blake3::Hasher::new();
    if bytes.len() < PAYS {
        hasher.update(bytes);
    } else {
        hasher.update_rayon(bytes);
    }
    *hasher.finalize().as_bytes()
}

/// The number of groups in a payload of `length` bytes.
pub(crate) fn group_count(length: u64, group_log2: u8) -> Option<u64> {
    let size = 1_u64.checked_shl(group_log2.into())?;
    Some(length.div_ceil(size))
}

/// Where group `number` lies in the file; empty for a number that the payload does not have.
pub(crate) fn group_range(manifest: &Manifest, number: u64) -> Range<u64> {
    let payload = manifest.payload();
    let size = manifest.group_size().unwrap_or_default();
    let start = payload.start.saturating_add(number.saturating_mul(size)).min(payload.end);
    start..start.saturating_add(size).min(payload.end)
}

/// Compares a group's bytes with its digest.
///
/// # Errors
/// `SEAL-INT-01`, with the group's offset. Which tensor lies there is for the caller to say, who may have many groups to look up.
pub(crate) fn check_group(manifest: &Manifest, number: u64, bytes: &[u8]) -> Result<(), Box<Violation>> {
    let expected = usize::try_from(number).ok().and_then(|number| manifest.group_digests().get(number));
    // `blake3::Hash` compares in constant time, which costs nothing here.
    if expected.is_some_and(|expected| blake3::hash(bytes) == *expected) {
        return Ok(());
    }
    let range = group_range(manifest, number);
    let message = format!("the bytes of group {number} ({} to {}) are not those that were sealed", range.start, range.end);
    Err(Box::new(Violation::new(&rule::SEAL_INT_GROUP, range.start, message)))
}

/// The tensor with bytes in a range that begins first.
pub(crate) fn first_tensor_in(manifest: &Manifest, range: &Range<u64>) -> Option<String> {
    let touched =
        manifest.tensors().filter(|tensor| tensor.length > 0 && tensor.offset < range.end && tensor.range().end > range.start);
    touched.min_by_key(|tensor| tensor.offset).map(|tensor| tensor.name.to_owned())
}
