//! Initialization, error texts, and what devices there are.

use super::Out;
use crate::{
    handle::DeviceId,
    result::{self, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE},
    state::{Guard, call, call_any_time},
};
use std::ffi::{CStr, c_char, c_int, c_uint};

/// The version that the stand-in shows: 12.8.
const VERSION: c_int = 12080;
/// What the devices say of themselves; of everything else they say 0.
const ATTRIBUTES: &[(c_uint, c_int)] = &[
    (1, 1024), // the most threads of a block
    (10, 32),  // the threads of a warp
    (15, 1),   // copies can overlap with kernels
    (16, 132), // multiprocessors
    (19, 1),   // host memory can be mapped
    (31, 1),   // kernels can run side by side
    (40, 3),   // engines for asynchronous copies
    (41, 1),   // unified addresses
    (75, 9),   // compute capability, major
    (76, 0),   // compute capability, minor
    (78, 1),   // streams have priorities
    (99, 1),   // host memory can be registered
    (115, 1),  // memory pools
];
/// The attribute that tells devices apart on the bus.
const PCI_BUS_ID: c_uint = 33;

/// A device's universal identifier.
type Uuid = [u8; 16];

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> u32 {
    call_any_time("cuInit", |mut state| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if state.configuration.devices == 0 {
            return Err(NO_DEVICE);
        }
        state.initialized = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> u32 {
    call_any_time("cuDriverGetVersion", |_| version.set(VERSION))
}

fn set_text(out: Out<*const c_char>, text: Option<&'static CStr>) -> result::Result {
    out.set(text.map_or(std::ptr::null(), CStr::as_ptr))?;
    text.map_or(Err(INVALID_VALUE), |_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: u32, text: Out<*const c_char>) -> u32 {
    call_any_time("cuGetErrorName", |_| set_text(text, result::name(error)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: u32, text: Out<*const c_char>) -> u32 {
    call_any_time("cuGetErrorString", |_| set_text(text, result::description(error)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> u32 {
    call("cuDeviceGetCount", |state| count.set(state.configuration.devices as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<DeviceId>, ordinal: c_int) -> u32 {
    call("cuDeviceGet", |state| {
        state.check_device(ordinal)?;
        device.set(ordinal)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: *mut c_char, capacity: c_int, device: DeviceId) -> u32 {
    call("cuDeviceGetName", |state| {
        state.check_device(device)?;
        let capacity = usize::try_from(capacity).map_err(|_| INVALID_VALUE)?;
        if name.is_null() || capacity == 0 {
            return Err(INVALID_VALUE);
        }
        let text = format!("Stand-in device {device}");
        let kept = &text.as_bytes()[..text.len().min(capacity - 1)];
        // SAFETY: the driver's caller promises room for `capacity` bytes, which is at least one more than are kept.
        unsafe {
            std::ptr::copy_nonoverlapping(kept.as_ptr().cast(), name, kept.len());
            name.add(kept.len()).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_uint, device: DeviceId) -> u32 {
    call("cuDeviceGetAttribute", |state| {
        state.check_device(device)?;
        let known = ATTRIBUTES.iter().find(|(known, _)| *known == attribute).map_or(0, |(_, value)| *value);
        value.set(if attribute == PCI_BUS_ID { device + 1 } else { known })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: DeviceId) -> u32 {
    call("cuDeviceTotalMem_v2", |state| {
        state.check_device(device)?;
        bytes.set(state.configuration.memory as usize)
    })
}

fn get_uuid(state: &Guard, uuid: Out<Uuid>, device: DeviceId) -> result::Result {
    state.check_device(device)?;
    let mut value = *b"stand-in device ";
    value[15] = b'0'.wrapping_add(device as u8);
    uuid.set(value)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: Out<Uuid>, device: DeviceId) -> u32 {
    call("cuDeviceGetUuid", |state| get_uuid(&state, uuid, device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, device: DeviceId) -> u32 {
    call("cuDeviceGetUuid_v2", |state| get_uuid(&state, uuid, device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, device: DeviceId, peer: DeviceId) -> u32 {
    call("cuDeviceCanAccessPeer", |state| {
        state.check_device(device)?;
        state.check_device(peer).map_err(|_| INVALID_DEVICE)?;
        can.set((state.configuration.peers && device != peer).into())
    })
}

/// A device's default memory pool: its number, plus one so that it is not null.
type Pool = usize;

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<Pool>, device: DeviceId) -> u32 {
    call("cuDeviceGetDefaultMemPool", |state| {
        state.check_device(device)?;
        pool.set(device as Pool + 1)
    })
}

/// Who may access a pool's memory: the kind of place, its number, and how.
#[repr(C)]
struct Access {
    kind: c_uint,
    device: DeviceId,
    flags: c_uint,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAccess(pool: Pool, accesses: *const Access, count: usize) -> u32 {
    /// A device, as the kind of place.
    const DEVICE: c_uint = 1;
    call("cuMemPoolSetAccess", |state| {
        state.check_device((pool as DeviceId) - 1)?;
        if accesses.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver's caller promises `count` records.
        let accesses = unsafe { std::slice::from_raw_parts(accesses, count) };
        for access in accesses {
            state.check_device(access.device)?;
            if access.kind != DEVICE || access.flags > 3 || !state.configuration.peers {
                return Err(INVALID_DEVICE);
            }
        }
        Ok(())
    })
}
