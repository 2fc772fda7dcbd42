//! [`Pack`]: a file that was opened, and everything that can be read from it.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::first_nonzero;
use crate::format::header::{Header, Section};
use crate::limits::Limits;
use crate::manifest::{Manifest, Tensor};
use crate::parse::{self, Parsed, Policy};
use crate::rule::{self, Layout, Severity, Violation, Violations};
use crate::seal::{self, PackId};
use crate::source::{FileSource, Mapping, ReadAt, read_vec, zeroed};
use crate::writer::Progress;

/// How to open a pack.
///
/// ```no_run
/// # fn main() -> flashpack::Result<()> {
/// let id = "9f2c...".parse().unwrap();
/// let pack = flashpack::OpenOptions::new().expect_id(id).strict(true).open("model.flashpack")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    policy: Policy,
    strict: bool,
    unverified: bool,
}

impl OpenOptions {
    /// The defaults: any layout, default limits, every read of a sealed file verified.
    #[must_use]
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    /// Refuses every file but the one with this pack id (`PIN-ID-01`). v3 and v4 files have none and are refused.
    #[must_use]
    pub fn expect_id(mut self, id: PackId) -> OpenOptions {
        self.policy.expected_id = Some(id);
        self
    }

    /// Refuses v3 and v4 files, which nothing protects (`PIN-SEAL-01`).
    #[must_use]
    pub fn require_seal(mut self, require: bool) -> OpenOptions {
        self.policy.require_seal = require;
        self
    }

    /// Bounds on what a file may make the reader hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> OpenOptions {
        self.policy.limits = limits;
        self
    }

    /// Checks the whole file before anything is handed out: footer, fill and every group.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> OpenOptions {
        self.strict = strict;
        self
    }

    /// Whether reads of a sealed file are verified, as they are by default. Without, damage goes unseen: for files that were verified
    /// before and cannot have changed since.
    #[must_use]
    pub fn verify_reads(mut self, verify: bool) -> OpenOptions {
        self.unverified = !verify;
        self
    }

    /// Whether only a sealed pack can satisfy them.
    pub(crate) fn demands_a_pack(&self) -> bool {
        self.policy.require_seal || self.policy.expected_id.is_some()
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Invalid`] and [`Error::Unsupported`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Pack> {
        let path = path.as_ref();
        let file = Arc::new(FileSource::open(path).map_err(|error| Error::io(path, error))?);
        let mut pack = self.open_at(file.clone(), path)?;
        pack.file = Some(file);
        Ok(pack)
    }

    /// Opens anything that can be read at any place.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open_source(&self, source: Arc<dyn ReadAt>) -> Result<Pack> {
        self.open_at(source, Path::new("pack"))
    }

    fn open_at(&self, source: Arc<dyn ReadAt>, path: &Path) -> Result<Pack> {
        let parsed = parse::parse(&source, &self.policy).map_err(|error| Error::io(path, error))?;
        let Parsed { header, footer, manifest, violations, .. } = parsed;
        let Some(manifest) = manifest.filter(|_| !violations.has_errors()) else {
            return Err(Error::from_violations(path, violations));
        };
        let pack = Pack {
            source,
            file: None,
            path: path.to_owned(),
            manifest,
            header,
            footer,
            warnings: violations,
            policy: self.policy.clone(),
            unverified: self.unverified,
            groups: GroupCache::default(),
        };
        if self.strict {
            pack.verify(&())?;
        }
        Ok(pack)
    }

    /// Checks a file and lists everything that is wrong with it. With `structure_only` the payload is not read; otherwise `progress` hears
    /// of its bytes.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Cancelled`]. An invalid file is no error here: the report says so.
    pub fn validate(&self, path: impl AsRef<Path>, structure_only: bool, progress: &dyn Progress) -> Result<Report> {
        let path = path.as_ref();
        let io_error = |error| Error::io(path, error);
        let source: Arc<dyn ReadAt> = Arc::new(FileSource::open(path).map_err(io_error)?);
        let parsed = parse::parse(&source, &self.policy).map_err(io_error)?;
        let (layout, id) = (parsed.layout, parsed.id());
        let Parsed { header, footer, manifest, mut violations, .. } = parsed;
        if let Some(manifest) = manifest {
            let warnings = Violations::default();
            let (policy, unverified, groups) = (self.policy.clone(), true, GroupCache::default());
            let path = path.to_owned();
            let pack = Pack { source, file: None, path, manifest, header, footer, warnings, policy, unverified, groups };
            violations.extend(pack.check(structure_only, progress)?);
        }
        Ok(Report { layout, id, violations })
    }
}

/// What [`OpenOptions::validate`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The layout, as far as it could be told.
    pub layout: Option<Layout>,
    /// The pack id of a sealed file whose header is whole.
    pub id: Option<PackId>,
    /// Everything that is wrong, errors and warnings, in the order in which a reader meets it.
    pub violations: Violations,
}

impl Report {
    /// Whether there is no error among the violations.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.violations.has_errors()
    }
}

/// An open pack. Its structure is checked; the bytes of its tensors are verified as they are read.
///
/// Reading is positional and takes `&self`: one pack serves many threads.
pub struct Pack {
    source: Arc<dyn ReadAt>,
    /// The same source, if it is a file, which can be mapped.
    file: Option<Arc<FileSource>>,
    path: PathBuf,
    manifest: Manifest,
    header: Option<Header>,
    footer: Section,
    warnings: Violations,
    policy: Policy,
    unverified: bool,
    groups: GroupCache,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("path", &self.path).field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Pack {
    /// Opens a file with the default options.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Pack> {
        OpenOptions::new().open(path)
    }

    /// What the pack contains: blocks, tensors, metadata.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The layout of the file.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.manifest.layout()
    }

    /// The pack id of a sealed file.
    #[must_use]
    pub fn id(&self) -> Option<PackId> {
        self.header.map(|header| PackId(header.header_digest))
    }

    /// The header of a sealed file.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Where the JSON footer lies in the file, in bytes.
    #[must_use]
    pub fn footer_range(&self) -> Range<u64> {
        self.footer.offset..self.footer.end().unwrap_or(self.footer.offset)
    }

    /// What is odd about the file without making it invalid.
    #[must_use]
    pub fn warnings(&self) -> &Violations {
        &self.warnings
    }

    /// The tensors, by name in order of bytes.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> + '_ {
        self.manifest.tensors()
    }

    /// The tensor with this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`].
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.manifest.tensor(name).ok_or_else(|| Error::NoSuchTensor(name.to_owned()))
    }

    /// The bytes of a tensor, verified if the pack is sealed.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`], [`Error::Io`], and [`Error::Invalid`] with `SEAL-INT-01` for bytes that are not those that were sealed.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.tensor(name)?;
        let mut bytes = zeroed(tensor.length).map_err(|error| self.io(error))?;
        self.read_range(tensor.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor into the caller's buffer, which must have its length. On an error the buffer holds no unverified bytes: it is
    /// zeroed.
    ///
    /// # Errors
    /// As [`Pack::read`], and [`Error::BufferLength`].
    pub fn read_into(&self, name: &str, buffer: &mut [u8]) -> Result<()> {
        let tensor = self.tensor(name)?;
        if buffer.len() as u64 != tensor.length {
            return Err(Error::BufferLength { tensor: name.to_owned(), expected: tensor.length, found: buffer.len() as u64 });
        }
        self.read_range(tensor.offset, buffer)
    }

    /// Reads a part of a tensor: the bytes that begin at `offset` within it.
    ///
    /// # Errors
    /// As [`Pack::read`], and [`Error::BufferLength`] for a part that runs over the tensor's end.
    pub fn read_part(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let tensor = self.tensor(name)?;
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > tensor.length) {
            return Err(Error::BufferLength { tensor: name.to_owned(), expected: tensor.length, found: buffer.len() as u64 });
        }
        self.read_range(tensor.offset.saturating_add(offset), buffer)
    }

    /// Reads bytes of the payload that begin at `offset` in the file, verified if the pack is sealed.
    ///
    /// Groups that the buffer covers whole are read into it and hashed there, so what was verified is what the caller holds. Groups that it
    /// covers in part are read beside it; the last few are kept, as neighbouring tensors share them.
    pub(crate) fn read_range(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let read = match self.manifest.group_size() {
            Some(size) if !self.unverified => self.read_verified(offset, buffer, size),
            _ => self.read_unverified(offset, buffer),
        };
        if read.is_err() {
            buffer.fill(0);
        }
        read
    }

    /// On all cores: most of the time goes into touching new memory.
    fn read_unverified(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        const PART: usize = 2 << 20;
        buffer.par_chunks_mut(PART).enumerate().try_for_each(|(number, part)| {
            let within = (number as u64).saturating_mul(PART as u64);
            self.read_exact_at(part, offset.saturating_add(within))
        })
    }

    fn read_verified(&self, offset: u64, buffer: &mut [u8], group_size: u64) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let within = offset.saturating_sub(self.manifest.payload().start);
        let first = within.checked_div(group_size).unwrap_or_default();
        // Cut the buffer where groups end: each part lies in one group.
        let head = group_size.saturating_sub(within.checked_rem(group_size).unwrap_or_default());
        let head = usize::try_from(head).unwrap_or(usize::MAX).min(buffer.len());
        let size = usize::try_from(group_size).unwrap_or(usize::MAX);
        let (head, rest) = buffer.split_at_mut(head);
        self.read_part_of_group(first, offset, head)?;
        rest.par_chunks_mut(size).enumerate().try_for_each(|(number, part)| {
            let number = first.saturating_add(1).saturating_add(number as u64);
            self.read_part_of_group(number, seal::group_range(&self.manifest, number).start, part)
        })
    }

    fn read_part_of_group(&self, number: u64, offset: u64, part: &mut [u8]) -> Result<()> {
        let range = seal::group_range(&self.manifest, number);
        if range == (offset..offset.saturating_add(part.len() as u64)) {
            self.read_exact_at(part, offset)?;
            return seal::check_group(&self.manifest, number, part).map_err(|violation| self.damaged(*violation));
        }
        let group = self.groups.get_or_read(number, || self.read_group(number))?;
        let start = usize::try_from(offset.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let bytes = group.get(start..).and_then(|bytes| bytes.get(..part.len()));
        part.copy_from_slice(bytes.ok_or_else(|| self.short())?);
        Ok(())
    }

    fn read_group(&self, number: u64) -> Result<Vec<u8>> {
        let range = seal::group_range(&self.manifest, number);
        let bytes = read_vec(&self.source, range.start, range.end.saturating_sub(range.start));
        let bytes = bytes.map_err(|error| self.io(error))?;
        seal::check_group(&self.manifest, number, &bytes).map_err(|violation| self.damaged(*violation))?;
        Ok(bytes)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.source.read_exact_at(buffer, offset).map_err(|error| self.io(error))
    }

    /// The JSON footer. In a sealed file it is the one that header and tables determine, so it says the same as this pack.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Invalid`] with `SEAL-FOOT-01` or `SEAL-FOOT-02`.
    pub fn footer(&self) -> Result<Vec<u8>> {
        let footer = read_vec(&self.source, self.footer.offset, self.footer.length).map_err(|error| self.io(error))?;
        match self.footer_fault(&footer) {
            Some(violation) => Err(self.invalid(violation)),
            None => Ok(footer),
        }
    }

    /// Checks the whole file: footer, fill and, in a sealed file, the digest of every group.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong, [`Error::Io`], [`Error::Cancelled`].
    pub fn verify(&self, progress: &dyn Progress) -> Result<()> {
        let violations = self.check(false, progress)?;
        if violations.has_errors() { Err(Error::from_violations(&self.path, violations)) } else { Ok(()) }
    }

    /// The stages `footer` and `integrity`.
    fn check(&self, structure_only: bool, progress: &dyn Progress) -> Result<Violations> {
        let mut violations = Violations::default();
        if self.layout() == Layout::Sealed {
            self.check_footer(&mut violations)?;
        }
        if !structure_only {
            violations.extend(self.check_payload(progress)?);
        }
        Ok(violations)
    }

    fn check_footer(&self, violations: &mut Violations) -> Result<()> {
        let footer = read_vec(&self.source, self.footer.offset, self.footer.length).map_err(|error| self.io(error))?;
        self.footer_fault(&footer).into_iter().for_each(|violation| violations.push(violation));
        Ok(())
    }

    /// A sealed footer must be what header and tables determine, byte for byte: so both halves of the file say the same to every reader.
    fn footer_fault(&self, footer: &[u8]) -> Option<Violation> {
        let header = self.header?;
        if seal::digest(footer) != header.footer_digest {
            return Some(Violation::new(&rule::SEAL_FOOT_DIGEST, self.footer.offset, "the footer's bytes have another digest"));
        }
        let expected = self.manifest.footer(&self.manifest.tiling_order()).render();
        if footer == expected {
            return None;
        }
        let at = footer.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(footer.len().min(expected.len()));
        let around = |bytes: &[u8]| {
            let part = bytes.get(at..).unwrap_or_default().iter().copied().take(24).collect::<Vec<_>>();
            String::from_utf8_lossy(&part).into_owned()
        };
        let message = format!("it has {:?} where {:?} should be", around(footer), around(&expected));
        Some(Violation::new(&rule::SEAL_FOOT_EQUAL, self.footer.offset.saturating_add(at as u64), message))
    }

    /// Reads the whole payload and collects what is wrong with it.
    fn check_payload(&self, progress: &dyn Progress) -> Result<Violations> {
        let gaps = self.gaps();
        let count = self.piece_count();
        let check = |buffer: &mut Vec<u8>, number: u64| -> Result<Option<Violation>> {
            let range = self.piece_range(number);
            let found = self.read_piece(number, &range, &gaps, buffer)?;
            match progress.advance(buffer.len() as u64) {
                ControlFlow::Continue(()) => Ok(found),
                ControlFlow::Break(()) => Err(Error::Cancelled),
            }
        };
        let collect = |mut violations: Violations, found: Result<Option<Violation>>| -> Result<Violations> {
            found?.into_iter().for_each(|violation| violations.push(violation));
            Ok(violations)
        };
        // In parts, so that the list is bounded while it grows: a file may have millions of bad groups.
        const PART: u64 = 4096;
        let mut violations = Violations::default();
        for part in (0..count).step_by(usize::try_from(PART).unwrap_or(1)) {
            let numbers = part..part.saturating_add(PART).min(count);
            let found: Vec<Result<Option<Violation>>> = numbers.into_par_iter().map_init(Vec::new, check).collect();
            violations = found.into_iter().try_fold(violations, collect)?;
        }
        Ok(self.with_tensors(once_warned(violations)))
    }

    /// Checks the whole file in one pass over the payload, and hands each piece of it on once it is found right: where it lies in the file,
    /// and its bytes. Pieces come in any order, from several threads.
    pub(crate) fn verify_each(&self, visit: impl Fn(Range<u64>, &[u8]) -> Result<()> + Sync) -> Result<()> {
        let mut violations = self.check(true, &())?;
        if violations.has_errors() {
            return Err(Error::from_violations(&self.path, violations));
        }
        let gaps = self.gaps();
        let pieces = (0..self.piece_count()).into_par_iter().map_init(Vec::new, |buffer, number| {
            let range = self.piece_range(number);
            match self.read_piece(number, &range, &gaps, buffer)? {
                Some(violation) if violation.rule.severity == Severity::Error => Ok(Some(violation)),
                _ => visit(range, buffer).map(|()| None),
            }
        });
        match pieces.try_reduce_with(|a, b| Ok(a.or(b))) {
            Some(Ok(Some(violation))) => {
                violations.push(violation);
                Err(Error::from_violations(&self.path, self.with_tensors(violations)))
            }
            Some(Err(error)) => Err(error),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    /// The payload is read in groups, or in pieces of this size where there are none.
    fn piece_size(&self) -> u64 {
        const PIECE: u64 = 1 << 20;
        self.manifest.group_size().unwrap_or(PIECE)
    }

    fn piece_count(&self) -> u64 {
        let payload = self.manifest.payload();
        payload.end.saturating_sub(payload.start).div_ceil(self.piece_size())
    }

    fn piece_range(&self, number: u64) -> Range<u64> {
        let payload = self.manifest.payload();
        let start = payload.start.saturating_add(number.saturating_mul(self.piece_size())).min(payload.end);
        start..start.saturating_add(self.piece_size()).min(payload.end)
    }

    /// Reads a piece into the buffer; what is wrong with its digest or its fill.
    fn read_piece(
        &self,
        number: u64,
        range: &Range<u64>,
        gaps: &[Range<u64>],
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Violation>> {
        buffer.resize(usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default(), 0);
        self.read_exact_at(buffer, range.start)?;
        let sealed = self.layout() == Layout::Sealed;
        if sealed && let Err(violation) = seal::check_group(&self.manifest, number, buffer) {
            // Fill in a damaged group says nothing more.
            return Ok(Some(*violation));
        }
        let rule = if sealed { &rule::SEAL_INT_FILL } else { &rule::BLOCK_GAP };
        let hidden = nonzero_in(gaps, range, buffer);
        Ok(hidden.map(|at| Violation::new(rule, at, "a byte that belongs to no tensor is not zero")))
    }

    /// Names the first tensor of each damaged group. By one sorted list: looking each up among all tensors would take their product.
    fn with_tensors(&self, violations: Violations) -> Violations {
        if !violations.has_errors() {
            return violations;
        }
        let mut tensors: Vec<Tensor<'_>> = self.tensors().filter(|tensor| tensor.length > 0).collect();
        tensors.sort_unstable_by_key(|tensor| tensor.offset);
        let size = self.manifest.group_size().unwrap_or_default();
        violations.map(|mut violation| {
            let end = violation.offset.saturating_add(size);
            let first = tensors.partition_point(|tensor| tensor.range().end <= violation.offset);
            let tensor = tensors.get(first).filter(|tensor| violation.rule == &rule::SEAL_INT_GROUP && tensor.offset < end);
            violation.tensor = tensor.map(|tensor| tensor.name.to_owned());
            violation
        })
    }

    /// The parts of the payload that belong to no tensor, in file order.
    fn gaps(&self) -> Vec<Range<u64>> {
        let payload = self.manifest.payload();
        let mut ranges: Vec<Range<u64>> =
            self.tensors().filter(|tensor| tensor.length > 0).map(|tensor| tensor.range()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut cursor = payload.start;
        let mut gaps = Vec::new();
        for range in ranges.into_iter().chain(std::iter::once(payload.end..payload.end)) {
            if cursor < range.start {
                gaps.push(cursor..range.start);
            }
            cursor = cursor.max(range.end);
        }
        gaps
    }

    /// Maps the file, for views of tensors without a copy. The mapping is not verified: call [`MappedPack::verify`], or do without.
    ///
    /// # Safety
    /// As [`Mapping::of`]: nobody may change or truncate the file while the mapping lives.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] if the file was changed since it was opened; [`Error::Input`] if the source is no file.
    #[expect(unsafe_code, reason = "hands the promise of `Mapping::of` on to the caller")]
    pub unsafe fn map(&self) -> Result<MappedPack> {
        let file = self.file.as_ref().ok_or_else(|| Error::Input("only a file can be mapped".into()))?;
        // SAFETY: the caller promises that the file stays as it is for as long as the mapping lives.
        let mapping = Arc::new(unsafe { Mapping::of(file) }.map_err(|error| self.io(error))?);
        // Read again from the mapping: what is handed out must lie within what was mapped.
        // The same pack, and not one that was put in its place: by its id, or where there is none by its contents.
        let policy = Policy { expected_id: self.id(), ..self.policy.clone() };
        let options = OpenOptions { policy, ..OpenOptions::default() };
        let pack = options.open_at(mapping.clone(), &self.path)?;
        if pack.manifest != self.manifest {
            return Err(Error::Input(format!("{}: the file was changed after it was opened", self.path.display())));
        }
        Ok(MappedPack { pack, mapping })
    }

    /// A group that is not as it was sealed, with the first tensor in it.
    pub(crate) fn damaged(&self, mut violation: Violation) -> Error {
        let size = self.manifest.group_size().unwrap_or_default();
        violation.tensor = seal::first_tensor_in(&self.manifest, &(violation.offset..violation.offset.saturating_add(size)));
        self.invalid(violation)
    }

    fn invalid(&self, violation: Violation) -> Error {
        let mut violations = Violations::default();
        violations.push(violation);
        Error::from_violations(&self.path, violations)
    }

    /// Whether reads are verified.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_verified(&self) -> bool {
        !self.unverified && self.layout() == Layout::Sealed
    }

    /// The file, if the source is one.
    #[cfg(feature = "cuda")]
    pub(crate) fn file(&self) -> Option<&FileSource> {
        self.file.as_deref()
    }

    /// The file's bytes.
    pub(crate) fn source(&self) -> &dyn ReadAt {
        &self.source
    }

    pub(crate) fn io(&self, error: std::io::Error) -> Error {
        Error::io(&self.path, error)
    }

    fn short(&self) -> Error {
        self.io(std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// Foreign bytes in v3 and v4 files may run to gigabytes: one warning is enough.
fn once_warned(violations: Violations) -> Violations {
    let mut warned = false;
    violations.filter(|violation| {
        let again = violation.rule.severity == Severity::Warning && warned;
        warned |= violation.rule.severity == Severity::Warning;
        !again
    })
}

/// The first byte other than zero in the gaps that lie in a range, whose bytes are given.
fn nonzero_in(gaps: &[Range<u64>], range: &Range<u64>, bytes: &[u8]) -> Option<u64> {
    let first = gaps.partition_point(|gap| gap.end <= range.start);
    gaps.iter().skip(first).take_while(|gap| gap.start < range.end).find_map(|gap| {
        let start = gap.start.max(range.start);
        let end = gap.end.min(range.end);
        let from = usize::try_from(start.saturating_sub(range.start)).ok()?;
        let to = usize::try_from(end.saturating_sub(range.start)).ok()?;
        let at = first_nonzero(bytes.get(from..to)?)?;
        start.checked_add(at as u64)
    })
}

/// A pack mapped into memory: tensors as slices, without a copy.
#[derive(Debug)]
pub struct MappedPack {
    pack: Pack,
    mapping: Arc<Mapping>,
}

impl MappedPack {
    /// The pack itself.
    #[must_use]
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The bytes of a tensor, in place. Not verified.
    ///
    /// # Errors
    /// [`Error::NoSuchTensor`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let range = self.pack.tensor(name)?.range();
        let within = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        within.and_then(|(start, end)| self.mapping.as_bytes().get(start..end)).ok_or_else(|| self.pack.short())
    }

    /// Checks the whole mapping, as [`Pack::verify`].
    ///
    /// # Errors
    /// As [`Pack::verify`].
    pub fn verify(&self, progress: &dyn Progress) -> Result<()> {
        self.pack.verify(progress)
    }
}

/// The groups verified last. Small tensors share groups: without this, each would have its whole group read and hashed again.
#[derive(Default)]
struct GroupCache(Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>);

impl GroupCache {
    /// How many bytes of groups are kept.
    const BYTES: usize = 16 << 20;

    fn get_or_read(&self, number: u64, read: impl FnOnce() -> Result<Vec<u8>>) -> Result<Arc<Vec<u8>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, group)) = lock().iter().find(|(cached, _)| *cached == number) {
            return Ok(group.clone());
        }
        let group = Arc::new(read()?);
        let mut groups = lock();
        groups.push_back((number, group.clone()));
        // Always at least one: groups may be larger than all that is kept.
        while groups.len() > 1 && groups.iter().map(|(_, group)| group.len()).sum::<usize>() > Self::BYTES {
            groups.pop_front();
        }
        Ok(group)
    }
}
