//! The cast kernels, one thread, 4 Mi elements.

use divan::{Bencher, black_box, counter::BytesCount};
use flashpack::Dtype;
use flashpack::convert::cast::cast;

const ELEMENTS: usize = 4 << 20;

fn main() {
    divan::main();
}

fn measure(bencher: Bencher, from: Dtype, to: Dtype) {
    let size = |dtype: Dtype| ELEMENTS * dtype.bits() as usize / 8;
    let source: Vec<u8> = (0..size(from)).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut target = vec![0; size(to)];
    bencher.counter(BytesCount::new(source.len())).bench_local(|| cast(from, to, black_box(&source), &mut target));
}

macro_rules! casts {
    ($($name:ident: $from:ident to $to:ident;)*) => { $(
        #[divan::bench(sample_count = 15, sample_size = 1)]
        fn $name(bencher: Bencher) {
            measure(bencher, Dtype::$from, Dtype::$to);
        }
    )* };
}

casts! {
    float32_to_bfloat16: Float32 to BFloat16;
    bfloat16_to_float32: BFloat16 to Float32;
    float32_to_float16: Float32 to Float16;
    float16_to_float32: Float16 to Float32;
    float64_to_float32: Float64 to Float32;
    bfloat16_to_float16: BFloat16 to Float16;
    bfloat16_to_float8_e4m3fn: BFloat16 to Float8E4M3Fn;
    float8_e4m3fn_to_bfloat16: Float8E4M3Fn to BFloat16;
    int64_to_float32: Int64 to Float32;
}
