//! `flashpack metadata`.

use std::io::Write;
use std::path::PathBuf;

use flashpack::format::header::Sections;
use flashpack::{Layout, Pack};
use serde_json::{Map, Value, json};

use super::output::{self, count, escaped, size, stdout};
use super::{CommandResult, Failure, Outcome, open};

/// Show what a pack says about itself
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack metadata model.flashpack
  flashpack metadata -i -j model.flashpack | jq '.index[0]'")]
pub(crate) struct Arguments {
    /// The pack
    path: PathBuf,

    /// Show the tensors too
    #[arg(short = 'i', long)]
    show_index: bool,

    /// Print JSON: the footer, and of a sealed pack its seal
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let pack = open(&arguments.path)?;
    if arguments.json {
        output::json(&as_json(&pack, arguments.show_index)?)?;
        return Ok(Outcome::Done);
    }
    let mut out = stdout();
    let manifest = pack.manifest();
    match pack.header() {
        Some(header) => writeln!(out, "layout:      {} {}.{}", pack.layout(), header.major, header.minor)?,
        None => writeln!(out, "layout:      {}", pack.layout())?,
    }
    if let Some(id) = pack.id() {
        writeln!(out, "pack id:     {id}")?;
    }
    writeln!(out, "tensors:     {}", manifest.len())?;
    let elements = manifest.blocks().filter_map(|block| block.dtype.elements_in(block.length)).fold(0, u64::saturating_add);
    writeln!(out, "elements:    {elements} (padding counted)")?;
    writeln!(out, "align bytes: {}", manifest.alignment())?;
    if let Some(group) = manifest.group_size() {
        writeln!(out, "group size:  {} ({})", size(group), count(manifest.group_digests().len(), "group"))?;
    }
    let payload = manifest.payload();
    writeln!(out, "payload:     {}..{} ({})", payload.start, payload.end, size(payload.end - payload.start))?;
    writeln!(out, "blocks:")?;
    for (number, block) in manifest.blocks().enumerate() {
        let end = block.offset + block.length;
        writeln!(out, "  {number}: {:<15} {}..{end} ({})", block.dtype, block.offset, size(block.length))?;
    }
    let metadata: Vec<_> = manifest.metadata().collect();
    if !metadata.is_empty() {
        writeln!(out, "metadata:")?;
        for (key, value) in metadata {
            writeln!(out, "  {}: {}", escaped(key), escaped(value))?;
        }
    }
    if arguments.show_index {
        writeln!(out, "index:")?;
        for number in manifest.tiling_order() {
            let Some(tensor) = manifest.nth(number as usize) else { continue };
            writeln!(
                out,
                "  {}..{} {} {} {}",
                tensor.offset,
                tensor.offset + tensor.length,
                escaped(tensor.name),
                tensor.dtype,
                tensor.shape
            )?;
        }
    }
    for warning in pack.warnings().iter() {
        output::warning(&warning.to_string());
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// The footer as it stands in the file, as the Python command prints it, and what only a sealed pack has.
fn as_json(pack: &Pack, with_index: bool) -> Result<Value, Failure> {
    let footer = pack.footer()?;
    let mut document: Map<String, Value> = serde_json::from_slice(&footer)
        .map_err(|error| Failure::Usage(format!("the footer cannot be read: {error}; `flashpack validate` says more")))?;
    if !with_index {
        document.shift_remove("index");
    }
    if pack.layout() == Layout::Sealed {
        document.insert("seal".into(), seal(pack));
    }
    Ok(Value::Object(document))
}

fn seal(pack: &Pack) -> Value {
    let Some(header) = pack.header() else { return Value::Null };
    let sections: Map<String, Value> = Sections::NAMES
        .iter()
        .zip(header.sections.all())
        .map(|(name, section)| ((*name).to_owned(), json!({ "offset": section.offset, "length": section.length })))
        .collect();
    let metadata: Map<String, Value> = pack.manifest().metadata().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "version": format!("{}.{}", header.major, header.minor),
        "id": pack.id().map(|id| id.to_string()),
        "file_size": header.file_size,
        "required_features": header.required_features,
        "optional_features": header.optional_features,
        "alignment": header.alignment,
        "group_size": pack.manifest().group_size(),
        "groups": pack.manifest().group_digests().len(),
        "sections": sections,
        "metadata": metadata,
    })
}
