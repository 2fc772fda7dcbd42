//! `flashpack map`: the layout of a pack as a picture, in the terminal or as SVG.

mod svg;
mod terminal;

use std::path::PathBuf;

use flashpack::map::{Kind, Region, regions};
use flashpack::{Pack, Tensor};
use serde_json::{Map, Value, json};

use super::output::{count, escaped, size, stdout};
use super::{CommandResult, Outcome, artifact, open, output};

/// Draw the layout of a pack: blocks, tensors, padding, bytes that nothing refers to
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack map model.flashpack
  flashpack map model.flashpack --svg model.svg")]
pub(crate) struct Arguments {
    /// The pack
    path: PathBuf,

    /// Draw into this file instead, for light and dark pages
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Replace FILE if it exists
    #[arg(short, long, requires = "svg")]
    force: bool,

    /// Columns of the picture. By default as many as the terminal has, or 80
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(40..=1000))]
    width: Option<u16>,

    /// Print JSON: every region, in file order
    #[arg(short, long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let pack = open(&arguments.path)?;
    let name = arguments.path.file_name().unwrap_or_default().to_string_lossy();
    let picture = Picture::of(&pack, &escaped(&name))?;
    if let Some(path) = &arguments.svg {
        artifact::write(path, svg::draw(&picture).as_bytes(), arguments.force)?;
    }
    if arguments.json {
        output::json(&picture.as_json())?;
    } else if arguments.svg.is_none() {
        terminal::print(&mut stdout(), &picture, terminal::Screen::of(arguments.width))?;
    }
    Ok(Outcome::Done)
}

/// What there is to draw.
struct Picture<'a> {
    pack: &'a Pack,
    /// The file's name, as it may be shown.
    name: String,
    regions: Vec<Region<'a>>,
    sums: Vec<Sum>,
    /// Bytes of the file.
    length: u64,
}

/// All regions of one kind.
struct Sum {
    kind: Kind,
    regions: usize,
    bytes: u64,
}

impl<'a> Picture<'a> {
    fn of(pack: &'a Pack, name: &str) -> flashpack::Result<Picture<'a>> {
        let regions = regions(pack)?;
        let mut sums: Vec<Sum> = Kind::ALL.iter().map(|&kind| Sum { kind, regions: 0, bytes: 0 }).collect();
        for region in &regions {
            if let Some(sum) = sums.iter_mut().find(|sum| sum.kind == region.kind) {
                sum.regions += 1;
                sum.bytes += region.length;
            }
        }
        sums.retain(|sum| sum.regions > 0);
        let length = regions.last().map_or(0, Region::end);
        Ok(Picture { pack, name: clipped(name, 80), regions, sums, length })
    }

    /// One line about the whole file.
    fn summary(&self) -> String {
        let manifest = self.pack.manifest();
        let tensors = count(manifest.len(), "tensor");
        format!("{}, {}, {tensors} in {}", manifest.layout(), size(self.length), count(manifest.blocks().len(), "block"))
    }

    fn empty_tensors(&self) -> impl Iterator<Item = Tensor<'a>> {
        self.pack.tensors().filter(|tensor| tensor.length == 0)
    }

    /// `99.4 %` of the file.
    fn share(&self, bytes: u64) -> String {
        let percent = if self.length == 0 { 0.0 } else { bytes as f64 * 100.0 / self.length as f64 };
        if bytes > 0 && percent < 0.01 { "<0.01 %".to_owned() } else { format!("{percent:.2} %") }
    }

    fn as_json(&self) -> Value {
        let sums = self.sums.iter().map(|sum| {
            let row = json!({ "regions": sum.regions, "bytes": sum.bytes });
            (sum.kind.name().to_owned(), row)
        });
        let blocks = self.pack.manifest().blocks();
        let blocks = blocks.map(|block| json!({ "dtype": block.dtype.name(), "offset": block.offset, "bytes": block.length }));
        let empty =
            self.empty_tensors().map(|tensor| json!({ "name": tensor.name, "block": tensor.block, "offset": tensor.offset }));
        json!({
            "layout": self.pack.layout().name(),
            "bytes": self.length,
            "totals": sums.collect::<Map<String, Value>>(),
            "blocks": blocks.collect::<Vec<_>>(),
            "regions": self.regions.iter().map(region_as_json).collect::<Vec<_>>(),
            "empty_tensors": empty.collect::<Vec<_>>(),
        })
    }
}

fn region_as_json(region: &Region<'_>) -> Value {
    let mut row = json!({ "kind": region.kind.name(), "offset": region.offset, "bytes": region.length });
    // A tensor may have the empty name.
    if !region.name.is_empty() || region.tensor.is_some() {
        row["name"] = region.name.into();
    }
    if let Some(block) = region.block {
        row["block"] = block.into();
    }
    row
}

/// What a kind is called in legends.
fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Header => "header",
        Kind::Table => "tables",
        Kind::Tensor => "tensors",
        Kind::Padding => "padding",
        Kind::Footer => "footer",
        Kind::Trailer => "trailer",
        _ => "unreferenced",
    }
}

/// A text in at most `width` characters.
pub(super) fn clipped(text: &str, width: usize) -> String {
    if text.chars().nth(width).is_none() {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_characters() {
        assert_eq!(clipped("éééé", 4), "éééé");
        assert_eq!(clipped("ééééé", 4), "ééé…");
    }
}
