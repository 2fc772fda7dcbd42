//! Makes a mutated pack look right where a mutation would otherwise end at the door: lengths, magics, the footer, digests.
//!
//! Which of them are repaired is drawn by lot, so that wrong ones are tried as well.

use flashpack::format::header::{self, Header};
use flashpack::format::trailer::{self, Trailer};

/// A choice of repairs: a bit each. All of them make the outermost checks pass.
#[derive(Clone, Copy)]
pub struct Choice(pub u32);

impl Choice {
    /// Most repairs, most of the time: a chain of digests is only as good as all its links.
    pub fn by_lot(seed: u32) -> Choice {
        let noise = seed.wrapping_mul(0x9E37_79B9);
        Choice(if noise & 0x700 == 0 { noise >> 16 } else { u32::MAX })
    }

    fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

/// Repairs a pack in place.
pub fn repair(file: &mut [u8], choice: Choice) {
    if file.starts_with(&header::MAGIC) {
        repair_sealed(file, choice);
    } else {
        repair_legacy(file, choice);
    }
}

fn repair_legacy(file: &mut [u8], choice: Choice) {
    let Some(end) = file.len().checked_sub(trailer::SIZE) else { return };
    // The last place where a footer could begin that reaches to the trailer.
    let start = file[..end].windows(9).rposition(|window| window == b"{\"format\"");
    if let (Some(start), true) = (start, choice.has(0)) {
        let trailer = Trailer { footer_length: (end - start) as u64, magic: trailer::MAGIC };
        file[end..].copy_from_slice(&trailer.to_bytes());
    }
    if choice.has(1) {
        file[end + 8..].copy_from_slice(&trailer::MAGIC);
    }
}

fn repair_sealed(file: &mut [u8], choice: Choice) {
    let Some(bytes) = file.first_chunk::<{ header::SIZE }>() else { return };
    let mut header = Header::from_bytes(bytes);
    if choice.has(0) {
        header.file_size = file.len() as u64;
    }
    let sections = header.sections;
    let range = |offset: u64, length: u64| -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= file.len()).then_some(start..end)
    };
    let payload = range(sections.payload.offset, sections.payload.length);
    let digests = range(sections.digests.offset, sections.digests.length);
    let footer = range(sections.footer.offset, sections.footer.length);
    let tables = sections.payload.offset.checked_sub(4096).and_then(|length| range(4096, length));
    if let (Some(payload), Some(digests), true) = (payload, digests, choice.has(1) && (16..=26).contains(&header.group_log2)) {
        let groups: Vec<[u8; 32]> =
            file[payload].chunks(1 << header.group_log2).map(|group| *blake3::hash(group).as_bytes()).collect();
        for (place, digest) in file[digests].chunks_exact_mut(32).zip(groups) {
            place.copy_from_slice(&digest);
        }
    }
    if choice.has(2)
        && let Some(start) = file.len().checked_sub(trailer::SIZE)
    {
        let trailer = Trailer { footer_length: sections.footer.length, magic: trailer::MAGIC };
        file[start..].copy_from_slice(&trailer.to_bytes());
    }
    if let (Some(footer), true) = (footer, choice.has(3)) {
        header.footer_digest = *blake3::hash(&file[footer]).as_bytes();
    }
    if let (Some(tables), true) = (tables, choice.has(4)) {
        header.tables_digest = *blake3::hash(&file[tables]).as_bytes();
    }
    if choice.has(5) {
        header.header_digest = header.digest();
    }
    file[..header::SIZE].copy_from_slice(&header.to_bytes());
}
