//! Where each byte goes: a selection -> regions of device memory, and the chunks in which they are filled. Pure.

use std::ops::Range;

use super::select::{Select, Selected, Wanted, whole};
use crate::error::{Error, Result};
use crate::pack::Pack;

/// Tensors keep their place relative to this unit, so a tensor is as well aligned on the device as it is in the file.
const ALIGNMENT: u64 = 512;

/// A selection laid out on a device.
pub(super) struct Schedule {
    /// The lengths of the allocations.
    pub(super) regions: Vec<Region>,
    /// In order of names.
    pub(super) tensors: Vec<Placed>,
    /// In file order.
    pub(super) chunks: Vec<Chunk>,
    /// Bytes that go to the device.
    pub(super) bytes: u64,
}

/// One allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) length: u64,
    /// Whether copies fill all of it.
    pub(super) filled: bool,
}

/// A tensor, or a part of one, and where it lies on the device.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) number: usize,
    pub(super) shape: Vec<u64>,
    /// In the file.
    pub(super) range: Range<u64>,
    pub(super) region: usize,
    pub(super) offset: u64,
}

/// What is read, verified and sent in one go.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// In the file.
    pub(super) range: Range<u64>,
    /// The groups of which it consists, if it is verified.
    pub(super) groups: Range<u64>,
    pub(super) pieces: Vec<Piece>,
}

/// A part of a chunk that goes to one place.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// In the file, within the chunk's.
    pub(super) range: Range<u64>,
    pub(super) region: usize,
    /// Within the region.
    pub(super) offset: u64,
}

/// A run of the file's bytes and where it goes. Runs are in file order and apart.
struct Segment {
    range: Range<u64>,
    region: usize,
    offset: u64,
}

impl Schedule {
    /// Lays out what is selected. A chunk has at most `chunk_bytes` bytes, but at least one group if reads are verified.
    pub(super) fn new(pack: &Pack, select: &Select, chunk_bytes: u64) -> Result<Schedule> {
        let (regions, segments, tensors) = match select.of(pack)? {
            Selected::Blocks => blocks(pack),
            Selected::Tensors(wanted) => gathered(wanted)?,
            Selected::Run(range) => run(pack, range),
        };
        let unit = if pack.is_verified() { pack.manifest().group_size() } else { None };
        let chunks = chunks(&segments, &pack.manifest().payload(), unit, chunk_bytes);
        let bytes = segments.iter().map(|segment| length(&segment.range)).fold(0, u64::saturating_add);
        Ok(Schedule { regions, tensors, chunks, bytes })
    }
}

pub(super) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// One region a block.
fn blocks(pack: &Pack) -> (Vec<Region>, Vec<Segment>, Vec<Placed>) {
    let manifest = pack.manifest();
    let blocks: Vec<_> = manifest.blocks().collect();
    let regions = blocks.iter().map(|block| Region { length: block.length, filled: true }).collect();
    let mut segments: Vec<Segment> = blocks
        .iter()
        .enumerate()
        .map(|(region, block)| Segment { range: block.offset..block.offset.saturating_add(block.length), region, offset: 0 })
        .filter(|segment| !segment.range.is_empty())
        .collect();
    segments.sort_unstable_by_key(|segment| segment.range.start);
    let place = |(number, tensor)| {
        let tensor: crate::manifest::Tensor<'_> = tensor;
        let start = blocks.get(tensor.block).map_or(0, |block| block.offset);
        let Wanted { number, shape, range } = whole(number, &tensor);
        Placed { number, shape, range, region: tensor.block, offset: tensor.offset.saturating_sub(start) }
    };
    (regions, segments, manifest.tensors().enumerate().map(place).collect())
}

/// One region for all: the tensors' runs one after the other.
fn gathered(wanted: Vec<Wanted>) -> Result<(Vec<Region>, Vec<Segment>, Vec<Placed>)> {
    let mut ranges: Vec<Range<u64>> =
        wanted.iter().map(|wanted| wanted.range.clone()).filter(|range| !range.is_empty()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut segments: Vec<Segment> = Vec::new();
    let (mut end, mut covered) = (0_u64, 0_u64);
    for range in ranges {
        if let Some(last) = segments.last_mut().filter(|last| range.start <= last.range.end) {
            let longer = range.end.saturating_sub(last.range.end);
            last.range.end = last.range.end.max(range.end);
            (end, covered) = (end.saturating_add(longer), covered.saturating_add(longer));
            continue;
        }
        let phase = range.start.checked_rem(ALIGNMENT).unwrap_or_default();
        let offset =
            end.checked_next_multiple_of(ALIGNMENT).and_then(|offset| offset.checked_add(phase)).ok_or_else(too_large)?;
        end = offset.checked_add(length(&range)).ok_or_else(too_large)?;
        covered = covered.saturating_add(length(&range));
        segments.push(Segment { range, region: 0, offset });
    }
    let place = |wanted: Wanted| {
        let found = segments.partition_point(|segment| segment.range.start <= wanted.range.start);
        let segment = found.checked_sub(1).and_then(|last| segments.get(last));
        let within =
            segment.map_or(0, |segment| segment.offset.saturating_add(wanted.range.start.saturating_sub(segment.range.start)));
        let offset = if wanted.range.is_empty() { 0 } else { within };
        Placed { number: wanted.number, shape: wanted.shape, range: wanted.range, region: 0, offset }
    };
    let tensors = wanted.into_iter().map(place).collect();
    Ok((vec![Region { length: end, filled: covered == end }], segments, tensors))
}

/// One region: a run of the file, and the tensors that lie in it whole.
fn run(pack: &Pack, range: Range<u64>) -> (Vec<Region>, Vec<Segment>, Vec<Placed>) {
    let region = Region { length: length(&range), filled: true };
    let within = |tensor: &crate::manifest::Tensor<'_>| tensor.range().start >= range.start && tensor.range().end <= range.end;
    let place = |(number, tensor): (usize, crate::manifest::Tensor<'_>)| {
        let offset = tensor.offset.saturating_sub(range.start);
        Placed { number, shape: tensor.shape.to_vec(), range: tensor.range(), region: 0, offset }
    };
    let tensors = pack.tensors().enumerate().filter(|(_, tensor)| within(tensor)).map(place).collect();
    let segments = if range.is_empty() { Vec::new() } else { vec![Segment { range, region: 0, offset: 0 }] };
    (vec![region], segments, tensors)
}

fn too_large() -> Error {
    Error::Input("the selection is larger than any memory".into())
}

/// Cuts the segments, widened to whole groups, into chunks.
fn chunks(segments: &[Segment], payload: &Range<u64>, unit: Option<u64>, chunk_bytes: u64) -> Vec<Chunk> {
    let size = chunk_size(unit, chunk_bytes);
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut rest = segments.iter().peekable();
    // Where the segment that comes next is cut already.
    let mut cursor = 0;
    while let Some(segment) = rest.peek() {
        let from = segment.range.start.max(cursor);
        let start = unit.map_or(from, |unit| payload.start.saturating_add(down(from.saturating_sub(payload.start), unit)));
        let most = start.saturating_add(size).min(payload.end);
        let mut chunk = Chunk { range: start..start, groups: 0..0, pieces: Vec::new() };
        // Segments that follow join in while they begin in the groups that are read anyway.
        while let Some(segment) = rest.peek() {
            let from = segment.range.start.max(cursor);
            if from >= most || (from > chunk.range.end && !chunk.pieces.is_empty()) {
                break;
            }
            let to = segment.range.end.min(most);
            let offset = segment.offset.saturating_add(from.saturating_sub(segment.range.start));
            chunk.pieces.push(Piece { range: from..to, region: segment.region, offset });
            let end = unit.map_or(to, |unit| {
                let within = to.saturating_sub(payload.start);
                payload.start.saturating_add(within.checked_next_multiple_of(unit).unwrap_or(u64::MAX)).min(payload.end)
            });
            chunk.range.end = chunk.range.end.max(end);
            cursor = to;
            if to < segment.range.end {
                break;
            }
            rest.next();
        }
        if let Some(unit) = unit {
            let number = |offset: u64| offset.saturating_sub(payload.start).div_ceil(unit);
            chunk.groups = number(chunk.range.start)..number(chunk.range.end);
        }
        chunks.push(chunk);
    }
    chunks
}

/// The most bytes of a chunk: whole groups.
pub(super) fn chunk_size(unit: Option<u64>, chunk_bytes: u64) -> u64 {
    unit.map_or(chunk_bytes, |unit| down(chunk_bytes, unit).max(unit)).max(1)
}

fn down(offset: u64, unit: u64) -> u64 {
    offset.saturating_sub(offset.checked_rem(unit).unwrap_or_default())
}
