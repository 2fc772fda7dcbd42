//! The ways to load a model that are compared.
//!
//! Another one is one more [`Loader`] in the list: table, CSV, JSON and plot take what the list has.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flashpack::source::{FileSource, Mapping};
use flashpack::{Error, OpenOptions};
use safetensors::SafeTensors;

/// The key of the loader whose time the ratio is about.
pub(super) const FLASHPACK: &str = "flashpack";
/// The key of the loader that it is compared with.
pub(super) const SAFETENSORS: &str = "safetensors";

/// One way to load a model.
pub(super) struct Loader<'a> {
    /// Its name in JSON and, with `_seconds`, in CSV.
    pub(super) key: &'static str,
    /// Its name in the table and the plot.
    pub(super) label: &'static str,
    /// Loads the whole model once: the time from before the first file is opened until every tensor is in place. Freeing it does not count.
    pub(super) load: Box<dyn Fn() -> Result<Duration, Error> + 'a>,
}

/// All ways to load a model from its pack or its safetensors files, in the order of the table. To a GPU where there is one, and a driver.
pub(super) fn loaders<'a>(pack: &'a Path, files: &'a [PathBuf]) -> Vec<Loader<'a>> {
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "only GPUs are added"))]
    let mut loaders = vec![
        Loader { key: FLASHPACK, label: "flashpack", load: Box::new(|| load_pack(pack, true)) },
        Loader { key: "flashpack_unverified", label: "unverified", load: Box::new(|| load_pack(pack, false)) },
        Loader { key: SAFETENSORS, label: "safetensors", load: Box::new(|| load_safetensors(files)) },
        Loader { key: "read", label: "plain read", load: Box::new(|| read(pack)) },
    ];
    #[cfg(feature = "cuda")]
    if let Ok(device) = flashpack::cuda::Device::open(0) {
        let gpu = flashpack::cuda::Loader::new(&[device]);
        loaders.push(Loader { key: "gpu", label: "to the GPU", load: Box::new(move || load_to_gpu(pack, &gpu)) });
    }
    loaders
}

/// Verified, with pinned buffers that the first run makes and the others use again.
#[cfg(feature = "cuda")]
fn load_to_gpu(path: &Path, gpu: &flashpack::cuda::Loader) -> Result<Duration, Error> {
    let started = Instant::now();
    let pack = OpenOptions::new().open(path)?;
    let loaded = gpu.load(&pack, &flashpack::cuda::LoadOptions::default())?;
    let time = started.elapsed();
    drop(loaded);
    Ok(time)
}

fn load_pack(path: &Path, verify: bool) -> Result<Duration, Error> {
    let started = Instant::now();
    let pack = OpenOptions::new().verify_reads(verify).open(path)?;
    let loaded = black_box(pack.load()?);
    let time = started.elapsed();
    drop(loaded);
    Ok(time)
}

/// As users of the `safetensors` crate do: map each file, read its header, copy every tensor into memory of its own.
fn load_safetensors(files: &[PathBuf]) -> Result<Duration, Error> {
    let started = Instant::now();
    let mut tensors: HashMap<String, Vec<u8>> = HashMap::new();
    for path in files {
        let source = FileSource::open(path).map_err(|error| Error::io(path, error))?;
        // SAFETY: whoever runs the benchmark is told that nothing may change the files meanwhile; the mapping ends with this round.
        #[expect(unsafe_code, reason = "what is measured is what users of safetensors do, and they map")]
        let mapping = unsafe { Mapping::of(&source) }.map_err(|error| Error::io(path, error))?;
        let file = SafeTensors::deserialize(mapping.as_bytes()).map_err(|error| Error::Malformed {
            path: path.clone(),
            what: "safetensors file",
            message: error.to_string(),
        })?;
        tensors.extend(file.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())));
    }
    let tensors = black_box(tensors);
    let time = started.elapsed();
    drop(tensors);
    Ok(time)
}

/// The same bytes as the pack's, on one thread, with nothing checked: what the system itself takes.
fn read(path: &Path) -> Result<Duration, Error> {
    let started = Instant::now();
    let bytes = black_box(std::fs::read(path).map_err(|error| Error::io(path, error))?);
    let time = started.elapsed();
    drop(bytes);
    Ok(time)
}
