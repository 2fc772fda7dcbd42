//! Conversions between files: against the `safetensors` crate, and there and back.

use flashpack::convert::safetensors::SafetensorsFile;
use flashpack::convert::{ConvertOptions, RevertOptions};
use flashpack::diff::{Model, compare};
use flashpack::{Error, Layout, Pack, WriteOptions};
use safetensors::SafeTensors;

use super::Folder;

const QUICK: WriteOptions<'static> = WriteOptions { replace: true, sync: false, progress: &() };

/// A safetensors file: what the `safetensors` crate reads, we convert, bit for bit; what it refuses, we do too.
pub fn convert(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.file("m.safetensors", data);
    let theirs = SafeTensors::deserialize(data);
    let ours = SafetensorsFile::open(&path);
    if let Ok(theirs) = &theirs {
        match &ours {
            Ok(ours) => assert_eq!(ours.tensors().len(), theirs.len()),
            // We refuse more: keys that occur twice, texts that are none. Never for a reason of the machine.
            Err(Error::Malformed { .. } | Error::Input(_)) => return,
            Err(other) => panic!("{other}"),
        }
    }
    let Ok(theirs) = theirs else {
        assert!(ours.is_err(), "the safetensors crate refuses it");
        return;
    };
    for layout in [Layout::Sealed, Layout::V4] {
        let mut options = ConvertOptions { write: QUICK, ..ConvertOptions::default() };
        options.plan.layout = layout;
        let target = folder.at("m.flashpack");
        match flashpack::convert::convert(&path, Some(&target), &options) {
            Ok(_) => {
                let pack = Pack::open(&target).expect("what we write is valid");
                assert_eq!(pack.manifest().len(), theirs.len());
                for (name, view) in theirs.iter() {
                    let tensor = pack.tensor(name).expect("it was converted");
                    assert_eq!(tensor.dtype.to_safetensors(), Some(view.dtype()));
                    assert!(tensor.shape.iter().eq(view.shape().iter().map(|&dim| dim as u64)));
                    assert_eq!(pack.read(name).expect("it is valid"), view.data());
                }
            }
            Err(Error::Input(_)) => assert!(!target.exists() || layout == Layout::V4),
            Err(other) => panic!("{other}"),
        }
        let _ = std::fs::remove_file(target);
    }
}

/// A pack: reverting gives a file that the `safetensors` crate reads, with the same tensors, or an error and no file.
pub fn revert(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.file("m.flashpack", data);
    let target = folder.at("m.safetensors");
    let options = RevertOptions { write: QUICK, ..RevertOptions::default() };
    if flashpack::convert::revert(&path, Some(&target), &options).is_err() {
        assert!(!target.exists());
        return;
    }
    let file = std::fs::read(&target).expect("it was written");
    let reverted = SafeTensors::deserialize(&file).expect("what we write is valid");
    let pack = Pack::open(&path).expect("it was reverted");
    assert_eq!(reverted.len(), pack.manifest().len());
    for tensor in pack.tensors() {
        let view = reverted.tensor(tensor.name).expect("it was reverted");
        assert_eq!(view.data(), pack.read(tensor.name).expect("it was verified"));
    }
}

/// Two files of any kind: nothing differs from itself, and what was removed one way was added the other.
pub fn diff(data: &[u8]) {
    let Some((&[kinds, high, low], rest)) = data.split_first_chunk::<3>() else { return };
    let at = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (a, b) = rest.split_at(at);
    let folder = Folder::new();
    let name = |kind: u8, stem: &str| format!("{stem}.{}", if kind & 1 == 0 { "flashpack" } else { "safetensors" });
    let open = |bytes: &[u8], name: &str| Model::open(&folder.file(name, bytes));
    let (a, b) = (open(a, &name(kinds, "a")), open(b, &name(kinds >> 1, "b")));
    if let Ok(a) = &a
        && let Ok(changes) = compare(a, a, &())
    {
        assert!(changes.is_empty());
    }
    if let (Ok(a), Ok(b)) = (&a, &b)
        && let (Ok(there), Ok(back)) = (compare(a, b, &()), compare(b, a, &()))
    {
        assert_eq!(there.len(), back.len());
    }
}
