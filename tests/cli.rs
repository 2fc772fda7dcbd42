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
        assert_refused(&run(&[&"convert", &index, &folder.at("out")]), 2, says);
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
    // Rows before the damage are printed as they come.
    assert_eq!(run(&[&"list", &"--digests", &path]).status.code(), Some(1));
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
fn what_cannot_be_read_is_said_so() {
    let folder = Folder::new();
    assert_refused(&run(&[&"convert", &"-"]), 2, "pipe");
    assert_refused(&run(&[&"convert", &"hf://some/model"]), 2, "download");
    assert_refused(&run(&[&"list", &folder.at("none")]), 2, "No such file");
    assert_refused(&run(&[&"list", &folder.0.path()]), 2, "directory");
    assert_refused(&run(&[&"convert", &folder.0.path()]), 2, "no safetensors files");
    std::fs::write(folder.at("model.bin"), "pickle").unwrap();
    assert_refused(&run(&[&"convert", &folder.at("model.bin")]), 2, "safetensors first");
    std::fs::write(folder.at("cut.safetensors"), [255; 20]).unwrap();
    assert_refused(&run(&[&"convert", &folder.at("cut.safetensors")]), 2, "not a valid safetensors file");
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
    assert_eq!(one["stages"][1]["bytes"], 512);
    assert_refused(&run(&[&"load", &"--tensor", &"none", &path]), 2, "no tensor is named");
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
