//! Casts give the bits that PyTorch gives. The digests in `golden/casts.txt` are made by `conformance/upstream/casts.py`.

use flashpack::Dtype;
use flashpack::convert::cast::{cast, is_supported};

fn float32_patterns() -> impl Iterator<Item = u32> {
    (0..1_u32 << 20).flat_map(|i| [i << 12, (i << 12) + 1, (i << 12) + 0xFFF])
}

/// The same patterns as in `casts.py`.
fn patterns(dtype: Dtype) -> Vec<u8> {
    match (dtype, dtype.bits()) {
        (Dtype::Bool, _) => vec![0, 1],
        (_, 8) => (0..=u8::MAX).collect(),
        (_, 16) => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        (Dtype::Float32, _) => float32_patterns().flat_map(u32::to_le_bytes).collect(),
        (Dtype::Float64, _) => float32_patterns()
            .map(|bits| f64::from(f32::from_bits(bits)).to_bits())
            .flat_map(|bits| [bits, bits.wrapping_add(1), bits.wrapping_sub(1)])
            .flat_map(u64::to_le_bytes)
            .collect(),
        (_, bits) => (0..100_000_u64)
            .map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (i % 64))
            .flat_map(|pattern| pattern.to_le_bytes().into_iter().take(bits as usize / 8))
            .collect(),
    }
}

#[test]
fn every_pair_gives_the_bits_that_pytorch_gives() {
    let golden = include_str!("golden/casts.txt");
    let mut source = (Dtype::Bool, patterns(Dtype::Bool));
    let mut checked = 0;
    for line in golden.lines() {
        let [from, to, digest] = line.split(' ').collect::<Vec<_>>().try_into().expect("three words a line");
        let (from, to): (Dtype, Dtype) = (from.parse().unwrap(), to.parse().unwrap());
        assert!(is_supported(from, to), "{from} to {to}");
        if source.0 != from {
            source = (from, patterns(from));
        }
        let elements = from.elements_in(source.1.len() as u64).unwrap();
        let mut target = vec![0; to.bytes_of(elements).unwrap() as usize];
        cast(from, to, &source.1, &mut target);
        assert_eq!(blake3::hash(&target).to_hex().as_str(), digest, "{from} to {to}");
        checked += 1;
    }
    assert_eq!(checked, 234);
}

#[test]
fn what_pytorch_has_no_sure_answer_for_is_refused() {
    assert!(!is_supported(Dtype::Float32, Dtype::Int32));
    assert!(!is_supported(Dtype::Complex64, Dtype::Float32));
    assert!(!is_supported(Dtype::Float32, Dtype::Float4E2M1));
    assert!(Dtype::ALL.iter().all(|&dtype| is_supported(dtype, dtype)));
}
