//! The dtype registry (spec clause `DTYPE-REG-01`): one row a dtype.
//!
//! A dtype has three names: the code in a sealed file's block table, the name in the JSON footer (PyTorch's name, without
//! `torch.`), and the name in a safetensors header. The packed 4- and 6-bit floats have footer names that PyTorch does not
//! know, so that the Python package refuses them instead of reading half of them.

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $code:literal $name:literal $safetensors:expr, $bits:literal, $doc:literal;)*) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Dtype { $(#[doc = $doc] $variant,)* }

        impl Dtype {
            /// Every dtype of the registry, in order of code.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// The code in a sealed file's block table.
            #[must_use]
            pub const fn code(self) -> u16 { match self { $(Dtype::$variant => $code,)* } }

            /// The name in the JSON footer and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Dtype::$variant => $name,)* } }

            /// The safetensors dtype of the same elements; `None` for the two complex types that safetensors lacks.
            #[must_use]
            pub const fn to_safetensors(self) -> Option<safetensors::Dtype> {
                match self { $(Dtype::$variant => $safetensors,)* }
            }

            /// The size of one element in bits: 4, 6, or a multiple of 8.
            #[must_use]
            pub const fn bits(self) -> u64 { match self { $(Dtype::$variant => $bits,)* } }
        }
    };
}

use safetensors::Dtype as S;

dtypes! {
    Float64       1  "float64"         Some(S::F64), 64, "IEEE 754 binary64.";
    Float32       2  "float32"         Some(S::F32), 32, "IEEE 754 binary32.";
    Float16       3  "float16"         Some(S::F16), 16, "IEEE 754 binary16.";
    BFloat16      4  "bfloat16"        Some(S::BF16), 16, "The upper half of a binary32.";
    Int64         5  "int64"           Some(S::I64), 64, "Signed 64-bit integer.";
    Int32         6  "int32"           Some(S::I32), 32, "Signed 32-bit integer.";
    Int16         7  "int16"           Some(S::I16), 16, "Signed 16-bit integer.";
    Int8          8  "int8"            Some(S::I8), 8, "Signed 8-bit integer.";
    UInt64        9  "uint64"          Some(S::U64), 64, "Unsigned 64-bit integer.";
    UInt32        10 "uint32"          Some(S::U32), 32, "Unsigned 32-bit integer.";
    UInt16        11 "uint16"          Some(S::U16), 16, "Unsigned 16-bit integer.";
    UInt8         12 "uint8"           Some(S::U8), 8, "Unsigned 8-bit integer.";
    Bool          13 "bool"            Some(S::BOOL), 8, "One byte: 0 or 1.";
    Complex128    14 "complex128"      None, 128, "Two binary64: real, imaginary.";
    Complex64     15 "complex64"       Some(S::C64), 64, "Two binary32: real, imaginary.";
    Complex32     16 "complex32"       None, 32, "Two binary16: real, imaginary.";
    Float8E4M3Fn  17 "float8_e4m3fn"   Some(S::F8_E4M3), 8, "8-bit float, 4 exponent bits, no infinity.";
    Float8E4M3Fnuz 18 "float8_e4m3fnuz" Some(S::F8_E4M3FNUZ), 8, "8-bit float, 4 exponent bits, no infinity, no negative zero.";
    Float8E5M2    19 "float8_e5m2"     Some(S::F8_E5M2), 8, "8-bit float, 5 exponent bits.";
    Float8E5M2Fnuz 20 "float8_e5m2fnuz" Some(S::F8_E5M2FNUZ), 8, "8-bit float, 5 exponent bits, no infinity, no negative zero.";
    Float8E8M0Fnu 21 "float8_e8m0fnu"  Some(S::F8_E8M0), 8, "8-bit power of two, no sign, no zero.";
    Float4E2M1    22 "float4_e2m1"     Some(S::F4), 4, "4-bit float, packed two to a byte.";
    Float6E2M3    23 "float6_e2m3"     Some(S::F6_E2M3), 6, "6-bit float, 2 exponent bits, packed four to three bytes.";
    Float6E3M2    24 "float6_e3m2"     Some(S::F6_E3M2), 6, "6-bit float, 3 exponent bits, packed four to three bytes.";
}

impl Dtype {
    /// The dtype with this code in a sealed file's block table.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|dtype| dtype.code() == code)
    }

    /// The dtype with this name in the JSON footer.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// The dtype that holds the same elements as a safetensors dtype.
    #[must_use]
    pub fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|ours| ours.to_safetensors() == Some(dtype))
    }

    /// Whether v3 and v4 files may hold it: the Python package cannot store elements smaller than a byte.
    #[must_use]
    pub const fn in_legacy(self) -> bool {
        self.bits() >= 8
    }

    /// The size in bytes of `elements` elements; `None` when they do not fill whole bytes, or on overflow.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        if self.bits() >= 8 {
            return elements.checked_mul(self.bits() / 8);
        }
        let bits = elements.checked_mul(self.bits())?;
        divided(bits, 8)
    }

    /// How many elements `bytes` bytes hold; `None` when they do not hold a whole number, or on overflow.
    #[must_use]
    pub fn elements_in(self, bytes: u64) -> Option<u64> {
        if self.bits() >= 8 {
            return divided(bytes, self.bits() / 8);
        }
        divided(bytes.checked_mul(8)?, self.bits())
    }

    /// The unit in bytes to which offsets of tensors of this dtype are rounded up: the smallest number of bytes that is a multiple
    /// of `alignment` and holds whole elements (spec clause `TENSOR-TILE-02`). `None` on overflow.
    #[must_use]
    pub fn rounding_unit(self, alignment: u64) -> Option<u64> {
        let bits = if alignment == 0 { 8 } else { alignment.checked_mul(8)? };
        // Both factors are multiples of 8, or the result is: lcm(8k, bits).
        let unit = bits.checked_div(gcd(bits, self.bits()))?.checked_mul(self.bits())?;
        Some(unit / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An unknown dtype name.
#[derive(Clone, Debug)]
pub struct UnknownDtype(String);

impl fmt::Display for UnknownDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
        write!(f, "unknown dtype `{}`; known are {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownDtype {}

impl std::str::FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(name: &str) -> Result<Dtype, UnknownDtype> {
        Dtype::from_name(name).ok_or_else(|| UnknownDtype(name.to_owned()))
    }
}

/// The quotient, if nothing is left over.
fn divided(dividend: u64, divisor: u64) -> Option<u64> {
    dividend.checked_div(divisor).filter(|_| dividend.is_multiple_of(divisor))
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_resolve_back() {
        for &dtype in Dtype::ALL {
            assert_eq!(Dtype::from_code(dtype.code()), Some(dtype));
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            if let Some(theirs) = dtype.to_safetensors() {
                assert_eq!(Dtype::from_safetensors(theirs), Some(dtype));
                assert_eq!(theirs.bitsize() as u64, dtype.bits());
            }
        }
    }

    #[test]
    fn rounding_units_follow_the_spec() {
        assert_eq!(Dtype::Float32.rounding_unit(0), Some(4));
        assert_eq!(Dtype::Float32.rounding_unit(128), Some(128));
        assert_eq!(Dtype::Float32.rounding_unit(1), Some(4));
        assert_eq!(Dtype::Float64.rounding_unit(100), Some(200));
        assert_eq!(Dtype::Float6E2M3.rounding_unit(0), Some(3));
        assert_eq!(Dtype::Float6E2M3.rounding_unit(128), Some(384));
        assert_eq!(Dtype::Float4E2M1.rounding_unit(0), Some(1));
    }
}
