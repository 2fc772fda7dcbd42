//! Packs tensors from memory and from a stream, opens the pack, and reads one back, verified.
//!
//! `cargo run --example pack_from_memory`

use flashpack::{Dtype, Pack, PlanOptions, WriteOptions, Writer};

fn main() -> flashpack::Result<()> {
    let folder = std::env::temp_dir().join(format!("flashpack-example-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| flashpack::Error::io(&folder, error))?;
    let path = folder.join("model.flashpack");

    let weight: Vec<u8> = (0..6).flat_map(|value| (value as f32).to_le_bytes()).collect();
    let mut writer = Writer::new(PlanOptions::default());
    writer.add("linear.weight", Dtype::Float32, [2, 3], weight.as_slice());
    // A stream gives its bytes once: a pipe, a decompressor, a download.
    writer.add_stream("linear.bias", Dtype::BFloat16, [2], std::io::Cursor::new([0x80, 0x3f, 0x00, 0x40]));
    writer.metadata("format", "pt");
    let written = writer.write(&path, &WriteOptions::default())?;
    if let Some(id) = written.id {
        println!("{} bytes, pack id {id}", written.bytes);
    }

    let pack = Pack::open(&path)?;
    for tensor in pack.tensors() {
        println!("{}: {} {}, {} bytes", tensor.name, tensor.dtype, tensor.shape, tensor.length);
    }
    assert_eq!(pack.read("linear.weight")?, weight);
    std::fs::remove_dir_all(&folder).map_err(|error| flashpack::Error::io(&folder, error))
}
