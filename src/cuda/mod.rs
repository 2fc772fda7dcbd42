//! Packs onto GPUs: each byte is read once into pinned memory, verified there, and copied once over the link.
//!
//! ```no_run
//! use flashpack::Pack;
//! use flashpack::cuda::{Device, LoadOptions, Loader};
//!
//! # fn main() -> flashpack::Result<()> {
//! let loader = Loader::new(&[Device::open(0)?]);
//! let pack = Pack::open("model.flashpack")?;
//! let loaded = loader.load(&pack, &LoadOptions::default())?;
//! let weight = loaded.packs[0].tensor("conv1.weight")?;
//! println!("{} {:?} at {:#x}; read {:?}", weight.dtype(), weight.shape(), weight.address(), loaded.timings.read);
//! # Ok(())
//! # }
//! ```
//!
//! The driver is looked for when it is first used; without one, [`Device::open`] is an [`Error::Device`](crate::Error::Device).
//!
//! # How it is built
//!
//! `select` and `schedule` turn a selection into regions of device memory and chunks of the file, with no driver. Reader threads take chunks
//! one after the other; `reading` fills a `staging` slot (a pinned buffer of the `pool`), the groups in it are checked, and the slot is handed
//! to the thread's own stream, which copies it while the thread fills the next. `driver` is the only file that calls CUDA, `loader` the only
//! one that knows all the others.
//!
//! # What is promised
//!
//! - What was verified is what is sent: the digests are checked on the pinned bytes, and the file is not looked at again.
//! - No tensor is handed out before all of the selection has arrived and was found right.
//! - After an error, or when cancelled, all copies have ended, the device memory was cleared and all of it, and every pinned buffer, is
//!   given back. (Of a context that was lost, as after a fault of the device, nothing can be cleared.)
//! - Device memory that no copy fills (between tensors of a partial load) is zero.
//!
//! Not promised: that bytes stay as they are on the way over the link or on the device, which no digest here can see.

mod device_pack;
mod dlpack;
mod driver;
mod loader;
mod pool;
mod reading;
mod schedule;
mod select;
mod staging;
mod sync;

pub use device_pack::{DevicePack, DeviceTensor};
/// The C struct of [`DlpackTensor`].
pub use dlpark::ffi::DLManagedTensorVersioned;

pub use dlpack::DlpackTensor;
pub use driver::Device;
pub use loader::{LoadOptions, Loaded, Loader, LoaderOptions, Timings};
pub use reading::Strategy;
pub use select::Select;
