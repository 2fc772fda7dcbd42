//! Models to measure on: the same tensors on every machine, in a temporary folder that goes when the measuring ends.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flashpack::convert::{RevertOptions, revert};
use flashpack::{Dtype, Layout, PlanOptions, TensorInfo, WriteOptions, Writer};
use tempfile::TempDir;

/// Cost against the number of tensors at one size, and against size at one number of tensors.
pub const MODELS: [Model; 6] = [
    Model { tensors: 300, mib: 1 },
    Model { tensors: 300, mib: 64 },
    Model { tensors: 300, mib: 1024 },
    Model { tensors: 10, mib: 64 },
    Model { tensors: 5_000, mib: 64 },
    Model { tensors: 100_000, mib: 64 },
];

/// A model of random bfloat16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Number of tensors.
    pub tensors: usize,
    /// All tensors together, padding aside.
    pub mib: u64,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors, {} MiB", self.tensors, self.mib)
    }
}

impl Model {
    /// Length of all tensors in bytes.
    pub fn bytes(self) -> u64 {
        self.mib << 20
    }

    /// Its tensors, in the order in which a checkpoint might have them. Sizes are spread as in real models: a few large, many small.
    pub fn infos(self) -> Vec<TensorInfo> {
        const COLUMNS: u64 = 16;
        let rows = self.bytes() / (2 * COLUMNS);
        let mut random = Random(7);
        // Sizes over three powers of ten, each as likely as the next.
        let weights: Vec<f64> = (0..self.tensors).map(|_| 1000_f64.powf(random.unit())).collect();
        let sum: f64 = weights.iter().sum();
        let mut sizes: Vec<u64> = weights.iter().map(|weight| (weight / sum * rows as f64) as u64).collect();
        sizes[0] += rows - sizes.iter().sum::<u64>();
        let info = |(number, rows)| {
            let name = format!("model.layers.{}.block{}.weight", number / 9, number % 9);
            TensorInfo::new(name, Dtype::BFloat16, [rows, COLUMNS])
        };
        sizes.into_iter().enumerate().map(info).collect()
    }

    /// The tensors with their bytes, which are parts of `weights`.
    pub fn writer(self, layout: Layout, weights: &[u8]) -> Writer<'_> {
        let mut writer = Writer::new(PlanOptions { layout, ..PlanOptions::default() });
        let mut rest = weights;
        for info in self.infos() {
            let length = usize::try_from(info.bytes().expect("a length")).expect("fits memory");
            let (bytes, after) = rest.split_at(length);
            writer.add(info.name, info.dtype, info.shape, bytes);
            rest = after;
        }
        writer
    }

    /// A pack of it. It is made once.
    pub fn pack(self, layout: Layout) -> PathBuf {
        file(&format!("{}-{}-{layout}.flashpack", self.tensors, self.mib), |path| {
            let weights = random_bytes(self.bytes());
            self.writer(layout, &weights).write(path, &unsynced()).expect("a pack");
        })
    }

    /// A safetensors file of it. It is made once.
    pub fn safetensors(self) -> PathBuf {
        let pack = self.pack(Layout::Sealed);
        file(&format!("{}-{}.safetensors", self.tensors, self.mib), |path| {
            let options = RevertOptions { write: unsynced(), ..RevertOptions::default() };
            revert(&pack, Some(path), &options).expect("a safetensors file");
        })
    }
}

/// Does not wait for the disk, which would be all that is measured.
pub fn unsynced() -> WriteOptions<'static> {
    WriteOptions { sync: false, ..WriteOptions::default() }
}

/// A path for a file to write, with no file there: some file systems send the new file to disk when it replaces another.
pub fn target() -> PathBuf {
    let path = folder().join("target");
    let _ = std::fs::remove_file(&path);
    path
}

/// Bytes without a pattern that matters.
pub fn random_bytes(length: u64) -> Vec<u8> {
    let mut random = Random(11);
    let block: Vec<u8> = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
    let length = usize::try_from(length).expect("fits memory");
    let mut bytes = block.repeat(length.div_ceil(block.len()));
    bytes.truncate(length);
    bytes
}

/// Random numbers, the same each time (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// Any 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Where the files of this run are.
static FOLDER: Mutex<Option<TempDir>> = Mutex::new(None);

/// Runs something that uses models, and removes their files.
pub fn with_folder(run: impl FnOnce()) {
    let folder = tempfile::Builder::new().prefix("flashpack-bench-").tempdir().expect("a temporary folder");
    *FOLDER.lock().expect("no panic") = Some(folder);
    run();
    // A static is not dropped at the end of a program.
    FOLDER.lock().expect("no panic").take();
}

fn folder() -> PathBuf {
    FOLDER.lock().expect("no panic").as_ref().expect("within `with_folder`").path().to_owned()
}

fn file(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let path = folder().join(name);
    if !path.exists() {
        make(&path);
    }
    path
}
