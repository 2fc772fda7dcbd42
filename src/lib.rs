//! scaffold
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
pub mod dtype;
pub mod error;
pub mod format;
pub mod limits;
pub mod manifest;
mod parse;
pub mod pack;
pub mod plan;
pub mod rule;
pub mod seal;
pub mod source;
pub mod writer;
pub mod convert;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use limits::Limits;
pub use manifest::{Block, Manifest, Shape, Tensor};
pub use pack::{MappedPack, OpenOptions, Pack, Report};
pub use plan::{Order, Plan, PlanOptions, TensorInfo};
pub use rule::{Layout, Rule, Severity, Violation, Violations};
pub use seal::PackId;
pub use source::ReadAt;
pub use writer::{Progress, TensorBytes, TensorData, WriteOptions, Writer, Written};
