//! Models to load: small, but of several blocks, groups and chunks, with tensors of every size that matters.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flashpack::cuda::{Device, LoadOptions, Loader, LoaderOptions};
use flashpack::{Dtype, Layout, OpenOptions, Pack, PlanOptions, ReadAt, WriteOptions, Writer};

/// A digest group.
pub const GROUP: usize = 1 << 16;

/// Name, dtype and shape of each tensor: empty, scalar, under a group, of one group, over several, of dtypes in blocks of their own.
pub const TENSORS: &[(&str, Dtype, &[u64])] = &[
    ("attention.bias", Dtype::Float32, &[768]),
    ("attention.weight", Dtype::BFloat16, &[300, 768]),
    ("embedding", Dtype::BFloat16, &[511, 129]),
    ("empty", Dtype::Float32, &[0, 8]),
    ("flags", Dtype::Bool, &[5]),
    ("mlp.down", Dtype::Float8E4M3Fn, &[64, 1024]),
    ("mlp.up", Dtype::Float8E4M3Fn, &[1024, 65]),
    ("scale", Dtype::Float32, &[]),
    ("steps", Dtype::Int64, &[10_000]),
];

/// Bytes of a tensor: none is zero, so that memory that was not cleared shows.
pub fn bytes(name: &str, dtype: Dtype, shape: &[u64]) -> Vec<u8> {
    let length = dtype.bytes_of(shape.iter().product()).unwrap();
    let seed = name.bytes().map(u64::from).sum::<u64>();
    (0..length).map(|i| (i.wrapping_mul(seed) / 7 % 255 + 1) as u8).collect()
}

/// A file with the model in it.
pub struct File {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

impl File {
    pub fn new(layout: Layout) -> File {
        // In the target folder: the temporary one may be memory, which cannot be read past the page cache.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("model.flashpack");
        let group_log2 = if layout == Layout::Sealed { 16 } else { PlanOptions::default().group_log2 };
        let tensors = TENSORS.iter().filter(|(_, dtype, _)| layout != Layout::V3 || *dtype == Dtype::BFloat16);
        let data: Vec<_> = tensors.map(|(name, dtype, shape)| (*name, *dtype, *shape, bytes(name, *dtype, shape))).collect();
        let mut writer = Writer::new(PlanOptions { layout, group_log2, ..PlanOptions::default() });
        for (name, dtype, shape, bytes) in &data {
            writer.add(*name, *dtype, shape.to_vec(), bytes.as_slice());
        }
        writer.write(&path, &WriteOptions { sync: false, ..Default::default() }).unwrap();
        File { _folder: folder, path }
    }

    pub fn open(&self) -> Pack {
        Pack::open(&self.path).unwrap()
    }

    pub fn open_unverified(&self) -> Pack {
        OpenOptions::new().verify_reads(false).open(&self.path).unwrap()
    }

    pub fn contents(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

/// A loader whose buffers hold two groups, so that any load takes many chunks.
pub fn loader(devices: &[Device]) -> Loader {
    Loader::with_options(devices, LoaderOptions::default().buffer_bytes(2 * GROUP).pinned_bytes(12 * GROUP))
}

pub fn threads(count: usize) -> LoadOptions<'static> {
    LoadOptions { threads: Some(count.try_into().unwrap()), ..LoadOptions::default() }
}

/// Bytes in memory that count what is read of them, and can be told to fail.
pub struct Source {
    bytes: Vec<u8>,
    pub bytes_read: AtomicU64,
    reads: AtomicU64,
    fails_at: AtomicU64,
}

impl Source {
    /// Opens a pack that is read from them. What opening read is not counted.
    pub fn open(bytes: Vec<u8>) -> (Pack, Arc<Source>) {
        let counts = || AtomicU64::new(0);
        let source = Source { bytes, bytes_read: counts(), reads: counts(), fails_at: AtomicU64::new(u64::MAX) };
        let source = Arc::new(source);
        let pack = OpenOptions::new().open_source(source.clone()).unwrap();
        source.bytes_read.store(0, Ordering::Relaxed);
        source.reads.store(0, Ordering::Relaxed);
        (pack, source)
    }

    /// The read with this number, counted from now, fails.
    pub fn fail_at(&self, number: u64) {
        self.reads.store(0, Ordering::Relaxed);
        self.fails_at.store(number, Ordering::Relaxed);
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl ReadAt for Source {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        if self.reads.fetch_add(1, Ordering::Relaxed) == self.fails_at.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the disk is broken"));
        }
        self.bytes.read_exact_at(buffer, offset)
    }
}
