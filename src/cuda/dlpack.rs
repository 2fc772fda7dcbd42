//! Tensors for other frameworks, by DLPack 1: `torch.from_dlpack`, `cupy.from_dlpack`, `jax.dlpack`.

use std::ptr::NonNull;
use std::sync::Arc;

use dlpark::DlpackFlags;
use dlpark::ffi::{
    DLDataType, DLDataTypeCode, DLDevice, DLDeviceType, DLManagedTensorVersioned, DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION,
    DLPackVersion, DLTensor,
};

use super::driver::DeviceMemory;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// A tensor that a framework can adopt without a copy. Dropped, it lets go of the device memory.
#[derive(Debug)]
pub struct DlpackTensor(NonNull<DLManagedTensorVersioned>);

// SAFETY: it owns its parts: dims on the heap, and device memory that may be used from any thread.
unsafe impl Send for DlpackTensor {}

/// What the managed tensor points into, and keeps.
struct Keeper {
    _memory: Arc<DeviceMemory>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl DlpackTensor {
    pub(super) fn new(memory: Arc<DeviceMemory>, address: u64, dtype: Dtype, shape: &[u64]) -> Result<DlpackTensor> {
        let too_large = || Error::Input(format!("DLPack has no such shape: {shape:?}"));
        let dims: Option<Vec<i64>> = shape.iter().map(|&dim| i64::try_from(dim).ok()).collect();
        let dims = dims.ok_or_else(too_large)?;
        let rank = i32::try_from(dims.len()).map_err(|_| too_large())?;
        let mut strides: Vec<i64> = Vec::with_capacity(dims.len());
        let mut stride = 1_i64;
        for &dim in dims.iter().rev() {
            strides.push(stride);
            // An empty tensor's strides reach nothing; they need only be numbers.
            stride = stride.checked_mul(dim.max(1)).ok_or_else(too_large)?;
        }
        strides.reverse();
        let (code, bits) = data_type(dtype);
        let device =
            DLDevice { device_type: DLDeviceType::CUDA, device_id: i32::try_from(memory.device().ordinal()).unwrap_or(i32::MAX) };
        let data = usize::try_from(address).map_err(|_| too_large())?;
        // The framework's streams are not known here.
        memory.share();
        let mut keeper = Box::new(Keeper { _memory: memory, shape: dims, strides });
        let tensor = DLTensor {
            data: std::ptr::without_provenance_mut(data),
            device,
            ndim: rank,
            dtype: DLDataType { code, bits, lanes: 1 },
            shape: keeper.shape.as_mut_ptr(),
            strides: keeper.strides.as_mut_ptr(),
            byte_offset: 0,
        };
        let managed = Box::new(DLManagedTensorVersioned {
            version: DLPackVersion { major: DLPACK_MAJOR_VERSION, minor: DLPACK_MINOR_VERSION },
            manager_ctx: Box::into_raw(keeper).cast(),
            deleter: Some(delete),
            flags: DlpackFlags::empty(),
            dl_tensor: tensor,
        });
        Ok(DlpackTensor(NonNull::from(Box::leak(managed))))
    }

    /// The tensor as the C struct, owned by the caller: for a capsule named `dltensor_versioned`. Whoever adopts it calls its `deleter` in
    /// the end.
    #[must_use]
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    /// The C struct, for as long as this lives.
    #[must_use]
    pub fn as_ptr(&self) -> *const DLManagedTensorVersioned {
        self.0.as_ptr()
    }
}

impl Drop for DlpackTensor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not given away, or this would not be dropped.
        unsafe { delete(self.0.as_ptr()) };
    }
}

/// # Safety
/// `managed` was made by [`DlpackTensor::new`], and this is called once. It may be null.
unsafe extern "C" fn delete(managed: *mut DLManagedTensorVersioned) {
    if managed.is_null() {
        return;
    }
    // SAFETY: the caller's promise: both were boxes.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(managed.manager_ctx.cast::<Keeper>()) });
}

fn data_type(dtype: Dtype) -> (DLDataTypeCode, u8) {
    let code = match dtype {
        Dtype::Float64 | Dtype::Float32 | Dtype::Float16 => DLDataTypeCode::FLOAT,
        Dtype::BFloat16 => DLDataTypeCode::BFLOAT,
        Dtype::Int64 | Dtype::Int32 | Dtype::Int16 | Dtype::Int8 => DLDataTypeCode::INT,
        Dtype::UInt64 | Dtype::UInt32 | Dtype::UInt16 | Dtype::UInt8 => DLDataTypeCode::UINT,
        Dtype::Bool => DLDataTypeCode::BOOL,
        Dtype::Complex128 | Dtype::Complex64 | Dtype::Complex32 => DLDataTypeCode::COMPLEX,
        Dtype::Float8E4M3Fn => DLDataTypeCode::FLOAT8_E4M3FN,
        Dtype::Float8E4M3Fnuz => DLDataTypeCode::FLOAT8_E4M3FNUZ,
        Dtype::Float8E5M2 => DLDataTypeCode::FLOAT8_E5M2,
        Dtype::Float8E5M2Fnuz => DLDataTypeCode::FLOAT8_E5M2FNUZ,
        Dtype::Float8E8M0Fnu => DLDataTypeCode::FLOAT8_E8M0FNU,
        Dtype::Float4E2M1 => DLDataTypeCode::FLOAT4_E2M1FN,
        Dtype::Float6E2M3 => DLDataTypeCode::FLOAT6_E2M3FN,
        Dtype::Float6E3M2 => DLDataTypeCode::FLOAT6_E3M2FN,
    };
    (code, u8::try_from(dtype.bits()).unwrap_or_default())
}
