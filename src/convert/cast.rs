//! Elements of one dtype to another, with the bits that PyTorch's `Tensor.to` gives.
//!
//! | from | to | how |
//! |---|---|---|
//! | any float, integer, bool | float64 | exact, or rounded to nearest even (64-bit integers) |
//! | any float, integer, bool | smaller floats | rounded to float32, then to the target, each to nearest even: as PyTorch, which rounds twice |
//! | integer, bool | integer | the low bits |
//! | any | bool | whether it is not zero |
//!
//! A value too large for the target becomes infinity; in float8_e4m3fn, which has none, the largest finite value (older versions of PyTorch than
//! 2.15, which this follows, may give NaN), and in the other dtypes without infinity NaN (infinity itself goes the same way). NaN stays NaN.
//! PyTorch gives a NaN other bits in long tensors than in short ones, and on processors without AVX2: those of long tensors with AVX2 are given
//! here. Floats are not cast to integers, as PyTorch's result depends on the processor; complex and sub-byte dtypes are not cast at all.

use half::f16;

use crate::dtype::Dtype;

/// Whether [`cast`] can turn `from` into `to`.
#[must_use]
pub fn is_supported(from: Dtype, to: Dtype) -> bool {
    match (kind(from), kind(to)) {
        _ if from == to => true,
        (Kind::Other, _) | (_, Kind::Other) => false,
        (Kind::Float, Kind::Integer) => false,
        (_, Kind::Float | Kind::Integer | Kind::Bool) => true,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Integer,
    Bool,
    Other,
}

fn kind(dtype: Dtype) -> Kind {
    use Dtype as D;
    match dtype {
        D::Float64 | D::Float32 | D::Float16 | D::BFloat16 => Kind::Float,
        D::Float8E4M3Fn | D::Float8E4M3Fnuz | D::Float8E5M2 | D::Float8E5M2Fnuz | D::Float8E8M0Fnu => Kind::Float,
        D::Int64 | D::Int32 | D::Int16 | D::Int8 | D::UInt64 | D::UInt32 | D::UInt16 | D::UInt8 => Kind::Integer,
        D::Bool => Kind::Bool,
        D::Complex128 | D::Complex64 | D::Complex32 | D::Float4E2M1 | D::Float6E2M3 | D::Float6E3M2 => Kind::Other,
    }
}

/// Casts elements. `source` and `target` hold the same number of them, as little-endian bytes; what is left over in either stays as it is,
/// and so does all of `target` for a pair that is not supported.
pub fn cast(from: Dtype, to: Dtype, source: &[u8], target: &mut [u8]) {
    use Dtype as D;
    if from == to {
        for (target, source) in target.iter_mut().zip(source) {
            *target = *source;
        }
        return;
    }
    // The source's half of the choice; `cast_from` makes the other. Each pair becomes a loop of its own, with no choice left in it.
    match from {
        D::Float64 => cast_from(to, source, target, f64::from_le_bytes),
        D::Float32 => cast_from(to, source, target, f32::from_le_bytes),
        D::Float16 => cast_from(to, source, target, |bytes| ViaScalar(f16::from_le_bytes(bytes).to_f32())),
        D::BFloat16 => cast_from(to, source, target, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
        D::Int64 => cast_from(to, source, target, i64::from_le_bytes),
        D::Int32 => cast_from(to, source, target, |bytes| i64::from(i32::from_le_bytes(bytes))),
        D::Int16 => cast_from(to, source, target, |bytes| i64::from(i16::from_le_bytes(bytes))),
        D::Int8 => cast_from(to, source, target, |bytes| i64::from(i8::from_le_bytes(bytes))),
        D::UInt64 => cast_from(to, source, target, u64::from_le_bytes),
        D::UInt32 => cast_from(to, source, target, |bytes| i64::from(u32::from_le_bytes(bytes))),
        D::UInt16 => cast_from(to, source, target, |bytes| i64::from(u16::from_le_bytes(bytes))),
        D::UInt8 => cast_from(to, source, target, |[byte]| i64::from(byte)),
        D::Bool => cast_from(to, source, target, |[byte]| i64::from(byte != 0)),
        D::Float8E4M3Fn => cast_from(to, source, target, by_table(&E4M3FN.values())),
        D::Float8E4M3Fnuz => cast_from(to, source, target, by_table(&E4M3FNUZ.values())),
        D::Float8E5M2 => cast_from(to, source, target, by_table(&E5M2.values())),
        D::Float8E5M2Fnuz => cast_from(to, source, target, by_table(&E5M2FNUZ.values())),
        D::Float8E8M0Fnu => cast_from(to, source, target, |[byte]| ViaScalar(decode_e8m0(byte))),
        D::Complex128 | D::Complex64 | D::Complex32 | D::Float4E2M1 | D::Float6E2M3 | D::Float6E3M2 => {}
    }
}

fn cast_from<const N: usize, V: Value>(to: Dtype, source: &[u8], target: &mut [u8], decode: impl Fn([u8; N]) -> V + Copy) {
    use Dtype as D;
    match to {
        D::Float64 => each(source, target, decode, |value| value.to_f64().to_le_bytes()),
        D::Float32 => each(source, target, decode, |value| value.to_f32().to_le_bytes()),
        D::Float16 => each(source, target, decode, |value| f16::from_f32(value.to_f32()).to_le_bytes()),
        D::BFloat16 => each(source, target, decode, |value| encode_bf16(value.to_f32(), V::BF16_NAN).to_le_bytes()),
        D::Float8E4M3Fn => each(source, target, decode, |value| [E4M3FN.encode(value.to_f32())]),
        D::Float8E4M3Fnuz => each(source, target, decode, |value| [E4M3FNUZ.encode(value.to_f32())]),
        D::Float8E5M2 => each(source, target, decode, |value| [E5M2.encode(value.to_f32())]),
        D::Float8E5M2Fnuz => each(source, target, decode, |value| [E5M2FNUZ.encode(value.to_f32())]),
        D::Float8E8M0Fnu => each(source, target, decode, |value| [encode_e8m0(value.to_f32())]),
        D::Bool => each(source, target, decode, |value| [u8::from(value.is_nonzero())]),
        D::Int64 | D::UInt64 => each(source, target, decode, |value| value.low_bits().to_le_bytes()),
        D::Int32 | D::UInt32 => each(source, target, decode, |value| low::<4>(value.low_bits())),
        D::Int16 | D::UInt16 => each(source, target, decode, |value| low::<2>(value.low_bits())),
        D::Int8 | D::UInt8 => each(source, target, decode, |value| low::<1>(value.low_bits())),
        D::Complex128 | D::Complex64 | D::Complex32 | D::Float4E2M1 | D::Float6E2M3 | D::Float6E3M2 => {}
    }
}

fn each<const N: usize, const M: usize, V>(
    source: &[u8],
    target: &mut [u8],
    decode: impl Fn([u8; N]) -> V,
    encode: impl Fn(V) -> [u8; M],
) {
    let (source, _) = source.as_chunks::<N>();
    let (target, _) = target.as_chunks_mut::<M>();
    for (target, source) in target.iter_mut().zip(source) {
        *target = encode(decode(*source));
    }
}

/// An element between the two halves of a cast.
trait Value: Copy {
    /// The bits of a NaN that becomes bfloat16.
    const BF16_NAN: u16 = 0xFFFF;

    fn to_f64(self) -> f64;
    fn to_f32(self) -> f32;
    fn is_nonzero(self) -> bool;
    /// Floats have none that matter: they are not cast to integers.
    fn low_bits(self) -> u64 {
        0
    }
}

impl Value for f64 {
    fn to_f64(self) -> f64 {
        self
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
    fn to_f32(self) -> f32 {
        self as f32
    }

    fn is_nonzero(self) -> bool {
        self != 0.0
    }
}

impl Value for f32 {
    fn to_f64(self) -> f64 {
        self.into()
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn is_nonzero(self) -> bool {
        self != 0.0
    }
}

/// A float of 8 or 16 bits: PyTorch's bfloat16 gives NaN other bits when it comes from one of these.
#[derive(Clone, Copy)]
struct ViaScalar(f32);

impl Value for ViaScalar {
    const BF16_NAN: u16 = 0x7FC0;

    fn to_f64(self) -> f64 {
        self.0.into()
    }

    fn to_f32(self) -> f32 {
        self.0
    }

    fn is_nonzero(self) -> bool {
        self.0 != 0.0
    }
}

macro_rules! integer_value {
    ($($integer:ty)*) => {$(
        impl Value for $integer {
            #[expect(clippy::cast_precision_loss, reason = "rounding is what is wanted")]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[expect(clippy::cast_precision_loss, reason = "rounding is what is wanted")]
            fn to_f32(self) -> f32 {
                self as f32
            }

            fn is_nonzero(self) -> bool {
                self != 0
            }

            fn low_bits(self) -> u64 {
                u64::from_ne_bytes(self.to_ne_bytes())
            }
        }
    )*};
}

integer_value!(i64 u64);

fn low<const N: usize>(bits: u64) -> [u8; N] {
    let bytes = bits.to_le_bytes();
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// Rounds to nearest even. Adding the rounding increment may carry into the exponent, which is right, and up to infinity.
fn encode_bf16(value: f32, nan: u16) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF).wrapping_add((bits >> 16) & 1);
    if value.is_nan() { nan } else { (rounded >> 16) as u16 }
}

/// An 8-bit float with a sign.
struct Float8 {
    mantissa_bits: u32,
    bias: i32,
    /// What values too large become, sign aside.
    overflow: u8,
    /// The first code, sign aside, that is no finite number.
    first_special: u8,
    /// Whether there is one NaN, 0x80, and no infinity and no negative zero.
    fnuz: bool,
}

const E4M3FN: Float8 = Float8 { mantissa_bits: 3, bias: 7, overflow: 0x7E, first_special: 0x7F, fnuz: false };
const E4M3FNUZ: Float8 = Float8 { mantissa_bits: 3, bias: 8, overflow: 0x80, first_special: 0x80, fnuz: true };
const E5M2: Float8 = Float8 { mantissa_bits: 2, bias: 15, overflow: 0x7C, first_special: 0x7C, fnuz: false };
const E5M2FNUZ: Float8 = Float8 { mantissa_bits: 2, bias: 16, overflow: 0x80, first_special: 0x80, fnuz: true };

/// Looks a code up: there are only 256, and working one out takes many times longer.
fn by_table(values: &[f32; 256]) -> impl Fn([u8; 1]) -> ViaScalar + Copy {
    |[code]| ViaScalar(values.get(usize::from(code)).copied().unwrap_or(f32::NAN))
}

impl Float8 {
    /// The value of each code.
    fn values(&self) -> [f32; 256] {
        let mut values = [0.0; 256];
        for (value, code) in values.iter_mut().zip(0..=u8::MAX) {
            *value = self.decode(code);
        }
        values
    }

    /// Rounds to nearest even.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "codes are below 256 where they are cut to 8 bits"
    )]
    #[expect(clippy::arithmetic_side_effects, reason = "on exponents and codes of at most 12 bits")]
    fn encode(&self, value: f32) -> u8 {
        let bits = value.to_bits();
        let sign = ((bits >> 24) & 0x80) as u8;
        let magnitude = bits & 0x7FFF_FFFF;
        let signed = |code: u8| if self.fnuz && (code == 0 || code == 0x80) { code } else { code | sign };
        if value.is_nan() {
            return signed(if self.fnuz { 0x80 } else { 0x7F });
        }
        let exponent = (magnitude >> 23) as i32 - 127;
        let smallest_normal = 1 - self.bias;
        if exponent > 15 {
            return signed(self.overflow);
        }
        // The significand with its leading one, and how many of its low bits do not fit: more for what becomes subnormal.
        let significand = (magnitude & 0x007F_FFFF) | 0x0080_0000;
        let below_normal = (smallest_normal - exponent).max(0) as u32;
        let dropped = 23 - self.mantissa_bits + below_normal;
        if dropped > 25 {
            return signed(0);
        }
        let kept = significand >> dropped;
        let remainder = significand & ((1 << dropped) - 1);
        let half = 1 << (dropped - 1);
        let up = u32::from(remainder > half || (remainder == half && kept & 1 == 1));
        // A subnormal's code is its significand. A normal number's leading one adds one to the exponent field, so that is set one lower; a carry
        // out of rounding goes into the exponent by itself.
        let field = if below_normal > 0 { 0 } else { ((exponent + self.bias - 1) as u32) << self.mantissa_bits };
        let code = field + kept + up;
        signed(if code >= u32::from(self.first_special) { self.overflow } else { code as u8 })
    }

    #[expect(clippy::arithmetic_side_effects, reason = "on exponents and mantissas of at most 8 bits")]
    fn decode(&self, code: u8) -> f32 {
        let negative = code & 0x80 != 0;
        let magnitude = code & 0x7F;
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        let exponent = i32::from(magnitude >> self.mantissa_bits);
        let nan = |bits: u32| f32::from_bits(bits | if negative { 0x8000_0000 } else { 0 });
        if self.fnuz {
            if code == 0x80 {
                return f32::from_bits(FNUZ_NAN);
            }
        } else if magnitude > self.first_special || (magnitude == self.first_special && self.mantissa_bits == 3) {
            return nan(if self.mantissa_bits == 3 {
                E4M3FN_NAN
            } else {
                0x7F80_0000 | 0x0040_0000 | (u32::from(mantissa) << 21)
            });
        } else if magnitude == self.first_special {
            return if negative { f32::NEG_INFINITY } else { f32::INFINITY };
        }
        // Exact: a power of two times a mantissa of three bits.
        let (significand, exponent) =
            if exponent == 0 { (mantissa, 1) } else { (mantissa | (1 << self.mantissa_bits), exponent) };
        let power = exponent - self.bias - i32::try_from(self.mantissa_bits).unwrap_or(0);
        let value = f32::from(significand) * 2_f32.powi(power);
        if negative { -value } else { value }
    }
}

/// The bits of the NaNs that PyTorch decodes.
const FNUZ_NAN: u32 = 0x7F80_0001;
const E4M3FN_NAN: u32 = 0x7FF0_0000;

/// The nearest power of two, ties to the larger exponent as PyTorch has it; sign and zero are lost, infinity becomes NaN.
#[expect(clippy::cast_possible_truncation, reason = "an exponent has 8 bits")]
#[expect(clippy::arithmetic_side_effects, reason = "an exponent of 8 bits and one")]
fn encode_e8m0(value: f32) -> u8 {
    let bits = value.to_bits();
    let exponent = (bits >> 23) & 0xFF;
    if exponent == 0xFF {
        return 0xFF;
    }
    let mantissa = bits & 0x007F_FFFF;
    let up = mantissa > 0x0040_0000 || (mantissa == 0x0040_0000 && exponent > 0);
    (exponent + u32::from(up)) as u8
}

fn decode_e8m0(code: u8) -> f32 {
    f32::from_bits(match code {
        0 => 0x0040_0000,
        0xFF => 0x7F80_0001,
        code => u32::from(code) << 23,
    })
}
