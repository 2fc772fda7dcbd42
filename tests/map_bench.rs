//! `map` shows every byte once, whatever the file and its names; `bench` tells what it promises, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use flashpack::map::{Kind, regions};
use flashpack::{Dtype, Layout, Pack, PlanOptions, WriteOptions, Writer};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "models/silero-vad/model.safetensors";
const HOSTILE: [&str; 4] = ["</title><script>alert(1)</script>", "a&b\"c'd]]>--", "\u{1b}[2J\u{0}\n\u{202e}", "\u{fffe}\u{ffff}"];

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::cargo_bin("flashpack").unwrap();
    arguments.iter().for_each(|argument| {
        command.arg(argument);
    });
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command prints UTF-8")
}

fn assert_done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The command failed with this status, said why in one line, and printed nothing.
fn assert_refused(output: &Output, status: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(stderr.contains(says), "{stderr:?} does not say {says:?}");
    assert!(output.stdout.is_empty());
}

fn json(output: &Output) -> Value {
    assert_done(output);
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// All files of the conformance suite that are packs.
fn accepted() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(root.join("manifest.json")).unwrap()).unwrap();
    let rows = manifest["vectors"].as_array().unwrap();
    let accepted = rows.iter().filter(|row| row["verdict"] == "accept");
    let paths: Vec<_> = accepted.map(|row| root.join(row["file"].as_str().unwrap())).collect();
    assert!(paths.len() >= 200);
    paths
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/vectors").join(name)
}

/// A pack in which some names are made to break what shows them.
fn hostile(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("hostile <&>.flashpack");
    let mut writer = Writer::new(PlanOptions::default());
    for name in HOSTILE {
        writer.add(name, Dtype::UInt8, [5000], &[1_u8; 5000][..]);
    }
    writer.add("x".repeat(100_000), Dtype::Float32, [1000], &[0_u8; 4000][..]);
    writer.add("", Dtype::Int64, [0], &[][..]);
    writer.write(&path, &WriteOptions::default()).unwrap();
    path
}

/// The picture of a pack, parsed: it is XML, lies within its frame, and has no sliver that cannot be seen.
fn assert_drawn(pack: &Path, folder: &TempDir) -> String {
    let path = folder.path().join("picture.svg");
    let output = run(&[&"map", &pack, &"--svg", &path, &"--force"]);
    assert!(assert_done(&output).is_empty());
    let svg = std::fs::read_to_string(path).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{}: {error}", pack.display()));
    let root = document.root_element();
    let number = |node: &roxmltree::Node<'_, '_>, name| -> f64 { node.attribute(name).unwrap_or("0").parse().unwrap() };
    let (width, height) = (number(&root, "width"), number(&root, "height"));
    let rects = document.descendants().filter(|node| node.has_tag_name("rect") && node.attribute("class") != Some("page"));
    for rect in rects {
        assert!(number(&rect, "width") >= 0.49, "{}", pack.display());
        assert!(number(&rect, "x") + number(&rect, "width") <= width - 14.0, "{}", pack.display());
        assert!(number(&rect, "y") + number(&rect, "height") <= height, "{}", pack.display());
    }
    assert!(document.descendants().all(|node| !node.has_tag_name("script")));
    assert!(svg.contains("prefers-color-scheme:dark"));
    svg
}

#[test]
fn regions_have_each_byte_of_each_vector_once() {
    for path in accepted() {
        let pack = Pack::open(&path).unwrap();
        let regions = regions(&pack).unwrap();
        let mut cursor = 0;
        for region in &regions {
            assert_eq!(region.offset, cursor, "{}", path.display());
            assert!(region.length > 0, "{}", path.display());
            cursor = region.end();
        }
        assert_eq!(cursor, std::fs::metadata(&path).unwrap().len(), "{}", path.display());
        let mut mapped: Vec<_> =
            regions.iter().filter_map(|region| Some((region.tensor?.name, region.offset..region.end()))).collect();
        mapped.sort_by_key(|(name, _)| *name);
        let tensors: Vec<_> =
            pack.tensors().filter(|tensor| tensor.length > 0).map(|tensor| (tensor.name, tensor.range())).collect();
        assert_eq!(mapped, tensors, "{}", path.display());
        if pack.layout() == Layout::Sealed {
            assert!(regions.iter().all(|region| region.kind != Kind::Unreferenced), "{}", path.display());
        }
    }
}

#[test]
fn bytes_that_nothing_refers_to_are_found() {
    for name in ["v3-hidden-byte", "v4-hidden-byte", "v4-foreign-head"] {
        let path = vector(&format!("{name}.flashpack"));
        let map = json(&run(&[&"map", &path, &"--json"]));
        assert!(map["totals"]["unreferenced"]["bytes"].as_u64().unwrap() > 0, "{name}");
        assert!(assert_done(&run(&[&"map", &path])).contains('!'), "{name}");
    }
}

#[test]
fn every_pack_can_be_drawn() {
    let folder = TempDir::new().unwrap();
    for path in accepted() {
        assert_drawn(&path, &folder);
    }
}

#[test]
fn names_cannot_break_the_picture() {
    let folder = TempDir::new().unwrap();
    let pack = hostile(&folder);
    let svg = assert_drawn(&pack, &folder);
    assert!(svg.len() < 20_000, "a long name is cut: {} bytes", svg.len());
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.iter().any(|text| text.contains(HOSTILE[0])));
    assert!(texts.iter().any(|text| text.contains(HOSTILE[1])));
    assert!(texts.iter().any(|text| text.contains("\\u{1b}[2J\\u{0}\\n\\u{202e}")));

    let shown = assert_done(&run(&[&"map", &pack]));
    assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{0}']));
    let map = json(&run(&[&"map", &pack, &"--json"]));
    let regions = map["regions"].as_array().unwrap();
    for name in HOSTILE {
        assert!(regions.iter().any(|region| region["name"] == name));
    }
    assert_eq!(map["empty_tensors"][0]["name"], "");
}

#[test]
fn pictures_of_many_tensors_stay_small() {
    let folder = TempDir::new().unwrap();
    for name in ["sealed-5000-tensors", "v3-5000-tensors", "limit-sealed-blocks-at"] {
        let svg = assert_drawn(&vector(&format!("{name}.flashpack")), &folder);
        assert!(svg.len() < 3_000_000, "{name}: {} bytes", svg.len());
    }
}

#[test]
fn the_terminal_picture_fits_its_width() {
    let folder = TempDir::new().unwrap();
    let packs = [
        hostile(&folder),
        vector("sealed-5000-tensors.flashpack"),
        vector("sealed-empty-pack.flashpack"),
        vector("v3-no-tensors.flashpack"),
    ];
    for pack in &packs {
        for width in [50, 60, 80, 200] {
            let shown = assert_done(&run(&[&"map", pack, &"--width", &width.to_string()]));
            let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{}: {widest} of {width}", pack.display());
        }
        let shown = assert_done(&run(&[&"map", pack]));
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "piped, as for a terminal of 80");
    }
}

#[test]
fn colours_only_where_they_are_wanted() {
    let pack = vector("sealed-small.flashpack");
    let plain = command(&[&"map", &pack]).env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(!assert_done(&plain).contains('\u{1b}'));
    let coloured = command(&[&"map", &pack]).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").output().unwrap();
    assert!(assert_done(&coloured).contains("\u{1b}["));
}

#[test]
fn map_refuses_what_it_cannot_draw() {
    let folder = TempDir::new().unwrap();
    assert_refused(&run(&[&"map", &vector("forged-block-overlap.flashpack")]), 1, "flashpack validate");
    assert_refused(&run(&[&"map", &folder.path().join("none")]), 2, "none");
    let svg = folder.path().join("picture.svg");
    std::fs::write(&svg, "mine").unwrap();
    assert_refused(&run(&[&"map", &vector("v3-small.flashpack"), &"--svg", &svg]), 2, "--force");
    assert_eq!(std::fs::read_to_string(&svg).unwrap(), "mine");
    assert_refused(
        &run(&[&"map", &vector("v3-small.flashpack"), &"--svg", &folder.path().join("no/folder.svg")]),
        2,
        "folder.svg",
    );
}

/// A checkpoint of two shards.
fn sharded(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let file = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[256],"data_offsets":[0,1024]}}}}"#);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([7; 1024]);
        bytes
    };
    std::fs::write(folder.join("model-00001-of-00002.safetensors"), file("a")).unwrap();
    std::fs::write(folder.join("model-00002-of-00002.safetensors"), file("b")).unwrap();
    let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

const COLUMNS: [&str; 11] = [
    "model",
    "bytes",
    "tensors",
    "convert_seconds",
    "flashpack_seconds",
    "flashpack_unverified_seconds",
    "safetensors_seconds",
    "read_seconds",
    "ratio",
    "runs",
    "cache",
];

#[test]
fn bench_tells_its_columns_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    sharded(&at("two, shards"));
    let packs = at("packs");
    std::fs::create_dir(&packs).unwrap();
    let (csv, plot) = (at("times.csv"), at("times.svg"));
    let output = run(&[
        &"bench",
        &MODEL,
        &at("two, shards"),
        &"--runs",
        &"2",
        &"--folder",
        &packs,
        &"--csv",
        &csv,
        &"--plot",
        &plot,
        &"-q",
    ]);
    let shown = assert_done(&output);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(shown.starts_with("medians of 2 runs, hot"), "{shown}");
    assert!(shown.contains(&*packs.to_string_lossy()), "it says where the packs were");
    assert_eq!(std::fs::read_dir(&packs).unwrap().count(), 0, "and they are gone");

    let table = std::fs::read_to_string(csv).unwrap();
    let mut rows = csv::Reader::from_reader(table.as_bytes());
    assert_eq!(rows.headers().unwrap(), COLUMNS.to_vec());
    let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
    let start = |row: usize| rows[row].iter().take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(start(0), ["silero-vad", "1238532", "15"]);
    assert_eq!(start(1), ["two, shards", "2048", "2"]);
    for row in &rows {
        assert!(row.iter().skip(3).take(6).all(|cell| cell.parse::<f64>().is_ok()), "{row:?}");
        assert_eq!(row.iter().skip(9).collect::<Vec<_>>(), ["2", "hot"]);
    }

    let plot = std::fs::read_to_string(plot).unwrap();
    let document = roxmltree::Document::parse(&plot).unwrap();
    assert!(plot.contains("prefers-color-scheme:dark"));
    let texts: Vec<_> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    for expected in ["silero-vad", "two, shards", "flashpack", "safetensors"] {
        assert!(texts.contains(&expected), "{expected} is not in the plot");
    }
}

#[test]
fn bench_prints_json_and_says_of_cold_runs_only_what_it_saw() {
    let document = json(&run(&[&"bench", &MODEL, &"--runs", &"1", &"--json"]));
    let model = &document["models"][0];
    assert_eq!((&model["model"], &model["cache"]), (&"silero-vad".into(), &"hot".into()));
    assert_eq!(model["loads"]["safetensors"]["runs_seconds"].as_array().unwrap().len(), 1);

    let cold = run(&[&"bench", &MODEL, &"--runs", &"1", &"--json", &"--cold"]);
    if cfg!(target_os = "linux") {
        let document = json(&cold);
        let cache = document["models"][0]["cache"].as_str().unwrap();
        assert!(["cold", "evicted-unconfirmed", "not-evicted"].contains(&cache), "{cache}");
        assert_eq!(cache == "not-evicted", text(&cold.stderr).contains("not cold"));
    } else {
        assert_refused(&cold, 2, "Linux");
    }
}

#[test]
fn bench_refuses_before_it_measures() {
    let folder = TempDir::new().unwrap();
    let csv = folder.path().join("times.csv");
    std::fs::write(&csv, "mine").unwrap();
    assert_refused(&run(&[&"bench", &MODEL, &"--csv", &csv]), 2, "--force");
    assert_eq!(std::fs::read_to_string(&csv).unwrap(), "mine");
    assert_refused(&run(&[&"bench", &vector("sealed-small.flashpack")]), 2, "flashpack revert");
    assert_refused(&run(&[&"bench", &"-"]), 2, "pipe");
    assert_refused(&run(&[&"bench", &folder.path().join("none.safetensors")]), 2, "none.safetensors");
    assert_refused(&run(&[&"bench", &MODEL, &"--folder", &folder.path().join("none")]), 2, "none");
    let broken = folder.path().join("broken.safetensors");
    std::fs::write(&broken, "no tensors").unwrap();
    assert_refused(&run(&[&"bench", &broken]), 1, "safetensors");
}
