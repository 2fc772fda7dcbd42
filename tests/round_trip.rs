//! Whatever goes in comes out: any tensors, names, metadata and options, through each layout and through safetensors, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use flashpack::convert::{ConvertOptions, RevertOptions, convert, revert};
use flashpack::{Dtype, Layout, OpenOptions, Order, Pack, PlanOptions, WriteOptions, Writer};
use proptest::prelude::*;
use tempfile::TempDir;

#[derive(Clone, Debug)]
struct Given {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z]{1,8}(\\.[a-z0-9_]{1,6}){0,3}",
        2 => any::<String>(),
        1 => Just(String::new()),
        1 => "[\"\\\\\n\t\u{0}\u{7f}é漢]{1,5}",
    ]
}

fn tensor(dtypes: &'static [Dtype]) -> impl Strategy<Value = Given> {
    let shape = prop::collection::vec(prop_oneof![4 => 1_u64..9, 1 => Just(0), 1 => 10_u64..300], 0..4);
    (name(), prop::sample::select(dtypes), shape, any::<u8>()).prop_map(|(name, dtype, mut shape, seed)| {
        // 4- and 6-bit elements come in groups that fill whole bytes.
        if dtype.bits() < 8 {
            shape.push(4);
        }
        let elements: u64 = shape.iter().product();
        let length = dtype.bytes_of(elements).unwrap();
        let bytes = (0..length).map(|i| (i % 251) as u8 ^ seed).collect();
        Given { name, dtype, shape, bytes }
    })
}

fn tensors(dtypes: &'static [Dtype]) -> impl Strategy<Value = Vec<Given>> {
    prop::collection::vec(tensor(dtypes), 0..12).prop_map(|tensors| {
        let unique: BTreeMap<String, Given> = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        unique.into_values().collect()
    })
}

fn metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(any::<String>(), any::<String>(), 0..4)
}

fn order() -> impl Strategy<Value = Order> {
    prop::sample::select(&[Order::Size, Order::Name, Order::Source][..])
}

fn sealed_options() -> impl Strategy<Value = PlanOptions> {
    let alignment = prop::sample::select(&[0_u64, 1, 16, 128, 4096][..]);
    (alignment, order(), 16_u8..=20, metadata()).prop_map(|(alignment, order, group_log2, metadata)| PlanOptions {
        layout: Layout::Sealed,
        alignment,
        order,
        group_log2,
        metadata,
    })
}

fn v4_options() -> impl Strategy<Value = PlanOptions> {
    let alignment = prop::sample::select(&[0_u64, 1, 16, 100, 128, 4096][..]);
    (alignment, order()).prop_map(|(alignment, order)| PlanOptions { layout: Layout::V4, alignment, order, ..Default::default() })
}

fn write(path: &Path, tensors: &[Given], options: &PlanOptions) -> flashpack::Result<flashpack::Written> {
    let mut writer = Writer::new(options.clone());
    for Given { name, dtype, shape, bytes } in tensors {
        writer.add(name, *dtype, shape.clone(), bytes.as_slice());
    }
    writer.write(path, &WriteOptions { sync: false, ..Default::default() })
}

fn assert_holds(pack: &Pack, tensors: &[Given]) {
    assert_eq!(pack.manifest().len(), tensors.len());
    for given in tensors {
        let found = pack.tensor(&given.name).unwrap();
        assert_eq!((found.dtype, found.shape.to_vec()), (given.dtype, given.shape.clone()));
        assert_eq!(pack.read(&given.name).unwrap(), given.bytes, "{:?}", given.name);
    }
}

fn quick() -> ConvertOptions<'static> {
    ConvertOptions { write: WriteOptions { sync: false, ..Default::default() }, ..Default::default() }
}

fn quick_revert() -> RevertOptions<'static> {
    RevertOptions { write: WriteOptions { sync: false, ..Default::default() }, ..Default::default() }
}

/// Dtypes that v4 and safetensors both know.
const COMMON: &[Dtype] = &[
    Dtype::Float64,
    Dtype::Float32,
    Dtype::Float16,
    Dtype::BFloat16,
    Dtype::Int64,
    Dtype::Int32,
    Dtype::Int16,
    Dtype::Int8,
    Dtype::UInt64,
    Dtype::UInt32,
    Dtype::UInt16,
    Dtype::UInt8,
    Dtype::Bool,
    Dtype::Complex64,
    Dtype::Float8E4M3Fn,
    Dtype::Float8E4M3Fnuz,
    Dtype::Float8E5M2,
    Dtype::Float8E5M2Fnuz,
    Dtype::Float8E8M0Fnu,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..Default::default() })]

    #[test]
    fn a_sealed_pack_gives_back_what_it_was_given(tensors in tensors(Dtype::ALL), options in sealed_options()) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.flashpack");
        let written = write(&path, &tensors, &options).unwrap();
        let pack = OpenOptions::new().strict(true).open(&path).unwrap();
        // parse(write(plan)) == plan, and the id is the same from both ends.
        prop_assert_eq!(pack.manifest(), &written.manifest);
        prop_assert_eq!(pack.id(), written.id);
        assert_holds(&pack, &tensors);
        let kept: BTreeMap<String, String> = pack.manifest().metadata().map(|(k, v)| (k.into(), v.into())).collect();
        prop_assert_eq!(kept, options.metadata);
    }

    #[test]
    fn a_v4_pack_gives_back_what_it_was_given(tensors in tensors(COMMON), options in v4_options()) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.flashpack");
        match write(&path, &tensors, &options) {
            Ok(written) => {
                let pack = OpenOptions::new().strict(true).open(&path).unwrap();
                prop_assert_eq!(pack.manifest(), &written.manifest);
                assert_holds(&pack, &tensors);
            }
            Err(error) => prop_assert!(tensors.iter().all(|tensor| tensor.bytes.is_empty()), "{error}"),
        }
    }

    #[test]
    fn a_v3_pack_gives_back_what_it_was_given(tensors in tensors(&[Dtype::BFloat16]), alignment in 0_u64..300) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.flashpack");
        let options = PlanOptions { layout: Layout::V3, alignment, ..Default::default() };
        if let Ok(written) = write(&path, &tensors, &options) {
            let pack = OpenOptions::new().strict(true).open(&path).unwrap();
            prop_assert_eq!(pack.manifest(), &written.manifest);
            assert_holds(&pack, &tensors);
        } else {
            prop_assert!(tensors.iter().all(|tensor| tensor.bytes.is_empty()));
        }
    }

    #[test]
    fn the_same_tensors_in_any_order_give_the_same_sealed_bytes(
        (tensors, shuffled) in tensors(Dtype::ALL).prop_flat_map(|tensors| (Just(tensors.clone()), Just(tensors).prop_shuffle())),
        mut options in sealed_options(),
    ) {
        if options.order == Order::Source {
            options.order = Order::Size;
        }
        let folder = TempDir::new().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let (first, second) = (write(&a, &tensors, &options).unwrap(), write(&b, &shuffled, &options).unwrap());
        prop_assert_eq!(first.id, second.id);
        prop_assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn packs_survive_safetensors_shards_and_every_layout(
        tensors in tensors(COMMON),
        metadata in metadata(),
        shard in 1_u64..2000,
    ) {
        prop_assume!(tensors.iter().any(|tensor| !tensor.bytes.is_empty()));
        prop_assume!(tensors.iter().all(|tensor| tensor.name != "__metadata__") && !metadata.contains_key("__metadata__"));
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let options = PlanOptions { metadata: metadata.clone(), ..Default::default() };
        let written = write(&at("model.flashpack"), &tensors, &options).unwrap();

        // Back to one file, and to shards; each gives the same pack again.
        revert(&at("model.flashpack"), Some(&at("one.safetensors")), &quick_revert()).unwrap();
        let one = convert(&at("one.safetensors"), None, &quick()).unwrap();
        prop_assert_eq!(one[0].written.id, written.id);
        let sharded = RevertOptions { max_shard_bytes: Some(shard), ..quick_revert() };
        let paths = revert(&at("model.flashpack"), Some(&at("many.safetensors")), &sharded).unwrap();
        let many = convert(paths.last().unwrap(), Some(&at("many.flashpack")), &quick()).unwrap();
        prop_assert_eq!(many[0].written.id, written.id);

        // Sealed to v4 and back loses the metadata and nothing else.
        let mut v4 = quick();
        v4.plan.layout = Layout::V4;
        convert(&at("model.flashpack"), Some(&at("v4.flashpack")), &v4).unwrap();
        assert_holds(&Pack::open(at("v4.flashpack")).unwrap(), &tensors);
        let mut back = quick();
        back.plan.metadata = metadata;
        let back = convert(&at("v4.flashpack"), Some(&at("back.flashpack")), &back).unwrap();
        prop_assert_eq!(back[0].written.id, written.id);

        // The safetensors crate reads what was reverted.
        let bytes = std::fs::read(at("one.safetensors")).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for given in &tensors {
            prop_assert_eq!(read.tensor(&given.name).unwrap().data(), given.bytes.as_slice());
        }
    }

    #[test]
    fn streams_and_memory_give_the_same_file(tensors in tensors(Dtype::ALL), options in sealed_options()) {
        let folder = TempDir::new().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write(&a, &tensors, &options).unwrap();
        let mut writer = Writer::new(options);
        for Given { name, dtype, shape, bytes } in &tensors {
            writer.add_stream(name, *dtype, shape.clone(), bytes.as_slice());
        }
        writer.write(&b, &WriteOptions::default()).unwrap();
        prop_assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn parts_and_maps_agree_with_whole_reads(tensors in tensors(Dtype::ALL), options in sealed_options(), cut in any::<prop::sample::Index>()) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a");
        write(&path, &tensors, &options).unwrap();
        let pack = Pack::open(&path).unwrap();
        // SAFETY: nothing else knows the file.
        let mapped = unsafe { pack.map() }.unwrap();
        mapped.verify(&()).unwrap();
        for given in &tensors {
            prop_assert_eq!(mapped.bytes(&given.name).unwrap(), given.bytes.as_slice());
            let start = cut.index(given.bytes.len() + 1);
            let mut part = vec![0xAA; given.bytes.len() - start];
            pack.read_part(&given.name, start as u64, &mut part).unwrap();
            prop_assert_eq!(&part, &given.bytes[start..]);
        }
    }
}

/// A pack of several groups and blocks, small enough to break everywhere.
fn small_pack() -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("small.flashpack");
    let large: Vec<u8> = (0..70_000_u32).map(|i| (i % 251) as u8).collect();
    let mut writer = Writer::new(PlanOptions { group_log2: 16, ..Default::default() });
    writer.metadata("format", "pt");
    writer.add("large", Dtype::UInt8, [70_000], large.as_slice());
    writer.add("scalar", Dtype::Float32, [], &[1_u8, 2, 3, 4][..]);
    writer.add("empty", Dtype::Float32, [0, 3], &[][..]);
    writer.write(&path, &WriteOptions::default()).unwrap();
    std::fs::read(path).unwrap()
}

fn is_refused(bytes: Vec<u8>) -> bool {
    OpenOptions::new().strict(true).open_source(Arc::new(bytes)).is_err()
}

#[test]
fn every_flipped_bit_of_structure_and_a_spread_of_the_payload_is_refused() {
    let whole = small_pack();
    assert!(!is_refused(whole.clone()));
    let payload = 8192..8192 + 70_000;
    // All bytes outside the payload's middle, one bit each in turn, and every 97th byte within.
    let places = (0..whole.len()).filter(|at| !payload.contains(at) || at % 97 == 0);
    for at in places {
        let mut broken = whole.clone();
        broken[at] ^= 1 << (at % 8);
        assert!(is_refused(broken), "a flipped bit in byte {at} went unseen");
    }
}

#[test]
fn every_prefix_and_every_extension_is_refused() {
    let whole = small_pack();
    for length in (0..whole.len()).step_by(61).chain(whole.len() - 300..whole.len()) {
        assert!(is_refused(whole[..length].to_vec()), "the first {length} bytes passed");
    }
    for extra in [&[0_u8][..], b"FLASHPK\0", &whole] {
        assert!(is_refused([&whole, extra].concat()), "{} more bytes passed", extra.len());
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), change in 1_u8..) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(small_pack);
        let mut broken = WHOLE.clone();
        let at = at.index(broken.len());
        broken[at] ^= change;
        prop_assert!(is_refused(broken), "byte {}", at);
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..5000), sealed in any::<bool>()) {
        let mut bytes = bytes;
        if sealed {
            bytes.splice(0..0, *b"\x89FPK\r\n\x1a\n");
        } else {
            let length = (bytes.len() as u64).to_le_bytes();
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(b"FLASHPK\0");
        }
        prop_assert!(is_refused(bytes));
    }
}
