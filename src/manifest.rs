//! What a pack contains, whatever its layout: the hall that every path crosses.
//!
//! `parse` makes a [`Manifest`] from a file and `plan` makes one from tensors; nothing else does. So whoever holds one may rely on
//! it: every tensor lies within its block, every block within the payload, lengths fit shapes, names are unique.

use std::fmt;
use std::ops::Range;

use zerocopy::little_endian::U64;

use crate::dtype::Dtype;
use crate::format::footer::{BlockEntry, Footer, Form, IndexEntry};
use crate::format::header::Section;
use crate::format::tables::{BlockRecord, Digest, Tables, TensorRecord, metadata_pairs};
use crate::rule::Layout;

/// What a pack contains, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) layout: Layout,
    pub(crate) alignment: u64,
    /// Log2 of the digest group size; 0 in layouts that have none.
    pub(crate) group_log2: u8,
    pub(crate) payload: Section,
    pub(crate) tables: Tables,
}

/// A run of tensors of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The dtype of all its tensors.
    pub dtype: Dtype,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A tensor of a pack: its name and where its bytes lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dims.
    pub shape: Shape<'a>,
    /// The number of its block.
    pub block: usize,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Tensor<'_> {
    /// Where its bytes lie in the file.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {} at {:?}", self.name, self.dtype, self.shape, self.range())
    }
}

/// The dims of a tensor. A scalar has none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape<'a>(pub(crate) &'a [U64]);

impl Shape<'_> {
    /// The dims, outermost first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.0.iter().map(|dim| dim.get())
    }

    /// The dims, outermost first.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u64> {
        self.iter().collect()
    }

    /// Number of dims.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:?}", self.to_vec()))
    }
}

impl fmt::Debug for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Manifest {
    /// The layout of the file.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The alignment of tensors in their block, in bytes; 0 for none.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The size of a digest group in bytes; `None` in layouts that have none.
    #[must_use]
    pub fn group_size(&self) -> Option<u64> {
        (self.layout == Layout::Sealed).then(|| 1_u64.checked_shl(self.group_log2.into())).flatten()
    }

    /// Where the payload lies in the file, in bytes: all blocks and the fill between them.
    #[must_use]
    pub fn payload(&self) -> Range<u64> {
        self.payload.offset..self.payload.offset.saturating_add(self.payload.length)
    }

    /// The BLAKE3 of each group of the payload; none in layouts that have none.
    #[must_use]
    pub fn group_digests(&self) -> &[Digest] {
        self.tables.digests()
    }

    /// The blocks, in file order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = Block> + '_ {
        self.tables.blocks().iter().map(block)
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.tensors().len()
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensors, by name in order of bytes.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> + '_ {
        self.tables.tensors().iter().map(|record| self.view(record))
    }

    /// The tensor with this name. Takes time logarithmic in the number of tensors.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.number_of(name).and_then(|number| self.nth(number))
    }

    /// The tensor with this number in order of names.
    #[must_use]
    pub fn nth(&self, number: usize) -> Option<Tensor<'_>> {
        self.tables.tensors().get(number).map(|record| self.view(record))
    }

    /// The number, in order of names, of the tensor with this name.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<usize> {
        let names = self.tables.names();
        self.tables.tensors().binary_search_by(|record| name_bytes(names, record).cmp(name.as_bytes())).ok()
    }

    /// Key and value of all metadata, by key. Only sealed files have any.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> + '_ {
        metadata_pairs(self.tables.metadata())
            .filter_map(Result::ok)
            .filter_map(|(_, key, value)| Some((str::from_utf8(key).ok()?, str::from_utf8(value).ok()?)))
    }

    /// The numbers of all tensors in tiling order (spec clause `TENSOR-TILE-01`): by block, offset, empty ones first, name.
    #[must_use]
    pub fn tiling_order(&self) -> Vec<u32> {
        tiling_order(self.tables.tensors())
    }

    /// The footer that belongs to this manifest, with the index in the given order.
    pub(crate) fn footer(&self, order: &[u32]) -> Footer<'_> {
        let macroblocks: Vec<_> = self
            .blocks()
            .map(|block| BlockEntry {
                dtype: block.dtype.name(),
                offset_bytes: block.offset,
                length_bytes: block.length,
                length_elems: block.dtype.elements_in(block.length).unwrap_or_default(),
            })
            .collect();
        let index = order
            .iter()
            .filter_map(|&number| {
                let record = self.tables.tensors().get(usize::try_from(number).ok()?)?;
                let tensor = self.view(record);
                let elements = |bytes| tensor.dtype.elements_in(bytes).unwrap_or_default();
                Some(IndexEntry {
                    name: tensor.name,
                    shape: tensor.shape.0,
                    offset: elements(record.offset.get()),
                    length: elements(record.length.get()),
                    macroblock: record.block.get(),
                })
            })
            .collect();
        Footer {
            form: match self.layout {
                Layout::V3 => Form::V3,
                Layout::V4 => Form::V4,
                Layout::Sealed => Form::Sealed,
            },
            align_bytes: self.alignment,
            total_payload_bytes: self.payload().end,
            total_elems: macroblocks.iter().fold(0, |sum: u64, block| sum.saturating_add(block.length_elems)),
            macroblocks,
            index,
        }
    }

    fn view(&self, record: &TensorRecord) -> Tensor<'_> {
        let number = usize::from(record.block.get());
        let block = self.tables.blocks().get(number).map(block);
        Tensor {
            name: str::from_utf8(name_bytes(self.tables.names(), record)).unwrap_or_default(),
            dtype: block.map_or(Dtype::UInt8, |block| block.dtype),
            shape: Shape(dims(self.tables.dims(), record)),
            block: number,
            offset: block.map_or(0, |block| block.offset).saturating_add(record.offset.get()),
            length: record.length.get(),
        }
    }
}

fn block(record: &BlockRecord) -> Block {
    Block {
        dtype: Dtype::from_code(record.dtype.get()).unwrap_or(Dtype::UInt8),
        offset: record.offset.get(),
        length: record.length.get(),
    }
}

/// The name of a tensor in the names section; empty when it does not lie within.
pub(crate) fn name_bytes<'a>(names: &'a [u8], record: &TensorRecord) -> &'a [u8] {
    slice(names, record.name_offset.get(), record.name_length.get())
}

/// The dims of a tensor in the dims section; none when they do not lie within.
pub(crate) fn dims<'a>(dims: &'a [U64], record: &TensorRecord) -> &'a [U64] {
    slice(dims, record.first_dim.get(), record.rank.get().into())
}

fn slice<T>(all: &[T], start: u32, length: u32) -> &[T] {
    let range = usize::try_from(start).ok().and_then(|start| Some(start..start.checked_add(usize::try_from(length).ok()?)?));
    range.and_then(|range| all.get(range)).unwrap_or_default()
}

/// The numbers of records in tiling order: by block, offset, empty ones first, number (which in sorted tables is by name).
pub(crate) fn tiling_order(records: &[TensorRecord]) -> Vec<u32> {
    // One integer a record, sorted as it is, is several times faster than comparing records; and 64 bits, which is enough for packs of
    // any usual size, twice as fast as 128.
    let bits = |all: u64| u64::BITS.saturating_sub(all.leading_zeros());
    // The bits of all values together take as much room as the largest value does.
    let union =
        |(offsets, blocks): (u64, u16), record: &TensorRecord| (offsets | record.offset.get(), blocks | record.block.get());
    let (offsets, blocks) = records.iter().fold((0, 0), union);
    let number_bits = bits(records.len() as u64);
    let flag_shift = number_bits;
    let offset_shift = flag_shift.saturating_add(1);
    let block_shift = offset_shift.saturating_add(bits(offsets));
    let numbered = (0_u32..).zip(records);
    if block_shift.saturating_add(bits(blocks.into())) <= u64::BITS {
        let key = |(number, record): (u32, &TensorRecord)| {
            u64::from(record.block.get()).unbounded_shl(block_shift)
                | record.offset.get().unbounded_shl(offset_shift)
                | u64::from(record.length.get() > 0).unbounded_shl(flag_shift)
                | u64::from(number)
        };
        let mut keys: Vec<u64> = numbered.map(key).collect();
        keys.sort_unstable();
        let number = !u64::MAX.unbounded_shl(number_bits);
        keys.into_iter().map(|key| u32::try_from(key & number).unwrap_or(u32::MAX)).collect()
    } else {
        let key = |(number, record): (u32, &TensorRecord)| {
            (u128::from(record.block.get()) << block_shift)
                | (u128::from(record.offset.get()) << offset_shift)
                | (u128::from(record.length.get() > 0) << flag_shift)
                | u128::from(number)
        };
        let mut keys: Vec<u128> = numbered.map(key).collect();
        keys.sort_unstable();
        let number = !(u128::MAX << number_bits);
        keys.into_iter().map(|key| u32::try_from(key & number).unwrap_or(u32::MAX)).collect()
    }
}
