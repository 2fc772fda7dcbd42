//! The cast kernels against slow ones: every value through its exact real number.

use flashpack::Dtype;
use flashpack::convert::cast::{cast as fast, is_supported};

/// Casts any bytes from any dtype to any other.
pub fn cast(data: &[u8]) {
    let Some((&[from, to], bytes)) = data.split_first_chunk::<2>() else { return };
    let pick = |number: u8| Dtype::ALL[usize::from(number) % Dtype::ALL.len()];
    let (from, to) = (pick(from), pick(to));
    if !is_supported(from, to) || from.bits() < 8 || to.bits() < 8 {
        return;
    }
    let (size, target_size) = ((from.bits() / 8) as usize, (to.bits() / 8) as usize);
    let count = bytes.len() / size;
    let mut target = vec![0; count * target_size];
    fast(from, to, &bytes[..count * size], &mut target);
    if from == to {
        assert_eq!(target, bytes[..count * size]);
        return;
    }
    for (source, found) in bytes.chunks_exact(size).zip(target.chunks_exact(target_size)) {
        if let Some(expected) = slow(from, to, source) {
            let same = match &expected {
                Expected::Bytes(bytes) => bytes == found,
                Expected::NotANumber => is_nan(to, found),
            };
            assert!(same, "{from} {source:?} to {to}: {found:?}, not {expected:?}");
        }
    }
}

#[derive(Debug)]
enum Expected {
    Bytes(Vec<u8>),
    /// Which one is for the golden tests.
    NotANumber,
}

/// A value without loss: whole numbers do not all fit a double.
enum Value {
    Real(f64),
    Whole(i128),
}

fn slow(from: Dtype, to: Dtype, source: &[u8]) -> Option<Expected> {
    let value = decode(from, source)?;
    if to == Dtype::Bool {
        let truth = match value {
            Value::Real(real) => real != 0.0,
            Value::Whole(whole) => whole != 0,
        };
        return Some(Expected::Bytes(vec![truth.into()]));
    }
    if let Some(size) = whole_size(to) {
        let Value::Whole(whole) = value else { return None };
        return Some(Expected::Bytes(whole.to_le_bytes()[..size].to_vec()));
    }
    if let Value::Real(real) = value
        && real.is_nan()
    {
        return Some(Expected::NotANumber);
    }
    // PyTorch goes to every smaller float by way of binary32.
    let single = match value {
        Value::Real(real) => real as f32,
        Value::Whole(whole) => whole as f32,
    };
    let bytes = match to {
        Dtype::Float64 => match value {
            Value::Real(real) => real.to_le_bytes().to_vec(),
            Value::Whole(whole) => (whole as f64).to_le_bytes().to_vec(),
        },
        Dtype::Float32 => single.to_le_bytes().to_vec(),
        Dtype::Float16 => half::f16::from_f32(single).to_le_bytes().to_vec(),
        Dtype::BFloat16 => half::bf16::from_f32(single).to_le_bytes().to_vec(),
        // The 8-bit floats have golden tests over all there is.
        _ => return None,
    };
    Some(Expected::Bytes(bytes))
}

fn decode(from: Dtype, bytes: &[u8]) -> Option<Value> {
    let unsigned = bytes.iter().rev().fold(0_u128, |number, &byte| number << 8 | u128::from(byte));
    let bits = from.bits() as u32;
    Some(match from {
        Dtype::Float64 => Value::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
        Dtype::Float32 => Value::Real(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        Dtype::Float16 => Value::Real(half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64()),
        Dtype::BFloat16 => Value::Real(half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f64()),
        Dtype::UInt64 | Dtype::UInt32 | Dtype::UInt16 | Dtype::UInt8 => Value::Whole(unsigned as i128),
        Dtype::Int64 | Dtype::Int32 | Dtype::Int16 | Dtype::Int8 => {
            Value::Whole(((unsigned << (128 - bits)) as i128) >> (128 - bits))
        }
        // Other bytes than 0 and 1 are no booleans.
        Dtype::Bool if unsigned <= 1 => Value::Whole(unsigned as i128),
        _ => return None,
    })
}

fn whole_size(to: Dtype) -> Option<usize> {
    Some(match to {
        Dtype::Int64 | Dtype::UInt64 => 8,
        Dtype::Int32 | Dtype::UInt32 => 4,
        Dtype::Int16 | Dtype::UInt16 => 2,
        Dtype::Int8 | Dtype::UInt8 => 1,
        _ => return None,
    })
}

fn is_nan(to: Dtype, bytes: &[u8]) -> bool {
    match (to, bytes) {
        (Dtype::Float64, _) => bytes.try_into().is_ok_and(|bytes| f64::from_le_bytes(bytes).is_nan()),
        (Dtype::Float32, _) => bytes.try_into().is_ok_and(|bytes| f32::from_le_bytes(bytes).is_nan()),
        (Dtype::Float16, &[low, high]) => half::f16::from_le_bytes([low, high]).is_nan(),
        (Dtype::BFloat16, &[low, high]) => half::bf16::from_le_bytes([low, high]).is_nan(),
        // For the golden tests.
        _ => true,
    }
}
