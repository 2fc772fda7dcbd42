//! Maps a pack and sums a float32 tensor in place, without a copy.
//!
//! `cargo run --example zero_copy -- FILE TENSOR`

use flashpack::{Dtype, Error, Pack, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(name)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: zero_copy FILE TENSOR");
        std::process::exit(2);
    };
    let pack = Pack::open(&path)?;
    // SAFETY: this program assumes that nobody changes the file while it runs. Where that cannot be known, `Pack::read` is the way.
    let mapped = unsafe { pack.map() }?;
    mapped.verify(&())?;
    let tensor = pack.tensor(&name)?;
    if tensor.dtype != Dtype::Float32 {
        return Err(Error::Input(format!("{name} is {}, not float32", tensor.dtype)));
    }
    let (values, _) = mapped.bytes(&name)?.as_chunks::<4>();
    let sum: f64 = values.iter().map(|value| f64::from(f32::from_le_bytes(*value))).sum();
    println!("{name}: {} elements, sum {sum}", values.len());
    Ok(())
}
