//! Makes the conformance suite: `cargo run --example conformance`. Deterministic, so that a changed rule shows as a diff.
//!
//! | module | makes |
//! |---|---|
//! | `legacy` | v3 and v4 files: payload, footer text, trailer; faults by replacing a piece of the text |
//! | `sealed` | sealed files, taken apart into records; faults in one part, and everything that depends on it sealed again |
//!
//! Each vector says what it should give, and the generator stops where the reference does not agree.

mod legacy;
mod sealed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use flashpack::{Limits, OpenOptions};
use serde_json::{Map, Value, json};

/// The version of the suite: vectors added count as minor, changed verdicts as major.
const VERSION: &str = "1.0.0";

/// What a reader must say of a vector.
#[derive(Clone)]
enum Verdict {
    /// Valid, with these warnings.
    Accept(Vec<&'static str>),
    /// Refused: at this stage, for one of these rules.
    Reject(&'static str, Vec<&'static str>),
}

/// One file and what it probes.
#[derive(Clone)]
struct Vector {
    id: String,
    bytes: Vec<u8>,
    layout: &'static str,
    verdict: Verdict,
    /// Clauses beyond the rules.
    clauses: Vec<&'static str>,
    /// The vector it was made from, and the one change.
    mutates: Option<(String, String)>,
    /// `id`, `require_seal` and `limits` of the call.
    arguments: Map<String, Value>,
    /// Where the spec leaves a choice: why refusing is right as well.
    either: Option<&'static str>,
    comment: String,
}

impl Vector {
    fn accept(id: impl Into<String>, layout: &'static str, bytes: Vec<u8>, comment: impl Into<String>) -> Vector {
        Vector {
            id: id.into(),
            bytes,
            layout,
            verdict: Verdict::Accept(Vec::new()),
            clauses: Vec::new(),
            mutates: None,
            arguments: Map::new(),
            either: None,
            comment: comment.into(),
        }
    }

    fn reject(
        id: impl Into<String>,
        layout: &'static str,
        bytes: Vec<u8>,
        stage: &'static str,
        rule: &'static str,
        comment: impl Into<String>,
    ) -> Vector {
        Vector { verdict: Verdict::Reject(stage, vec![rule]), ..Vector::accept(id, layout, bytes, comment) }
    }

    /// A fault of which another rule of the same step can be said to be broken as well.
    fn or(mut self, rule: &'static str) -> Vector {
        if let Verdict::Reject(_, rules) = &mut self.verdict {
            rules.push(rule);
        }
        self
    }

    fn warns(mut self, rule: &'static str) -> Vector {
        self.verdict = Verdict::Accept(vec![rule]);
        self
    }

    fn clause(mut self, clause: &'static str) -> Vector {
        self.clauses.push(clause);
        self
    }

    fn from(mut self, parent: &str, change: impl Into<String>) -> Vector {
        self.mutates = Some((parent.to_owned(), change.into()));
        self
    }

    fn argument(mut self, key: &str, value: impl Into<Value>) -> Vector {
        self.arguments.insert(key.to_owned(), value.into());
        self
    }

    /// A limit of the reader, as the suite gives it: whole numbers are texts.
    fn limit(self, key: &str, value: u64) -> Vector {
        self.argument("limits", json!({ key: value.to_string() }))
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let target = std::env::args().nth(1).map_or_else(|| root.clone(), PathBuf::from);
    let vectors_folder = target.join("vectors");
    std::fs::create_dir_all(&vectors_folder).expect("the folder for vectors");

    let mut vectors = legacy::vectors();
    vectors.extend(sealed::vectors());
    vectors.extend(upstream(&root.join("upstream/golden")));
    vectors.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: BTreeSet<&str> = vectors.iter().map(|vector| vector.id.as_str()).collect();
    assert_eq!(ids.len(), vectors.len(), "an id is used twice");

    let mut disagreements = 0;
    let mut rows = Vec::new();
    for vector in &vectors {
        let path = vectors_folder.join(format!("{}.flashpack", vector.id));
        std::fs::write(&path, &vector.bytes).expect("a vector");
        match row(vector, &path) {
            Ok(row) => rows.push(row),
            Err(message) => {
                eprintln!("{}: {message}", vector.id);
                disagreements += 1;
            }
        }
    }
    assert_eq!(disagreements, 0, "the reference disagrees with the vectors above");
    for entry in std::fs::read_dir(&vectors_folder).expect("the folder for vectors").flatten() {
        let stem = entry.path().file_stem().and_then(|stem| stem.to_str()).map(str::to_owned).unwrap_or_default();
        if !ids.contains(stem.as_str()) {
            std::fs::remove_file(entry.path()).expect("a vector that is no more");
        }
    }
    let manifest = json!({
        "$schema": "schema/manifest.schema.json",
        "version": VERSION,
        "spec": "1.0",
        "flip": "sealed-small",
        "vectors": rows,
    });
    std::fs::write(target.join("manifest.json"), format!("{manifest:#}\n")).expect("the manifest");
    println!("{} vectors", vectors.len());
}

/// The manifest's row, once the reference agrees with it.
fn row(vector: &Vector, path: &Path) -> Result<Value, String> {
    let options = options(&vector.arguments);
    let report = options.validate(path, false, &()).map_err(|error| error.to_string())?;
    let mut row = json!({
        "id": vector.id,
        "file": format!("vectors/{}.flashpack", vector.id),
        "size": vector.bytes.len().to_string(),
        "blake3": blake3::hash(&vector.bytes).to_string(),
        "layout": vector.layout,
        "comment": vector.comment,
    });
    if !vector.arguments.is_empty() {
        row["arguments"] = vector.arguments.clone().into();
    }
    let mut clauses: BTreeSet<&str> = vector.clauses.iter().copied().collect();
    match &vector.verdict {
        Verdict::Accept(warnings) => {
            if let Some((stage, errors)) = report.violations.first_failing() {
                return Err(format!("refused at {}: {}", stage.name(), errors[0]));
            }
            let found: BTreeSet<_> = report.violations.iter().map(|violation| violation.rule.id).collect();
            if found != warnings.iter().copied().collect() {
                return Err(format!("warnings {found:?}"));
            }
            clauses.extend(warnings);
            row["verdict"] = vector.either.map_or("accept", |_| "either").into();
            row["expect"] = content(&options, path, warnings)?;
        }
        Verdict::Reject(stage, rules) => {
            let Some((found, errors)) = report.violations.first_failing() else { return Err("accepted".into()) };
            let found_rules: BTreeSet<_> = errors.iter().map(|violation| violation.rule.id).collect();
            if found.name() != *stage || !found_rules.iter().all(|rule| rules.contains(rule)) {
                return Err(format!("stage {}, {found_rules:?}", found.name()));
            }
            // One fault a vector, but for those that probe which of two is met first.
            let later = report.violations.errors().any(|violation| violation.rule.stage != found);
            if later && !vector.id.starts_with("order-") {
                return Err("more than one fault".into());
            }
            clauses.extend(rules);
            row["verdict"] = "reject".into();
            row["stage"] = (*stage).into();
            row["rules"] = rules.clone().into();
        }
    }
    row["clauses"] = clauses.into_iter().collect::<Vec<_>>().into();
    if let Some(reason) = vector.either {
        row["reason"] = reason.into();
    }
    if let Some((parent, change)) = &vector.mutates {
        row["mutates"] = json!({ "id": parent, "change": change });
    }
    Ok(row)
}

fn options(arguments: &Map<String, Value>) -> OpenOptions {
    let mut options = OpenOptions::new();
    if let Some(id) = arguments.get("id").and_then(Value::as_str) {
        options = options.expect_id(id.parse().expect("a pack id"));
    }
    if arguments.get("require_seal") == Some(&Value::Bool(true)) {
        options = options.require_seal(true);
    }
    if let Some(Value::Object(given)) = arguments.get("limits") {
        let mut limits = Limits::default();
        for (key, value) in given {
            let value = value.as_str().and_then(|value| value.parse().ok()).expect("a whole number");
            match key.as_str() {
                "table_bytes" => limits.table_bytes = value,
                "footer_bytes" => limits.footer_bytes = value,
                "tensors" => limits.tensors = value,
                "blocks" => limits.blocks = value,
                "name_bytes" => limits.name_bytes = value,
                "rank" => limits.rank = value,
                "json_depth" => limits.json_depth = value,
                _ => panic!("no limit {key}"),
            }
        }
        options = options.limits(limits);
    }
    options
}

/// What an accepted vector holds, in the form in which `conform check` tells it.
fn content(options: &OpenOptions, path: &Path, warnings: &[&str]) -> Result<Value, String> {
    let pack = options.open(path).map_err(|error| error.to_string())?;
    let mut tensors = Vec::new();
    for tensor in pack.tensors() {
        let bytes = pack.read(tensor.name).map_err(|error| error.to_string())?;
        tensors.push(json!({
            "blake3": blake3::hash(&bytes).to_string(),
            "dtype": tensor.dtype.name(),
            "length": tensor.length.to_string(),
            "name": tensor.name,
            "offset": tensor.offset.to_string(),
            "shape": tensor.shape.iter().map(|dim| dim.to_string()).collect::<Vec<_>>(),
        }));
    }
    let metadata: Map<String, Value> = pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let mut content = json!({
        "id": pack.id().map(|id| id.to_string()),
        "layout": pack.layout().name(),
        "metadata": metadata,
        "warnings": warnings,
    });
    // Thousands of tensors by one digest of their rows: the manifest is to be read by people too.
    const SHOWN: usize = 100;
    if tensors.len() <= SHOWN {
        content["tensors"] = tensors.into();
    } else {
        content["tensor_count"] = tensors.len().to_string().into();
        content["tensors_blake3"] = blake3::hash(Value::Array(tensors).to_string().as_bytes()).to_string().into();
    }
    Ok(content)
}

/// Files that the Python package wrote.
fn upstream(folder: &Path) -> Vec<Vector> {
    let mut names: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    let packs = names.iter().filter(|path| path.extension().is_some_and(|extension| extension == "flashpack"));
    packs
        .map(|path| {
            let bytes = std::fs::read(path).expect("a golden file");
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let is_v3 = bytes.windows(12).any(|window| window == b"flashpack_v3");
            let layout = if is_v3 { "v3" } else { "v4" };
            let vector =
                Vector::accept(format!("upstream-{stem}"), layout, bytes, "written by the Python package flashpack 0.4.5");
            // Names that are odd on purpose.
            let odd = OpenOptions::new()
                .validate(path, false, &())
                .is_ok_and(|report| report.is_valid() && !report.violations.is_empty());
            if odd { vector.warns("TENSOR-NAME-02") } else { vector }
        })
        .collect()
}
