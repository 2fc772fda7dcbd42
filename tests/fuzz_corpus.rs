//! Replays what was fuzzed, on stable Rust: each target over its corpus and, where it takes files, over the conformance suite's.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the mutator is for the fuzzer")]
mod fuzz;

use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Replays files, and names the one that breaks a promise.
fn replay(name: &str, files: &[PathBuf]) {
    let (_, target) = fuzz::targets::ALL.iter().find(|(target, _)| *target == name).unwrap();
    for path in files {
        let bytes = std::fs::read(path).unwrap();
        let result = std::panic::catch_unwind(|| target(&bytes));
        assert!(result.is_ok(), "{name} fails on {}", path.display());
    }
}

fn replay_corpus(name: &str) {
    let corpus = files(&Path::new("fuzz/corpus").join(name));
    assert!(!corpus.is_empty(), "there is no corpus of {name}");
    replay(name, &corpus);
}

macro_rules! targets {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            replay_corpus(stringify!($name));
        }
    )* };
}

targets! { header tables footer read validate convert revert diff cast plan }

#[test]
fn every_target_is_replayed() {
    let names: Vec<&str> = fuzz::targets::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["header", "tables", "footer", "read", "validate", "convert", "revert", "diff", "cast", "plan"]);
    for name in names {
        assert!(Path::new("fuzz/fuzz_targets").join(name).with_extension("rs").exists());
    }
}

#[test]
fn the_oracle_gives_the_suites_verdicts() {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read("conformance/manifest.json").unwrap()).unwrap();
    let mut judged = 0;
    for vector in manifest["vectors"].as_array().unwrap() {
        // Limits and pins are the caller's: the oracle has the defaults.
        if vector.get("arguments").is_some() {
            continue;
        }
        let path = Path::new("conformance").join(vector["file"].as_str().unwrap());
        let verdict = fuzz::oracle::judge(&std::fs::read(&path).unwrap());
        match verdict {
            Ok(content) => {
                assert_eq!(vector["verdict"], "accept", "{}", path.display());
                assert_eq!(vector["layout"], content.layout);
            }
            Err(refused) => {
                assert_eq!(
                    (vector["verdict"].as_str(), vector["stage"].as_str()),
                    (Some("reject"), Some(refused.stage)),
                    "{}",
                    path.display()
                );
            }
        }
        judged += 1;
    }
    assert!(judged > 400, "{judged}");
}

#[test]
fn the_suite_holds_for_the_readers_targets() {
    let vectors = files(Path::new("conformance/vectors"));
    for name in ["read", "validate", "revert"] {
        replay(name, &vectors);
    }
}
