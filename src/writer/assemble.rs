//! Fills a region of a file from pieces, chunk by chunk, on all cores.
//!
//! A chunk is filled in memory, hashed while it is in the cache, and written at its place. Chunks do not depend on each other, so
//! there is no queue and no order between them; memory is one chunk a thread. Bytes that belong to no piece are zero.

use std::io::Read;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::tables::Digest;
use crate::source::read_exact_at;

use super::{Progress, Target, TensorBytes, TensorData};

/// The chunk for files without digests.
const CHUNK: u64 = 1 << 20;

/// Bytes of one tensor in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Which of the data they are: all of it.
    pub data: usize,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Fills `region`. Pieces come in order of their offsets and do not overlap. With a group size, gives the digest of each group.
pub(crate) fn assemble(
    target: &Target,
    region: Range<u64>,
    pieces: &[Piece],
    data: &mut [TensorData<'_>],
    group_size: Option<u64>,
    progress: &dyn Progress,
) -> Result<Vec<Digest>> {
    place_streams(target, pieces, data, progress)?;
    let data: Vec<Filling<'_>> = data.iter().map(Filling::of).collect();
    // Empty ones would share their place with others, and pieces are looked up by place.
    let pieces: Vec<Piece> = pieces.iter().copied().filter(|piece| piece.length > 0).collect();
    let chunk = group_size.unwrap_or(CHUNK);
    let chunks = region.end.saturating_sub(region.start).div_ceil(chunk);
    let job = Job { target, pieces: &pieces, data: &data, hash: group_size.is_some(), progress };
    let digests: Result<Vec<Option<Digest>>> = (0..chunks)
        .into_par_iter()
        .map_init(Vec::new, |buffer, number| {
            let start = region.start.saturating_add(number.saturating_mul(chunk));
            job.fill(buffer, start..start.saturating_add(chunk).min(region.end))
        })
        .collect();
    Ok(digests?.into_iter().flatten().collect())
}

/// Streams give their bytes once and in order, so they are copied to their places first; hashing reads them from there.
fn place_streams(target: &Target, pieces: &[Piece], data: &mut [TensorData<'_>], progress: &dyn Progress) -> Result<()> {
    for piece in pieces {
        let Some(TensorData::Stream(stream)) = data.get_mut(piece.data) else { continue };
        let mut buffer = vec![0; usize::try_from(piece.length.min(CHUNK)).unwrap_or_default()];
        let mut offset = piece.offset;
        while offset < piece.end() {
            let left = usize::try_from(piece.end().saturating_sub(offset)).unwrap_or(usize::MAX);
            let part = buffer.len().min(left);
            let Some(part) = buffer.get_mut(..part) else { break };
            stream.read_exact(part).map_err(|error| stream_error(target, error))?;
            target.write_at(part, offset)?;
            offset = offset.saturating_add(part.len() as u64);
            // The bytes count once they are hashed, but whoever wants to stop should not wait until then.
            if progress.advance(0).is_break() {
                return Err(Error::Cancelled);
            }
        }
        if std::io::copy(&mut stream.by_ref().take(1), &mut std::io::sink()).map_err(|error| stream_error(target, error))? > 0 {
            return Err(Error::Input("a stream holds more bytes than its tensor".into()));
        }
    }
    Ok(())
}

fn stream_error(target: &Target, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Input("a stream holds fewer bytes than its tensor".into()),
        _ => Error::io(target.path(), error),
    }
}

/// Where the bytes of a piece are once streams are in their places.
enum Filling<'a> {
    Bytes(&'a [u8]),
    Positional(&'a dyn TensorBytes),
    InPlace,
}

impl<'a> Filling<'a> {
    fn of(data: &'a TensorData<'_>) -> Filling<'a> {
        match data {
            TensorData::Bytes(bytes) => Filling::Bytes(bytes),
            TensorData::Positional(bytes) => Filling::Positional(bytes.as_ref()),
            TensorData::Stream(_) => Filling::InPlace,
        }
    }
}

struct Job<'a> {
    target: &'a Target,
    pieces: &'a [Piece],
    data: &'a [Filling<'a>],
    hash: bool,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn fill(&self, buffer: &mut Vec<u8>, range: Range<u64>) -> Result<Option<Digest>> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| Error::Input("too large".into()))?;
        buffer.resize(length, 0);
        let mut rest = buffer.as_mut_slice();
        let mut cursor = range.start;
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        for piece in self.pieces.iter().skip(first).take_while(|piece| piece.offset < range.end) {
            let start = piece.offset.max(range.start);
            let end = piece.end().min(range.end);
            let (gap, after) = split(rest, start.saturating_sub(cursor));
            gap.fill(0);
            let (part, after) = split(after, end.saturating_sub(start));
            self.read(piece, part, start)?;
            rest = after;
            cursor = end.max(cursor);
        }
        rest.fill(0);
        let digest = self.hash.then(|| *blake3::hash(buffer).as_bytes());
        self.target.write_at(buffer, range.start)?;
        if self.progress.advance(buffer.len() as u64).is_break() {
            return Err(Error::Cancelled);
        }
        Ok(digest)
    }

    /// Reads the bytes of a piece that stand at `start` in the file.
    fn read(&self, piece: &Piece, part: &mut [u8], start: u64) -> Result<()> {
        let offset = start.saturating_sub(piece.offset);
        match self.data.get(piece.data) {
            Some(Filling::Positional(bytes)) => bytes.read_at(part, offset),
            Some(Filling::Bytes(bytes)) => {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..part.len()));
                part.copy_from_slice(from.ok_or_else(|| Error::Input("a tensor is shorter than its shape".into()))?);
                Ok(())
            }
            Some(Filling::InPlace) => {
                read_exact_at(self.target.file(), part, start).map_err(|error| Error::io(self.target.path(), error))
            }
            None => Err(Error::Input("a tensor has no data".into())),
        }
    }
}

fn split(bytes: &mut [u8], at: u64) -> (&mut [u8], &mut [u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at_mut(at)
}
