//! What of a pack is to be loaded.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::manifest::Tensor;
use crate::pack::Pack;

/// What of a pack is loaded. Only the bytes that it needs are read, and with them the rest of the groups that they touch, as a group is
/// verified whole.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Select {
    /// Every tensor, block by block.
    #[default]
    All,
    /// The tensors with these names.
    Names(Vec<String>),
    /// The tensors whose names begin with one of these.
    Prefixes(Vec<String>),
    /// Of each tensor the share of one rank: its rows (the first dim) cut into `of` parts that differ by one row at most, as tensor-parallel
    /// models are split. Scalars go to every rank.
    Rows {
        /// Whose share: below `of`.
        rank: u64,
        /// Among how many.
        of: u64,
    },
    /// Of the payload the share of one rank: cut at group boundaries (4 KiB where there are none) into `of` parts of one length, but for the
    /// last, which is shorter, or empty. For loaders that gather the shares over a faster link.
    Share {
        /// Whose share: below `of`.
        rank: u64,
        /// Among how many.
        of: u64,
    },
    /// These bytes of the file, all of the payload.
    Bytes(Range<u64>),
}

/// A tensor, or a part of one, to be placed on the device.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) number: usize,
    pub(super) shape: Vec<u64>,
    /// In the file.
    pub(super) range: Range<u64>,
}

/// What a selection comes to.
pub(super) enum Selected {
    /// All blocks whole.
    Blocks,
    /// Tensors or their parts, in order of names.
    Tensors(Vec<Wanted>),
    /// A run of the payload.
    Run(Range<u64>),
}

impl Select {
    pub(super) fn of(&self, pack: &Pack) -> Result<Selected> {
        match self {
            Select::All => Ok(Selected::Blocks),
            Select::Names(names) => {
                let mut numbers = names.iter().map(|name| number_of(pack, name)).collect::<Result<Vec<usize>>>()?;
                numbers.sort_unstable();
                numbers.dedup();
                let tensors = numbers.into_iter().filter_map(|number| Some(whole(number, &pack.manifest().nth(number)?)));
                Ok(Selected::Tensors(tensors.collect()))
            }
            Select::Prefixes(prefixes) => {
                let chosen = |tensor: &Tensor<'_>| prefixes.iter().any(|prefix| tensor.name.starts_with(prefix.as_str()));
                let tensors = pack.tensors().enumerate().filter(|(_, tensor)| chosen(tensor));
                Ok(Selected::Tensors(tensors.map(|(number, tensor)| whole(number, &tensor)).collect()))
            }
            Select::Rows { rank, of } => {
                check_rank(*rank, *of)?;
                let parts = pack.tensors().enumerate().map(|(number, tensor)| rows(number, &tensor, *rank, *of));
                Ok(Selected::Tensors(parts.collect::<Result<_>>()?))
            }
            Select::Share { rank, of } => share(pack, *rank, *of).map(Selected::Run),
            Select::Bytes(range) => {
                let payload = pack.manifest().payload();
                if range.start > range.end || range.start < payload.start || range.end > payload.end {
                    let message =
                        format!("bytes {} to {} are not all of the payload, which is {payload:?}", range.start, range.end);
                    return Err(Error::Input(message));
                }
                Ok(Selected::Run(range.clone()))
            }
        }
    }
}

fn number_of(pack: &Pack, name: &str) -> Result<usize> {
    pack.manifest().number_of(name).ok_or_else(|| Error::NoSuchTensor(name.to_owned()))
}

pub(super) fn whole(number: usize, tensor: &Tensor<'_>) -> Wanted {
    Wanted { number, shape: tensor.shape.to_vec(), range: tensor.range() }
}

fn check_rank(rank: u64, of: u64) -> Result<()> {
    if rank < of { Ok(()) } else { Err(Error::Input(format!("there is no rank {rank} of {of}: ranks count from 0"))) }
}

/// The rows `rank` of `of` of a tensor.
fn rows(number: usize, tensor: &Tensor<'_>, rank: u64, of: u64) -> Result<Wanted> {
    let mut wanted = whole(number, tensor);
    let Some(dim) = wanted.shape.first_mut() else { return Ok(wanted) };
    // In 128 bits no product of two of these overflows.
    let cut = |rank: u64| u128::from(*dim).saturating_mul(rank.into()).checked_div(of.into()).unwrap_or_default();
    let (first, end) = (cut(rank), cut(rank.saturating_add(1)));
    let byte = |row: u128| {
        let bytes = row.saturating_mul(tensor.length.into());
        let (at, rest) =
            (bytes.checked_div((*dim).into()).unwrap_or_default(), bytes.checked_rem((*dim).into()).unwrap_or_default());
        if rest == 0 { u64::try_from(at).ok() } else { None }
    };
    let (Some(start), Some(stop)) = (byte(first), byte(end)) else {
        return Err(Error::Input(format!("the rows of tensor {:?} are not whole bytes: it cannot be cut", tensor.name)));
    };
    *dim = u64::try_from(end.saturating_sub(first)).unwrap_or_default();
    wanted.range = tensor.offset.saturating_add(start)..tensor.offset.saturating_add(stop);
    Ok(wanted)
}

fn share(pack: &Pack, rank: u64, of: u64) -> Result<Range<u64>> {
    const UNIT: u64 = 4096;
    check_rank(rank, of)?;
    let payload = pack.manifest().payload();
    let unit = pack.manifest().group_size().unwrap_or(UNIT);
    let length = payload.end.saturating_sub(payload.start).div_ceil(of).checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let cut = |rank: u64| payload.start.saturating_add(length.saturating_mul(rank)).min(payload.end);
    Ok(cut(rank)..cut(rank.saturating_add(1)))
}
