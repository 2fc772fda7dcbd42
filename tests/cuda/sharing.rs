//! What others do with the memory: frameworks that adopt tensors, threads that drop packs, contexts that are someone else's.

use flashpack::cuda::{Device, LoadOptions};
use flashpack::{Dtype, Layout};

use crate::driver::with_driver;
use crate::model::{File, TENSORS, loader, threads};

#[test]
fn a_tensor_adopted_by_a_framework_outlives_the_pack() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        let loaded = loader(&[Device::open(0).unwrap()]).load(&pack, &threads(2)).unwrap();
        let on_device = &loaded.packs[0];
        let adopted: Vec<_> =
            on_device.tensors().map(|tensor| (tensor.address(), tensor.to_dlpack().unwrap().into_raw())).collect();
        let kept = driver.allocated();
        drop(loaded);
        assert_eq!(driver.allocated(), kept);
        for ((name, dtype, shape), (address, raw)) in TENSORS.iter().zip(&adopted) {
            // SAFETY: the tensor lives until its deleter is called.
            let tensor = unsafe { &(**raw).dl_tensor };
            assert_eq!(tensor.data as u64, *address, "{name}");
            assert_eq!((tensor.ndim as usize, u64::from(tensor.dtype.bits)), (shape.len(), dtype.bits()), "{name}");
            assert_eq!((tensor.dtype.lanes, tensor.device.device_id, tensor.byte_offset), (1, 0, 0));
            assert_eq!(tensor.device.device_type, dlpark::ffi::DLDeviceType::CUDA);
            // SAFETY: DLPack: `ndim` dims and strides.
            let dims = unsafe { std::slice::from_raw_parts(tensor.shape, shape.len()) };
            // SAFETY: as above.
            let strides = unsafe { std::slice::from_raw_parts(tensor.strides, shape.len()) };
            assert!(dims.iter().zip(*shape).all(|(&a, &b)| a as u64 == b));
            if dims.len() == 2 {
                assert_eq!(strides, [dims[1].max(1), 1]);
            }
            if *dtype == Dtype::BFloat16 {
                assert_eq!(tensor.dtype.code, dlpark::ffi::DLDataTypeCode::BFLOAT);
            }
        }
        for (_, raw) in adopted {
            // SAFETY: each is adopted once, and its deleter called once.
            unsafe { (*raw).deleter.unwrap()(raw) };
        }
        assert_eq!(driver.allocated(), 0);
        // Nobody told on which streams the framework worked: the device was waited for.
        assert!(driver.calls("cuCtxSynchronize") > 0);
    });
}

#[test]
fn a_tensor_that_nobody_adopts_lets_go() {
    with_driver(|driver| {
        let pack = File::new(Layout::V4).open();
        let loaded = loader(&[Device::open(0).unwrap()]).load(&pack, &LoadOptions::default()).unwrap();
        let exported = loaded.packs[0].tensor("embedding").unwrap().to_dlpack().unwrap();
        drop(loaded);
        assert!(driver.allocated() > 0);
        std::thread::spawn(move || drop(exported)).join().unwrap();
        assert_eq!(driver.allocated(), 0);
    });
}

#[test]
fn a_tensor_off_its_alignment_is_not_for_frameworks() {
    with_driver(|_| {
        let pack = File::new(Layout::Sealed).open();
        let payload = pack.manifest().payload();
        let select = flashpack::cuda::Select::Bytes(payload.start + 1..payload.end);
        let loaded = loader(&[Device::open(0).unwrap()]).load(&pack, &LoadOptions { select, ..threads(2) }).unwrap();
        for tensor in loaded.packs[0].tensors() {
            let bytes = tensor.dtype().bits() / 8;
            assert_eq!(tensor.to_dlpack().is_ok(), tensor.address().is_multiple_of(bytes), "{}", tensor.name());
        }
    });
}

#[test]
fn a_pack_can_be_dropped_on_any_thread_and_after_its_loader() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        let loader = loader(&[Device::open(0).unwrap()]);
        let loaded = loader.load(&pack, &threads(2)).unwrap();
        drop(loader);
        std::thread::spawn(move || drop(loaded)).join().unwrap();
        assert_eq!(driver.allocated(), 0);
    });
}

#[test]
fn the_callers_context_is_left_as_it_was() {
    use cudarc::driver::result::ctx;
    with_driver(|_| {
        let pack = File::new(Layout::Sealed).open();
        let device = Device::open(0).unwrap();
        assert_eq!(ctx::get_current().unwrap(), None);
        let loaded = loader(&[device]).load(&pack, &threads(2)).unwrap();
        assert_eq!(ctx::get_current().unwrap(), None);
        loaded.packs[0].tensor("scale").unwrap().to_host().unwrap();
        drop(loaded);
        assert_eq!(ctx::get_current().unwrap(), None);
    });
}
