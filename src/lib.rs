//! The FlashPack tensor file format: model weights packed into one contiguous, aligned file, sealed by digests.
//!
//! A pack is read whole in a few large copies instead of thousands of small ones. A *sealed* pack, the default here, also carries a BLAKE3
//! digest over every byte, so that a load is verified on the way, and one 32-byte [`PackId`] to pin or sign; the Python package `flashpack`
//! loads it unchanged. The packs that the Python package writes (v3 and v4) are read and written too, byte for byte. The spec is in
//! `spec/flashpack.md`; documentation here cites its clauses.
//!
//! Read a tensor, verified:
//!
//! ```no_run
//! # fn main() -> flashpack::Result<()> {
//! let pack = flashpack::Pack::open("model.flashpack")?;
//! for tensor in pack.tensors() {
//!     println!("{} {} {}", tensor.name, tensor.dtype, tensor.shape);
//! }
//! let weights: Vec<u8> = pack.read("conv1.weight")?;
//! # Ok(())
//! # }
//! ```
//!
//! Convert a model, in bounded memory, to a file that appears only when it is whole:
//!
//! ```
//! # fn main() -> flashpack::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let target = folder.path().join("model.flashpack");
//! use flashpack::convert::{ConvertOptions, convert};
//!
//! let source = std::path::Path::new("models/silero-vad/model.safetensors");
//! let packs = convert(source, Some(&target), &ConvertOptions::default())?;
//! println!("sealed as {}", packs[0].written.id.unwrap());
//! # Ok(())
//! # }
//! ```
//!
//! Take a file from a stranger: only the one that was pinned, and only if every byte of it is right:
//!
//! ```no_run
//! # fn main() -> flashpack::Result<()> {
//! let id = "b0c5...".parse().expect("64 hexadecimal digits");
//! let pack = flashpack::OpenOptions::new().expect_id(id).strict(true).open("download.flashpack")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Data flows one way. Reading: bytes -> [`format`](mod@format) -> `parse` -> [`Manifest`] -> [`Pack`] -> read, map or (feature `cuda`) GPU. Writing: tensors -> [`plan`] ->
//! [`Manifest`] -> [`writer`] -> bytes.
//!
//! # What is safe
//!
//! Everything but mapping ([`Pack::map`], and what is built on it): values from a file are hostile until checked, reading is into owned memory, and no bytes make
//! the crate panic or allocate more than the file's size and [`Limits`] allow.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )
)]
#![deny(unsafe_code)]

pub mod convert;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "the driver's interface is C: calls are fenced in `cuda::driver`")]
pub mod cuda;
pub mod diff;
pub mod dtype;
pub mod error;
pub mod explain;
pub mod format;
pub mod limits;
pub mod load;
pub mod manifest;
pub mod map;
pub mod pack;
mod parse;
pub mod plan;
pub mod rule;
pub mod seal;
#[expect(unsafe_code, reason = "mapping a file is the caller's promise that it stays as it is")]
pub mod source;
pub mod writer;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use limits::Limits;
pub use load::Loaded;
pub use manifest::{Block, Manifest, Shape, Tensor};
pub use pack::{MappedPack, OpenOptions, Pack, Report};
pub use plan::{Order, Plan, PlanOptions, TensorInfo};
pub use rule::{Layout, Rule, Severity, Violation, Violations};
pub use seal::PackId;
pub use source::ReadAt;
pub use writer::{Progress, TensorBytes, TensorData, WriteOptions, Writer, Written};
