//! Tensors and options to a [`Plan`]: where every byte of the file will be. Pure: nothing is read or written.
//!
//! The same tensors and options give the same plan, whatever order a sealed file's tensors come in (spec chapter 13).

use std::collections::BTreeMap;

use zerocopy::little_endian::U64;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::format::header::{self, Header, Section, Sections};
use crate::format::tables::{BLOCK_SIZE, BlockRecord, DIGEST_SIZE, DIM_SIZE, TENSOR_SIZE, Tables, TensorRecord, push_metadata};
use crate::format::trailer;
use crate::format::{MAX_INTEGER, PAGE, element_count, round_up};
use crate::limits::Limits;
use crate::manifest::{Manifest, tiling_order};
use crate::rule::Layout;
use crate::seal::{self, GROUP_LOG2};

/// What a pack is to hold: the description of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the pack.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dims; none for a scalar.
    pub shape: Vec<u64>,
}

impl TensorInfo {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<u64>>) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    /// Number of elements: 1 for a scalar. `None` when it, or the product of the dims other than zero, is over 2^53 - 1.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        element_count(self.shape.iter().copied())
    }

    /// Length in bytes; `None` when it is over 2^53 - 1 or the elements do not fill whole bytes.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes_of(self.elements()?).filter(|&bytes| bytes <= MAX_INTEGER)
    }
}

/// The order of tensors in their blocks, and of blocks by their first tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By number of elements, largest first. Ties go by name in sealed packs, so that sources in any order give the same file; in v3 and
    /// v4 they keep the source's order, as in the Python package.
    #[default]
    Size,
    /// By name, in order of bytes.
    Name,
    /// As the source has them.
    Source,
}

/// How a pack is to be laid out.
///
/// ```
/// use flashpack::{Layout, PlanOptions};
/// let options = PlanOptions { layout: Layout::V4, ..Default::default() };
/// assert_eq!(options.alignment, 128);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// The layout: sealed by default.
    pub layout: Layout,
    /// Alignment of tensors in bytes: 128 by default, 0 for none. In sealed packs a power of two up to 4096.
    pub alignment: u64,
    /// The order of tensors.
    pub order: Order,
    /// Log2 of the digest group's size in bytes, 16 to 26: 20 by default (1 MiB). Only for sealed packs.
    pub group_log2: u8,
    /// Keys and values to keep with the tensors. Only sealed packs keep them; v3 and v4 have no place for any.
    pub metadata: BTreeMap<String, String>,
}

impl Default for PlanOptions {
    fn default() -> PlanOptions {
        PlanOptions { layout: Layout::Sealed, alignment: 128, order: Order::Size, group_log2: 20, metadata: BTreeMap::new() }
    }
}

/// Where every byte of a pack will be, digests aside.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) manifest: Manifest,
    /// For each tensor in order of names: its number among the tensors that were planned.
    pub(crate) origins: Vec<usize>,
    /// The footer's bytes.
    pub(crate) footer: Vec<u8>,
    /// Sealed: the header, digests aside.
    pub(crate) header: Option<Header>,
}

impl Plan {
    /// Plans a pack.
    ///
    /// # Errors
    /// [`Error::Input`] when these tensors and options cannot make a pack: it names the tensor or the option.
    pub fn new(tensors: &[TensorInfo], options: &PlanOptions) -> Result<Plan> {
        check_options(options)?;
        check_tensors(tensors, options.layout)?;
        let order = order_of(tensors, options);
        let blocks = lay_out(tensors, &order, options)?;
        let (manifest, origins) = build(tensors, &blocks, options)?;

        let numbers = numbers_in(&manifest, &origins, &order, options.layout);
        let footer = manifest.footer(&numbers).render();
        let (limits, tables) = (Limits::default(), manifest.tables.as_bytes().len() as u64);
        if footer.len() as u64 > limits.footer_bytes || tables > limits.table_bytes {
            let sizes = format!("{} bytes of footer and {tables} of tables", footer.len());
            return Err(Error::Input(format!("the pack would have {sizes}, over what readers take")));
        }
        let header = (options.layout == Layout::Sealed).then(|| header_for(&manifest, footer.len())).transpose()?;
        Ok(Plan { manifest, origins, footer, header })
    }

    /// What the pack will contain.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The length of the file in bytes.
    #[must_use]
    pub fn file_size(&self) -> u64 {
        let footer = (self.footer.len() as u64).saturating_add(trailer::SIZE as u64);
        self.manifest.payload().end.saturating_add(footer)
    }
}

/// A block being laid out: a dtype, its tensors with their offsets, and its length in bytes.
struct PlannedBlock {
    dtype: Dtype,
    /// Number among the planned tensors, and bytes from the start of the block.
    tensors: Vec<(usize, u64)>,
    /// Bytes from the start of the payload.
    offset: u64,
    length: u64,
}

fn check_options(options: &PlanOptions) -> Result<()> {
    let refuse = |message: String| Err(Error::Input(message));
    let alignment = options.alignment;
    if options.layout == Layout::Sealed {
        if alignment != 0 && !(alignment.is_power_of_two() && alignment <= PAGE) {
            return refuse(format!("an alignment of {alignment}: a sealed pack takes 0 or a power of two up to 4096"));
        }
        if !GROUP_LOG2.contains(&options.group_log2) {
            return refuse(format!("a digest group of 2^{} bytes: 2^16 to 2^26 can be had", options.group_log2));
        }
    }
    if alignment > MAX_INTEGER / 16 {
        return refuse(format!("an alignment of {alignment}"));
    }
    Ok(())
}

fn check_tensors(tensors: &[TensorInfo], layout: Layout) -> Result<()> {
    let refuse = |message: String| Err(Error::Input(message));
    let limits = Limits::default();
    if tensors.len() as u64 > limits.tensors {
        return refuse(format!("{} tensors, over the {} that readers take", tensors.len(), limits.tensors));
    }
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        return refuse(format!("two tensors are named {name:?}"));
    }
    for tensor in tensors {
        let name = &tensor.name;
        if tensor.bytes().is_none() {
            return refuse(format!("tensor {name:?}: shape {:?} of {} has no length in bytes", tensor.shape, tensor.dtype));
        }
        // A writer makes only what every reader with default limits takes (`CONF-WRITE-01`).
        if tensor.shape.len() as u64 > limits.rank {
            return refuse(format!(
                "tensor {name:?} has {} dims, over the {} that readers take",
                tensor.shape.len(),
                limits.rank
            ));
        }
        if name.len() as u64 > limits.name_bytes {
            let start: String = name.chars().take(80).collect();
            return refuse(format!(
                "a tensor's name has {} bytes, over the {} that readers take: {start:?}...",
                name.len(),
                limits.name_bytes
            ));
        }
        if layout != Layout::Sealed && !tensor.dtype.in_legacy() {
            return refuse(format!("tensor {name:?}: {} can only be kept in a sealed pack", tensor.dtype));
        }
    }
    if layout != Layout::Sealed && tensors.iter().all(|tensor| tensor.bytes() == Some(0)) {
        return refuse(format!("there is nothing to pack: {layout} needs at least one byte of tensors"));
    }
    let dtype = tensors.first().map(|tensor| tensor.dtype);
    if let Some(other) = tensors.iter().find(|tensor| layout == Layout::V3 && Some(tensor.dtype) != dtype) {
        return refuse(format!(
            "tensor {:?} is {}, another {}: v3 holds one dtype (cast to one, or take another layout)",
            other.name,
            other.dtype,
            dtype.map_or("none", Dtype::name)
        ));
    }
    Ok(())
}

/// The numbers of the planned tensors in the order in which they are laid out.
fn order_of(tensors: &[TensorInfo], options: &PlanOptions) -> Vec<usize> {
    let mut order: Vec<(usize, &TensorInfo)> = tensors.iter().enumerate().collect();
    let name = |tensor: &TensorInfo| tensor.name.clone();
    match (options.order, options.layout) {
        (Order::Size, Layout::Sealed) => {
            order.sort_by_cached_key(|(_, tensor)| (std::cmp::Reverse(tensor.elements()), name(tensor)));
        }
        (Order::Size, _) => order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.elements())),
        (Order::Name, _) => order.sort_by_cached_key(|(_, tensor)| name(tensor)),
        (Order::Source, _) => {}
    }
    order.into_iter().map(|(number, _)| number).collect()
}

/// One block for each dtype, in order of first appearance; tensors in their blocks in the given order.
fn lay_out(tensors: &[TensorInfo], order: &[usize], options: &PlanOptions) -> Result<Vec<PlannedBlock>> {
    let too_large = || Error::Input("the pack would be over 2^53 - 1 bytes long".into());
    let mut blocks: Vec<PlannedBlock> = Vec::new();
    for &number in order {
        let Some(tensor) = tensors.get(number) else { continue };
        let at = match blocks.iter().position(|block| block.dtype == tensor.dtype) {
            Some(at) => at,
            None => {
                blocks.push(PlannedBlock { dtype: tensor.dtype, tensors: Vec::new(), offset: 0, length: 0 });
                blocks.len().saturating_sub(1)
            }
        };
        let Some(block) = blocks.get_mut(at) else { continue };
        let unit = tensor.dtype.rounding_unit(options.alignment).ok_or_else(too_large)?;
        let offset = round_up(block.length, unit).ok_or_else(too_large)?;
        block.length = tensor.bytes().and_then(|bytes| offset.checked_add(bytes)).ok_or_else(too_large)?;
        block.tensors.push((number, offset));
    }
    let mut cursor = 0_u64;
    for block in &mut blocks {
        let unit = match options.layout {
            Layout::Sealed => PAGE,
            Layout::V3 | Layout::V4 => block.dtype.rounding_unit(options.alignment).ok_or_else(too_large)?,
        };
        block.offset = round_up(cursor, unit).ok_or_else(too_large)?;
        cursor = block.offset.checked_add(block.length).filter(|&end| end <= MAX_INTEGER / 2).ok_or_else(too_large)?;
    }
    Ok(blocks)
}

/// The manifest, and for each tensor in order of names its number among the planned.
fn build(tensors: &[TensorInfo], blocks: &[PlannedBlock], options: &PlanOptions) -> Result<(Manifest, Vec<usize>)> {
    let too_many = |what: &str| Error::Input(format!("the tensors have too many {what} for the format"));
    let sealed = options.layout == Layout::Sealed;
    let payload_length = blocks.last().map_or(0, |block| block.offset.saturating_add(block.length));

    let mut placed: Vec<(usize, u16, u64)> = Vec::with_capacity(tensors.len());
    for (block_number, block) in (0_u16..).zip(blocks) {
        placed.extend(block.tensors.iter().map(|&(number, offset)| (number, block_number, offset)));
    }
    let info = |number: usize| tensors.get(number);
    placed.sort_by(|a, b| info(a.0).map(|tensor| &tensor.name).cmp(&info(b.0).map(|tensor| &tensor.name)));

    let mut names = Vec::new();
    let mut dims: Vec<U64> = Vec::new();
    let mut records = Vec::with_capacity(placed.len());
    let mut origins = Vec::with_capacity(placed.len());
    for (number, block, offset) in placed {
        let Some(tensor) = info(number) else { continue };
        records.push(TensorRecord {
            name_offset: u32::try_from(names.len()).map_err(|_| too_many("bytes of names"))?.into(),
            name_length: u32::try_from(tensor.name.len()).map_err(|_| too_many("bytes of names"))?.into(),
            first_dim: u32::try_from(dims.len()).map_err(|_| too_many("dims"))?.into(),
            rank: u16::try_from(tensor.shape.len()).map_err(|_| too_many("dims"))?.into(),
            block: block.into(),
            offset: offset.into(),
            length: tensor.bytes().unwrap_or_default().into(),
        });
        names.extend_from_slice(tensor.name.as_bytes());
        dims.extend(tensor.shape.iter().map(|&dim| U64::new(dim)));
        origins.push(number);
    }

    let mut metadata = Vec::new();
    let groups = if sealed {
        for (key, value) in &options.metadata {
            push_metadata(&mut metadata, key, value).ok_or_else(|| too_many("bytes of metadata"))?;
        }
        seal::group_count(payload_length, options.group_log2).unwrap_or_default()
    } else {
        0
    };
    let lengths = [
        (blocks.len() as u64).saturating_mul(BLOCK_SIZE),
        (records.len() as u64).saturating_mul(TENSOR_SIZE),
        (dims.len() as u64).saturating_mul(DIM_SIZE),
        groups.saturating_mul(DIGEST_SIZE),
        names.len() as u64,
        metadata.len() as u64,
    ];
    let tables_length = lengths.into_iter().fold(0, u64::saturating_add);
    let payload_offset = if sealed { round_up(PAGE.saturating_add(tables_length), PAGE).unwrap_or(u64::MAX) } else { 0 };
    let block_records: Vec<BlockRecord> = blocks
        .iter()
        .map(|block| BlockRecord {
            dtype: block.dtype.code().into(),
            reserved: 0.into(),
            codec: 0.into(),
            offset: payload_offset.saturating_add(block.offset).into(),
            length: block.length.into(),
            decoded_length: 0.into(),
        })
        .collect();
    // Asked before they are made: a shape may say 2^53 bytes.
    if groups.saturating_mul(DIGEST_SIZE) > Limits::default().table_bytes {
        let advice = "over what readers take: larger groups may help";
        return Err(Error::Input(format!("the pack would have {groups} digest groups, {advice}")));
    }
    let groups = usize::try_from(groups).map_err(|_| too_many("digest groups"))?;
    let tables =
        Tables::new(&block_records, &records, &dims, groups, &names, &metadata).ok_or_else(|| too_many("bytes of tables"))?;
    let manifest = Manifest {
        layout: options.layout,
        alignment: options.alignment,
        group_log2: if sealed { options.group_log2 } else { 0 },
        payload: Section { offset: payload_offset, length: payload_length },
        tables,
    };
    Ok((manifest, origins))
}

/// The order of the footer's index, as numbers in order of names: tiling order in sealed files, the order of writing in v3 and v4.
fn numbers_in(manifest: &Manifest, origins: &[usize], order: &[usize], layout: Layout) -> Vec<u32> {
    if layout == Layout::Sealed {
        return tiling_order(manifest.tables.tensors());
    }
    let mut rank = vec![0_usize; order.len()];
    for (position, &number) in order.iter().enumerate() {
        if let Some(rank) = rank.get_mut(number) {
            *rank = position;
        }
    }
    // By block first: blocks are written one after the other, and the index follows.
    let mut numbers: Vec<(u16, usize, u32)> = (0_u32..)
        .zip(origins)
        .zip(manifest.tables.tensors())
        .map(|((number, &origin), record)| (record.block.get(), rank.get(origin).copied().unwrap_or_default(), number))
        .collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|(_, _, number)| number).collect()
}

fn header_for(manifest: &Manifest, footer_length: usize) -> Result<Header> {
    let mut cursor = PAGE;
    let mut section = |length: usize| {
        let offset = cursor;
        cursor = cursor.saturating_add(length as u64);
        Section { offset, length: length as u64 }
    };
    let [blocks, tensors, dims, digests, names, metadata, extra] = manifest.tables.section_lengths().map(&mut section);
    let footer = Section { offset: manifest.payload().end, length: footer_length as u64 };
    let file_size = footer.end().and_then(|end| end.checked_add(trailer::SIZE as u64)).filter(|&size| size <= MAX_INTEGER);
    Ok(Header {
        magic: header::MAGIC,
        major: 1,
        minor: 0,
        header_size: header::SIZE_FIELD,
        file_size: file_size.ok_or_else(|| Error::Input("the pack would be over 2^53 - 1 bytes long".into()))?,
        required_features: 0,
        optional_features: 0,
        sections: Sections { blocks, tensors, dims, digests, names, metadata, extra, payload: manifest.payload, footer },
        alignment: u32::try_from(manifest.alignment).map_err(|_| Error::Input("the alignment is too large".into()))?,
        group_log2: manifest.group_log2,
        reserved: [0; 3],
        tables_digest: [0; 32],
        footer_digest: [0; 32],
        header_digest: [0; 32],
    })
}
