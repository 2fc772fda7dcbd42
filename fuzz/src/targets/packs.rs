//! Whole packs: this reader against the oracle, and everything that an open pack offers against itself.

use std::sync::Arc;

use flashpack::{Error, Limits, OpenOptions, Pack};

use super::super::oracle;
use super::Folder;

fn open(data: &[u8], strict: bool) -> flashpack::Result<Pack> {
    OpenOptions::new().strict(strict).open_source(Arc::new(data.to_vec()))
}

/// The stage and the rules of a refusal; a panic for what cannot come of bytes in memory.
fn refusal(error: &Error) -> (&'static str, Vec<&'static str>) {
    match error {
        Error::Invalid { violations, .. } => {
            let (stage, rules) = violations.first_failing().expect("a refusal has a reason");
            (stage.name(), rules.iter().map(|violation| violation.rule.id).collect())
        }
        Error::Unsupported { violation, .. } => (violation.rule.stage.name(), vec![violation.rule.id]),
        other => panic!("{other}"),
    }
}

/// Opens strictly and compares with the oracle: verdict, stage, and that a rule is one that the oracle finds broken too; and when accepted,
/// the contents. Then reads everything in every way.
pub fn read(data: &[u8]) {
    let expected = oracle::judge(data);
    let found = open(data, true);
    let pack = match (expected, found) {
        (Ok(content), Ok(pack)) => {
            compare(&content, &pack, data);
            pack
        }
        (Err(expected), Err(error)) => {
            let (stage, rules) = refusal(&error);
            assert_eq!(stage, expected.stage, "{rules:?}, the oracle says {:?}", expected.rules);
            assert!(rules.iter().any(|rule| expected.rules.contains(rule)), "{rules:?}, the oracle says {:?}", expected.rules);
            // What only a whole check finds does not keep a pack from being opened: its reads are verified one by one.
            let Ok(pack) = open(data, false) else { return };
            pack
        }
        (Ok(_), Err(error)) => panic!("the oracle accepts it: {error}"),
        (Err(expected), Ok(_)) => panic!("the oracle refuses it: {} {:?}", expected.stage, expected.rules),
    };
    use_everything(&pack, data);
}

fn compare(content: &oracle::Content, pack: &Pack, data: &[u8]) {
    assert_eq!(pack.layout().to_string(), content.layout);
    assert_eq!(pack.id().map(|id| id.0), content.id);
    let metadata: std::collections::BTreeMap<String, String> =
        pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!(metadata, content.metadata);
    assert_eq!(pack.manifest().len(), content.tensors.len());
    for (tensor, expected) in pack.tensors().zip(&content.tensors) {
        assert_eq!((tensor.name, tensor.dtype.name()), (expected.name.as_str(), expected.dtype));
        assert_eq!(tensor.shape.to_vec(), expected.shape);
        assert_eq!((u128::from(tensor.offset), u128::from(tensor.length)), (expected.offset, expected.length));
        let bytes = &data[expected.offset as usize..(expected.offset + expected.length) as usize];
        assert_eq!(pack.read(tensor.name).expect("it was verified"), bytes);
    }
}

/// Whatever is damaged, every call gives an answer, and reads give what lies in the file.
fn use_everything(pack: &Pack, data: &[u8]) {
    let within = |tensor: &flashpack::Tensor<'_>| &data[tensor.offset as usize..tensor.range().end as usize];
    for tensor in pack.tensors().take(64) {
        assert_eq!(pack.tensor(tensor.name).expect("it is listed").offset, tensor.offset);
        if let Ok(bytes) = pack.read(tensor.name) {
            assert_eq!(bytes, within(&tensor));
        }
        let half = tensor.length / 2;
        let mut part = vec![0; (tensor.length - half) as usize];
        if pack.read_part(tensor.name, half, &mut part).is_ok() {
            assert_eq!(part, within(&tensor)[half as usize..]);
        }
    }
    if let Ok(loaded) = pack.load() {
        for tensor in pack.tensors().take(64) {
            assert_eq!(loaded.tensor(tensor.name).expect("all were loaded"), within(&tensor));
        }
    }
    if let Ok(fields) = flashpack::explain::explain(pack) {
        let end = fields.iter().fold(0, |end, field| {
            assert_eq!(field.offset, end, "fields follow each other");
            end + field.length
        });
        assert_eq!(end, data.len() as u64);
    }
    if let Ok(regions) = flashpack::map::regions(pack) {
        let end = regions.iter().fold(0, |end, region| {
            assert_eq!(region.offset, end, "regions follow each other");
            region.end()
        });
        assert_eq!(end, data.len() as u64);
    }
    let _ = pack.verify(&());
}

/// The report against the door: a file is valid if and only if it opens strictly, and small limits only ever refuse more.
pub fn validate(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.file("m.flashpack", data);
    let report = OpenOptions::new().validate(&path, false, &()).expect("it can be read");
    let strict = OpenOptions::new().strict(true).open(&path);
    assert_eq!(report.is_valid(), strict.is_ok(), "{:?}", report.violations.iter().next());
    if let Err(error) = &strict {
        let (stage, _) = refusal(error);
        assert_eq!(report.violations.first_failing().map(|(stage, _)| stage.name()), Some(stage));
    }
    let structure = OpenOptions::new().validate(&path, true, &()).expect("it can be read");
    assert!(structure.is_valid() || !report.is_valid());
    let limits = Limits { table_bytes: 8192, footer_bytes: 700, tensors: 3, blocks: 2, name_bytes: 8, rank: 2, json_depth: 4 };
    let small = OpenOptions::new().limits(limits).validate(&path, false, &()).expect("it can be read");
    assert!(report.is_valid() || !small.is_valid());
}
