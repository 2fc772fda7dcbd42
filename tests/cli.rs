//! The command keeps its contract: exit status, one line of error, JSON and nothing else, and nothing lost.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use flashpack::{Dtype, PlanOptions, WriteOptions, Writer};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "models/silero-vad/model.safetensors";

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::cargo_bin("flashpack").unwrap();
    arguments.iter().for_each(|argument| {
        command.arg(argument);
    });
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command prints UTF-8")
}

/// The command failed with this status, said why in one line, and printed nothing.
fn assert_refused(output: &Output, status: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(stderr.contains(says), "{stderr:?} does not say {says:?}");
    assert!(output.stdout.is_empty());
}

fn assert_done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sealed(&self) -> PathBuf {
        let path = self.at("model.flashpack");
        assert_done(&run(&[&"convert", &MODEL, &path]));
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A pack with one tensor of a name that would clear the terminal.
fn hostile(path: &Path) {
    let mut writer = Writer::new(PlanOptions::default());
    writer.add("\u{1b}[2J\nfake: valid", Dtype::UInt8, [3], &[1_u8, 2, 3][..]);
    writer.write(path, &WriteOptions::default()).unwrap();
}

#[test]
fn a_real_model_goes_there_and_back_in_every_layout() {
    let folder = Folder::new();
    for layout in ["sealed", "v4", "v3"] {
        let (pack, back) = (folder.at(&format!("{layout}.flashpack")), folder.at(&format!("{layout}.safetensors")));
        assert_done(&run(&[&"convert", &MODEL, &pack, &"--layout", &layout]));
        assert_done(&run(&[&"validate", &pack]));
        assert_done(&run(&[&"revert", &pack, &back]));
        assert_eq!(assert_done(&run(&[&"diff", &MODEL, &back])), "");
        assert_eq!(assert_done(&run(&[&"diff", &MODEL, &pack])), "");
    }
}

#[test]
fn the_default_destination_lies_beside_the_source() {
    let folder = Folder::new();
    std::fs::copy(MODEL, folder.at("m.safetensors")).unwrap();
    assert_done(&run(&[&"convert", &folder.at("m.safetensors")]));
    assert_eq!(folder.names(), ["m.flashpack", "m.safetensors"]);
    assert_done(&run(&[&"convert", &folder.0.path()]));
    assert_eq!(folder.names(), ["m.flashpack", "m.safetensors", "model.flashpack"]);
}

#[test]
fn an_existing_destination_is_kept_unless_forced() {
    let folder = Folder::new();
    let path = folder.at("kept");
    std::fs::write(&path, "mine").unwrap();
    assert_refused(&run(&[&"convert", &MODEL, &path]), 2, "--force");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert_done(&run(&[&"convert", &MODEL, &path, &"--force"]));
    assert_refused(&run(&[&"revert", &path, &path]), 2, "--force");
    assert_eq!(folder.names(), ["kept"]);
}

#[test]
fn shards_and_their_index_convert_to_the_same_pack() {
    let folder = Folder::new();
    let pack = folder.sealed();
    let printed = assert_done(&run(&[&"revert", &pack, &"--max-shard-size", &"300KB"]));
    assert_eq!(printed.lines().count(), 6, "{printed}");
    let index = folder.at("model.safetensors.index.json");
    assert_done(&run(&[&"convert", &index, &folder.at("again.flashpack")]));
    assert_eq!(std::fs::read(&pack).unwrap(), std::fs::read(folder.at("again.flashpack")).unwrap());
    // The folder has one index and its shards: it is the same model.
    assert_done(&run(&[&"convert", &folder.0.path(), &folder.at("folder.flashpack")]));
    assert_eq!(std::fs::read(&pack).unwrap(), std::fs::read(folder.at("folder.flashpack")).unwrap());
}

#[test]
fn an_index_that_leaves_its_folder_or_lies_is_refused() {
    let folder = Folder::new();
    std::fs::copy(MODEL, folder.at("a.safetensors")).unwrap();
    let index = folder.at("model.safetensors.index.json");
    for (map, says) in [
        (r#"{"conv1.bias":"../a.safetensors"}"#, "plain file name"),
        (r#"{"conv1.bias":"/etc/passwd"}"#, "plain file name"),
        (r#"{"conv1.bias":"a.safetensors"}"#, "the index says otherwise"),
        (r#"{"conv1.bias":"b.safetensors"}"#, "No such file"),
    ] {
        std::fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
        // A file that the index names and that is not there cannot be read; the others are a broken index.
        let status = if says == "No such file" { 2 } else { 1 };
        assert_refused(&run(&[&"convert", &index, &folder.at("out")]), status, says);
    }
    assert!(!folder.at("out").exists());
}

#[test]
fn a_pipeline_becomes_a_pipeline_of_packs() {
    let folder = Folder::new();
    let pipeline = folder.at("pipeline");
    for component in ["unet", "vae", "scheduler"] {
        std::fs::create_dir_all(pipeline.join(component)).unwrap();
        std::fs::write(pipeline.join(component).join("config.json"), component).unwrap();
    }
    std::fs::write(pipeline.join("model_index.json"), "{}").unwrap();
    std::fs::copy(MODEL, pipeline.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    std::fs::copy(MODEL, pipeline.join("unet/diffusion_pytorch_model.fp16.safetensors")).unwrap();
    std::fs::copy(MODEL, pipeline.join("vae/diffusion_pytorch_model.safetensors")).unwrap();

    let target = folder.at("packed");
    let printed = assert_done(&run(&[&"convert", &pipeline, &target, &"--variant", &"fp16"]));
    assert_eq!(printed.lines().count(), 2, "{printed}");
    let mut found = Vec::new();
    for component in ["unet", "vae", "scheduler"] {
        for entry in std::fs::read_dir(target.join(component)).unwrap() {
            found.push(format!("{component}/{}", entry.unwrap().file_name().to_str().unwrap()));
        }
    }
    found.sort();
    assert_eq!(
        found,
        ["scheduler/config.json", "unet/config.json", "unet/model.flashpack", "vae/config.json", "vae/model.flashpack"]
    );
    assert!(target.join("model_index.json").exists());
    assert_refused(&run(&[&"convert", &pipeline, &target]), 2, "--force");
    assert_refused(&run(&[&"convert", &pipeline, &folder.at("other"), &"--variant", &"ema"]), 2, "variant");
    assert_eq!(folder.names(), ["packed", "pipeline"]);
}

#[test]
fn casting_and_ignoring_shape_the_pack() {
    let folder = Folder::new();
    let path = folder.at("cast.flashpack");
    assert_done(&run(&[
        &"convert",
        &MODEL,
        &path,
        &"--dtype",
        &"bfloat16",
        &"--ignore-suffixes",
        &".bias",
        &"--ignore-prefixes",
        &"lstm",
    ]));
    let rows = json(&run(&[&"list", &path, &"-j"]));
    assert!(rows.as_array().unwrap().iter().all(|row| row["dtype"] == "bfloat16"));
    assert_eq!(rows.as_array().unwrap().len(), 6);
    // The other names that the Python command takes.
    assert_done(&run(&[&"convert", &MODEL, &path, &"--dtype", &"half", &"--force"]));
    assert!(json(&run(&[&"list", &path, &"-j"])).as_array().unwrap().iter().all(|row| row["dtype"] == "float16"));
    assert_eq!(run(&[&"convert", &MODEL, &folder.at("x"), &"--dtype", &"float7"]).status.code(), Some(2));
    assert_refused(&run(&[&"convert", &MODEL, &folder.at("x"), &"--dtype", &"int8"]), 2, "cannot be cast");
    assert_refused(&run(&[&"convert", &MODEL, &folder.at("x"), &"--ignore-prefixes", &""]), 2, "nothing to pack");
}

#[test]
fn a_damaged_pack_is_invalid_and_the_report_says_where() {
    let folder = Folder::new();
    let path = folder.sealed();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let output = run(&[&"validate", &path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("SEAL-INT-01"));
    let output = run(&[&"validate", &"-j", &path]);
    let row = &json(&output)[0];
    assert_eq!((row["verdict"].as_str(), row["layout"].as_str()), (Some("invalid"), Some("sealed")));
    let violation = &row["violations"][0];
    assert_eq!(violation["rule"], "SEAL-INT-01");
    assert_eq!(violation["severity"], "error");
    assert_eq!(violation["offset"], 8192);
    assert!(violation["tensor"].is_string() && violation["message"].is_string());

    assert_done(&run(&[&"validate", &"--structure-only", &path]));
    assert_refused(&run(&[&"revert", &path, &folder.at("out")]), 1, "SEAL-INT-01");
    assert_refused(&run(&[&"convert", &path, &folder.at("out")]), 1, "SEAL-INT-01");
    assert_refused(&run(&[&"load", &path]), 1, "SEAL-INT-01");
    assert_refused(&run(&[&"list", &"--digests", &path]), 1, "SEAL-INT-01");
    assert_refused(&run(&[&"diff", &path, &MODEL]), 1, "SEAL-INT-01");
    assert_eq!(folder.names(), ["model.flashpack"]);
}

#[test]
fn validate_looks_at_every_file_and_remembers_the_worst() {
    let folder = Folder::new();
    let path = folder.sealed();
    let junk = folder.at("junk");
    std::fs::write(&junk, vec![7; 100]).unwrap();
    let output = run(&[&"validate", &"-j", &junk, &path]);
    assert_eq!(output.status.code(), Some(1));
    let verdicts: Vec<_> = json(&output).as_array().unwrap().iter().map(|row| row["verdict"].clone()).collect();
    assert_eq!(verdicts, ["invalid", "valid"]);
    let output = run(&[&"validate", &folder.at("none"), &path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("valid, sealed"));
    // Neither what comes after nor JSON changes that, and the others are still there.
    let output = run(&[&"validate", &"-j", &folder.at("none"), &junk, &path]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(json(&output).as_array().unwrap().len(), 2);
    // What cannot ever be read is wrong usage, said before any work.
    assert_refused(&run(&[&"validate", &"-j", &path, &"-"]), 2, "name a file");
}

#[test]
fn a_report_has_the_keys_of_the_contract() {
    let folder = Folder::new();
    let path = folder.sealed();
    let report = json(&run(&[&"validate", &"-j", &path]));
    let row = report[0].as_object().unwrap();
    assert_eq!(row.keys().collect::<Vec<_>>(), ["path", "layout", "verdict", "id", "violations", "omitted"]);
    assert_eq!(row["path"], path.to_str().unwrap());
    let junk = folder.at("junk");
    std::fs::write(&junk, vec![7; 100]).unwrap();
    let row = &json(&run(&[&"validate", &"-j", &junk]))[0];
    let violation = row["violations"][0].as_object().unwrap();
    assert_eq!(violation.keys().collect::<Vec<_>>(), ["rule", "severity", "offset", "tensor", "message"]);
    assert!(row["id"].is_null());
}

#[test]
fn limits_come_from_a_file() {
    let folder = Folder::new();
    let path = folder.sealed();
    let limits = folder.at("limits.json");
    std::fs::write(&limits, r#"{"tensors": "15"}"#).unwrap();
    assert_done(&run(&[&"validate", &path, &"--limits", &limits]));
    std::fs::write(&limits, r#"{"tensors": 14}"#).unwrap();
    let output = run(&[&"validate", &path, &"--limits", &limits]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("LIMIT-TENSORS-01"));
    std::fs::write(&limits, r#"{"tensor": 14}"#).unwrap();
    assert_eq!(run(&[&"validate", &path, &"--limits", &limits]).status.code(), Some(2));
}

#[test]
fn policies_refuse_other_packs() {
    let folder = Folder::new();
    let path = folder.sealed();
    let id = json(&run(&[&"metadata", &"-j", &path]))["seal"]["id"].as_str().unwrap().to_owned();
    assert_done(&run(&[&"validate", &path, &"--id", &id, &"--require-seal"]));
    let other = id.replace(&id[..1], if id.starts_with('0') { "1" } else { "0" });
    let output = run(&[&"validate", &path, &"--id", &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("PIN-ID-01"));
    let v4 = folder.at("v4.flashpack");
    assert_done(&run(&[&"convert", &path, &v4, &"--layout", &"v4", &"--id", &id]));
    assert!(text(&run(&[&"validate", &v4, &"--require-seal"]).stdout).contains("PIN-SEAL-01"));
    assert_refused(&run(&[&"load", &v4, &"--require-seal"]), 1, "PIN-SEAL-01");
    assert_refused(&run(&[&"load", &path, &"--id", &other]), 1, "get the file again");
    // They are about packs: with anything else they would promise what nobody checks.
    for policy in [&["--require-seal"][..], &["--id", &id]] {
        let output = Command::cargo_bin("flashpack").unwrap().args(["convert", MODEL]).arg(folder.at("x")).args(policy).output();
        assert_refused(&output.unwrap(), 2, "about packs");
    }
    assert!(!folder.at("x").exists());
    // A pack id that is none is wrong usage.
    assert_eq!(run(&[&"validate", &path, &"--id", &"abc"]).status.code(), Some(2));
}

#[test]
fn metadata_is_kept_by_sealed_packs_and_missed_aloud_by_others() {
    let folder = Folder::new();
    let mut writer = Writer::new(PlanOptions::default());
    writer.metadata("format", "pt").add("w", Dtype::UInt8, [1], &[1_u8][..]);
    let path = folder.at("a.flashpack");
    writer.write(&path, &WriteOptions::default()).unwrap();
    assert_done(&run(&[&"revert", &path, &folder.at("a.safetensors")]));
    assert_eq!(assert_done(&run(&[&"diff", &path, &folder.at("a.safetensors")])), "");
    let output = run(&[&"convert", &path, &folder.at("v4.flashpack"), &"--layout", &"v4"]);
    assert!(text(&output.stderr).contains("no place for metadata"));
    let output = run(&[&"diff", &"-j", &path, &folder.at("v4.flashpack")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)[0]["change"], "metadata");
}

#[test]
fn diff_tells_what_changed() {
    let folder = Folder::new();
    let write = |name: &str, tensors: &[(&str, Dtype, Vec<u8>)]| {
        let path = folder.at(name);
        let mut writer = Writer::new(PlanOptions::default());
        for (name, dtype, bytes) in tensors {
            writer.add(*name, *dtype, [bytes.len() as u64], bytes.as_slice());
        }
        writer.write(&path, &WriteOptions::default()).unwrap();
        path
    };
    let a = write(
        "a",
        &[
            ("same", Dtype::UInt8, vec![1]),
            ("gone", Dtype::UInt8, vec![2]),
            ("other", Dtype::UInt8, vec![3]),
            ("kind", Dtype::UInt8, vec![4]),
        ],
    );
    let b = write(
        "b",
        &[
            ("same", Dtype::UInt8, vec![1]),
            ("new", Dtype::UInt8, vec![2]),
            ("other", Dtype::UInt8, vec![9]),
            ("kind", Dtype::Int8, vec![4]),
        ],
    );
    let output = run(&[&"diff", &a, &b]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    assert_eq!(lines, "- gone: uint8 [1]\n~ kind: uint8 [1] -> int8 [1]\n+ new: uint8 [1]\n~ other: other bytes\n");
}

#[test]
fn names_from_files_cannot_act_on_the_terminal() {
    let folder = Folder::new();
    let path = folder.at("hostile.flashpack");
    hostile(&path);
    for arguments in [["list", ""], ["metadata", "-i"], ["validate", ""], ["explain", ""]] {
        let mut command = Command::cargo_bin("flashpack").unwrap();
        let output = command.args(arguments.iter().filter(|argument| !argument.is_empty())).arg(&path).output().unwrap();
        assert!(!output.stdout.contains(&0x1b), "{arguments:?}: {}", text(&output.stdout));
        assert!(!output.stderr.contains(&0x1b));
    }
    assert_eq!(text(&run(&[&"list", &path]).stdout).lines().count(), 1);
}

#[test]
fn json_holds_every_character_of_a_name_and_shows_none_that_hides() {
    let folder = Folder::new();
    let path = folder.at("hostile.flashpack");
    // Escape, delete, a one-character escape sequence, reversed text, an invisible tag, and honest letters.
    let name = "\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{e0041}é漢";
    let mut writer = Writer::new(PlanOptions::default());
    writer.add(name, Dtype::UInt8, [1], &[1_u8][..]).metadata(name, name);
    writer.write(&path, &WriteOptions::default()).unwrap();
    let hidden = ['\u{1b}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{e0041}'];
    let empty = folder.at("empty.flashpack");
    Writer::new(PlanOptions::default()).write(&empty, &WriteOptions::default()).unwrap();
    let outputs = [
        run(&[&"list", &"-j", &path]),
        run(&[&"metadata", &"-ij", &path]),
        run(&[&"explain", &"-j", &path]),
        run(&[&"diff", &"-j", &path, &empty]),
    ];
    for output in &outputs {
        assert!(!text(&output.stdout).contains(hidden), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains("é漢"));
    }
    assert_eq!(json(&outputs[0])[0]["name"], name);
    assert_eq!(json(&outputs[1])["index"][0]["name"], name);
    assert_eq!(json(&outputs[1])["seal"]["metadata"][name], name);
    assert_eq!(json(&outputs[3])[0]["tensor"], name);
    for arguments in [["list", "-q"], ["metadata", "-i"], ["explain", "-q"]] {
        let output = Command::cargo_bin("flashpack").unwrap().args(arguments).arg(&path).output().unwrap();
        assert!(!text(&output.stdout).contains(hidden), "{arguments:?}");
    }
}

#[test]
fn metadata_as_json_is_the_footer_and_the_seal() {
    let folder = Folder::new();
    let sealed = json(&run(&[&"metadata", &"-j", &folder.sealed()]));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let v4 = ["format", "align_bytes", "total_payload_bytes", "total_elems", "macroblocks"];
    assert_eq!(keys(&sealed), [&v4[..], &["flashpack_seal", "seal"]].concat());
    assert_eq!(sealed["seal"]["version"], "1.0");
    assert_eq!(sealed["seal"]["group_size"], 1 << 20);
    assert_eq!(sealed["seal"]["sections"]["payload"]["offset"], sealed["macroblocks"][0]["offset_bytes"]);
    for (layout, expected) in [("v4", &v4[..]), ("v3", &["format", "target_dtype", "align_bytes", "total_elems"])] {
        let path = folder.at(layout);
        assert_done(&run(&[&"convert", &MODEL, &path, &"--layout", &layout]));
        assert_eq!(keys(&json(&run(&[&"metadata", &"-j", &path]))), expected);
        let with_index = json(&run(&[&"metadata", &"--json", &"--show-index", &path]));
        assert_eq!(keys(&with_index).last().unwrap(), "index");
        assert_eq!(with_index["index"].as_array().unwrap().len(), 15);
    }
}

#[test]
fn digests_are_those_of_the_tensors_bytes() {
    let folder = Folder::new();
    let path = folder.sealed();
    let rows = json(&run(&[&"list", &"-j", &"--digests", &path]));
    let pack = flashpack::Pack::open(&path).unwrap();
    for (tensor, row) in pack.tensors().zip(rows.as_array().unwrap()) {
        assert_eq!(row["name"], tensor.name);
        assert_eq!(row["blake3"], blake3::hash(&pack.read(tensor.name).unwrap()).to_string());
    }
    let lines = assert_done(&run(&[&"list", &"--digests", &path]));
    for (line, row) in lines.lines().zip(rows.as_array().unwrap()) {
        assert!(line.starts_with(row["name"].as_str().unwrap()) && line.ends_with(row["blake3"].as_str().unwrap()));
    }
}

/// A reader that goes away at once: no complaint, and a verdict is still the verdict.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error_and_changes_no_verdict() {
    let folder = Folder::new();
    let path = folder.sealed();
    let junk = folder.at("junk");
    std::fs::write(&junk, vec![7; 100]).unwrap();
    let other = folder.at("other.flashpack");
    assert_done(&run(&[&"convert", &MODEL, &other, &"--ignore-names", &"conv1.bias"]));
    let none: &Path = Path::new("-q");
    for (command, a, b, status) in [
        ("list", none, &path, 0),
        ("explain", none, &path, 0),
        ("metadata", Path::new("-j"), &path, 0),
        ("completions", none, &PathBuf::from("bash"), 0),
        ("validate", none, &path, 0),
        ("validate", none, &junk, 1),
        ("validate", Path::new("-j"), &junk, 1),
        ("diff", &other, &path, 1),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("flashpack"))
            .args([command.as_ref(), a, b])
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(status), ""), "{command} {a:?} {b:?}");
    }
}

/// Output that is lost is no success.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_output_is_an_error() {
    let folder = Folder::new();
    let path = folder.sealed();
    for arguments in [["list", "-q"], ["list", "-j"], ["explain", "-q"], ["validate", "-q"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("flashpack"))
            .args(arguments)
            .arg(&path)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("standard output"));
    }
}

/// Links that go round in circles cannot keep the progress bar's estimate busy for ever.
#[cfg(unix)]
#[test]
fn circular_links_beside_a_model_do_no_harm() {
    let folder = Folder::new();
    std::fs::copy(MODEL, folder.at("m.safetensors")).unwrap();
    for link in ["a", "b", "c"] {
        std::os::unix::fs::symlink(".", folder.at(link)).unwrap();
    }
    let mut command = Command::cargo_bin("flashpack").unwrap();
    let output = command.arg("convert").arg(folder.0.path()).timeout(std::time::Duration::from_secs(60)).output().unwrap();
    assert_done(&output);
}

#[test]
fn what_cannot_be_read_is_said_so() {
    let folder = Folder::new();
    assert_refused(&run(&[&"convert", &"-"]), 2, "pipe");
    assert_refused(&run(&[&"convert", &"hf://some/model"]), 2, "download");
    assert_refused(&run(&[&"convert", &MODEL, &"-"]), 2, "pipe");
    assert_refused(&run(&[&"revert", &folder.sealed(), &"-"]), 2, "pipe");
    assert!(!Path::new("-").exists());
    assert_refused(&run(&[&"list", &folder.at("none")]), 2, "No such file");
    assert_refused(&run(&[&"list", &folder.0.path()]), 2, "directory");
    let empty = folder.at("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_refused(&run(&[&"convert", &empty]), 2, "no safetensors files");
    std::fs::write(folder.at("model.bin"), "pickle").unwrap();
    assert_refused(&run(&[&"convert", &folder.at("model.bin")]), 2, "safetensors first");
    std::fs::write(folder.at("cut.safetensors"), [255; 20]).unwrap();
    assert_refused(&run(&[&"convert", &folder.at("cut.safetensors")]), 1, "not a valid safetensors file");
    #[cfg(not(feature = "cuda"))]
    assert_refused(&run(&[&"load", &"--device", &"cuda:0", &MODEL]), 2, "GPU");
}

#[test]
fn loading_tells_stages_and_loads_what_was_asked() {
    let folder = Folder::new();
    let path = folder.sealed();
    let whole = json(&run(&[&"load", &"-j", &path]));
    assert_eq!((whole["tensors"].as_u64(), whole["verified"].as_bool()), (Some(15), Some(true)));
    let one = json(&run(&[&"load", &"-j", &"--no-verify", &"--tensor", &"conv1.bias", &path]));
    assert_eq!((one["tensors"].as_u64(), one["verified"].as_bool()), (Some(1), Some(false)));
    assert_eq!(one["bytes"], 512);
    for arguments in [["load", "-j"], ["load", "-jq"]] {
        let mut command = Command::cargo_bin("flashpack").unwrap();
        let output = command.args(arguments).arg(&path).args(["--tensor", "conv1.bias", "conv2.bias"]).output().unwrap();
        assert_eq!(json(&output)["tensors"], 2);
    }
    assert_refused(&run(&[&"load", &"--tensor", &"none", &path]), 2, "no tensor is named");
    assert_refused(&run(&[&"load", &"--tensor", &"conv1.bias"]), 2, "no pack");
    assert_eq!(run(&[&"load"]).status.code(), Some(2));
}

#[test]
fn explain_covers_every_byte() {
    let folder = Folder::new();
    let sealed = folder.sealed();
    for layout in ["v3", "v4"] {
        assert_done(&run(&[&"convert", &MODEL, &folder.at(layout), &"--layout", &layout]));
    }
    for path in [sealed, folder.at("v3"), folder.at("v4")] {
        let fields = json(&run(&[&"explain", &"-j", &path]));
        let mut cursor = 0;
        for field in fields.as_array().unwrap() {
            assert_eq!(field["offset"].as_u64(), Some(cursor), "{field}");
            cursor += field["length"].as_u64().unwrap();
        }
        assert_eq!(cursor, std::fs::metadata(&path).unwrap().len());
        // The table fits a page, and the bytes that it shows are those of the file.
        let table = assert_done(&run(&[&"explain", &path]));
        let bytes = std::fs::read(&path).unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 110));
        let mut shown = 0_u64;
        for line in table.lines() {
            let Some(offset) = line.get(..8).and_then(|offset| offset.trim().parse::<usize>().ok()) else { continue };
            for (number, byte) in line[10..].split("  ").next().unwrap().split(' ').enumerate() {
                assert_eq!(u8::from_str_radix(byte, 16).unwrap(), bytes[offset + number], "{line}");
                shown += 1;
            }
        }
        let least: u64 = fields.as_array().unwrap().iter().map(|field| field["length"].as_u64().unwrap().min(8)).sum();
        assert!(shown >= least, "{shown} of at least {least}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["convert", "revert", "metadata", "list", "validate", "diff", "load", "explain", "completions", "man"] {
        let help = assert_done(&run(&[&command, &"--help"]));
        assert!(help.contains("Examples:") && help.contains("flashpack "), "{command}");
    }
    assert_eq!(run(&[&"conjure"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert!(assert_done(&run(&[&"completions", &"bash"])).contains("flashpack"));
    assert!(assert_done(&run(&[&"man"])).contains(".TH flashpack"));
}

#[cfg(unix)]
#[test]
fn links_lead_no_further_than_the_models_own_folder() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    // As Hugging Face keeps a model: a snapshot full of links to blobs.
    let (blobs, snapshot) = (folder.at("models--m/blobs"), folder.at("models--m/snapshots/1"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(MODEL, blobs.join("abc")).unwrap();
    symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
    assert_done(&run(&[&"convert", &snapshot, &folder.at("m.flashpack")]));

    // Out of the folder: neither weights nor what is copied along.
    let outside = folder.at("outside");
    std::fs::create_dir_all(&outside).unwrap();
    symlink("../models--m/blobs/abc", outside.join("model.safetensors")).unwrap();
    assert_refused(&run(&[&"convert", &outside, &folder.at("x")]), 2, "leads out of");

    let pipeline = folder.at("pipeline");
    std::fs::create_dir_all(pipeline.join("unet")).unwrap();
    std::fs::write(pipeline.join("model_index.json"), "{}").unwrap();
    std::fs::copy(MODEL, pipeline.join("unet/model.safetensors")).unwrap();
    symlink("/etc/hostname", pipeline.join("unet/config.json")).unwrap();
    assert_refused(&run(&[&"convert", &pipeline, &folder.at("x")]), 2, "leads out of");
    std::fs::remove_file(pipeline.join("unet/config.json")).unwrap();
    // A pipe has no end: it is refused, not waited for.
    assert!(std::process::Command::new("mkfifo").arg(pipeline.join("unet/config.json")).status().unwrap().success());
    assert_refused(&run(&[&"convert", &pipeline, &folder.at("x")]), 2, "not a regular file");
    assert!(!folder.at("x").exists());
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_written_or_refused_but_never_passed_over() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = Folder::new();
    let pack = folder.sealed();
    let odd = folder.0.path().join(OsStr::from_bytes(b"odd\xff.safetensors"));
    assert_done(&run(&[&"revert", &pack, &odd]));
    assert_done(&run(&[&"convert", &odd, &folder.at("again.flashpack")]));
    assert_eq!(std::fs::read(&pack).unwrap(), std::fs::read(folder.at("again.flashpack")).unwrap());
    assert_refused(&run(&[&"revert", &pack, &odd, &"--force", &"--max-shard-size", &"300KB"]), 2, "names no file");
    assert_refused(&run(&[&"revert", &pack, &".."]), 2, "names no file");
}

#[test]
fn weights_of_a_pipeline_are_packed_or_refused_but_never_lost() {
    for lost in ["text/pytorch_model.bin", "unet/deep/model.safetensors", "root.safetensors"] {
        let folder = Folder::new();
        let pipeline = folder.at("pipeline");
        for component in ["unet/deep", "text"] {
            std::fs::create_dir_all(pipeline.join(component)).unwrap();
        }
        std::fs::write(pipeline.join("model_index.json"), "{}").unwrap();
        std::fs::copy(MODEL, pipeline.join("unet/model.safetensors")).unwrap();
        // The same weights in another form, beside those that are packed: not lost.
        std::fs::write(pipeline.join("unet/pytorch_model.bin"), "pickle").unwrap();
        std::fs::copy(MODEL, pipeline.join(lost)).unwrap();
        assert_refused(&run(&[&"convert", &pipeline, &folder.at("packed")]), 2, "no pack would hold");
        assert_eq!(folder.names(), ["pipeline"]);
    }
}

#[test]
fn what_readers_would_refuse_is_not_written() {
    let folder = Folder::new();
    let path = folder.at("x.flashpack");
    for (name, shape) in [("deep", vec![1; 65]), ("n".repeat((1 << 20) + 1).as_str(), vec![1])] {
        let mut writer = Writer::new(PlanOptions::default());
        writer.add(name, Dtype::UInt8, shape, &[1_u8][..]);
        let error = writer.write(&path, &WriteOptions::default()).unwrap_err().to_string();
        assert!(error.contains("that readers take") && error.len() < 300, "{error}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn a_forged_footer_is_not_shown() {
    let forged = "conformance/vectors/forged-footer-name.flashpack";
    for arguments in [["metadata", "-j"], ["explain", "-j"]] {
        assert_refused(&run(&[&arguments[0], &arguments[1], &forged]), 1, "SEAL-FOOT-02");
    }
}
