//! `flashpack convert`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use flashpack::convert::{ConvertOptions, Converted, Filter, convert};
use flashpack::{Dtype, PlanOptions};

use super::output::{count, escaped, size, stdout, warning};
use super::progress::{Bar, bytes_at};
use super::{CommandResult, Failure, Outcome, Trust, Writing, refuse_stream};

/// Pack a model: safetensors, sharded or not, a diffusers pipeline, or another pack
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack convert model.safetensors                       seal it as model.flashpack
  flashpack convert checkpoint/ model.flashpack             a sharded checkpoint, by its folder or index file
  flashpack convert pipeline/ packed/ --variant fp16        each component of a diffusers pipeline
  flashpack convert model.safetensors --dtype bfloat16      cast as PyTorch casts
  flashpack convert old.flashpack new.flashpack             seal a pack that the Python package wrote")]
pub(crate) struct Arguments {
    /// A .safetensors file, a folder or index of a sharded checkpoint, a pipeline folder, or a .flashpack file
    source: PathBuf,

    /// The pack to write. By default SOURCE's name with .flashpack; model.flashpack in a folder
    destination: Option<PathBuf>,

    /// The layout to write
    #[arg(long, value_enum, default_value_t = Layout::Sealed)]
    layout: Layout,

    /// Cast every tensor to this dtype, as PyTorch does
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<Dtype>,

    /// Align tensors to this many bytes; 0 for none. A power of two up to 4096 in sealed packs
    #[arg(long, value_name = "BYTES", default_value_t = PlanOptions::default().alignment)]
    align: u64,

    /// The order of tensors
    #[arg(long, value_enum, default_value_t = Order::Size)]
    order: Order,

    /// Leave out the tensor of this name (repeatable)
    #[arg(long, value_name = "NAME")]
    ignore_names: Vec<String>,

    /// Leave out tensors whose names begin so (repeatable)
    #[arg(long, value_name = "PREFIX")]
    ignore_prefixes: Vec<String>,

    /// Leave out tensors whose names end so (repeatable)
    #[arg(long, value_name = "SUFFIX")]
    ignore_suffixes: Vec<String>,

    /// Take the files of this variant from a folder: fp16 for model.fp16.safetensors
    #[arg(long)]
    variant: Option<String>,

    #[command(flatten)]
    writing: Writing,

    #[command(flatten)]
    trust: Trust,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layout {
    /// Verified: digests over every byte; the Python package loads it too
    Sealed,
    /// As the Python package writes several dtypes
    V4,
    /// As the Python package writes one dtype
    V3,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// Largest first
    Size,
    /// By name
    Name,
    /// As in the source
    Source,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    refuse_stream(&arguments.source)?;
    if let Some(destination) = &arguments.destination {
        refuse_stream(destination)?;
    }
    if let Some(option) = arguments.trust.demands()
        && is_safetensors(&arguments.source)
    {
        let source = arguments.source.display();
        return Err(Failure::Usage(format!("{source}: {option} is about packs, and this is none: leave it out or name a pack")));
    }
    let started = Instant::now();
    let converted = {
        let bar = Bar::new(bytes_at(&arguments.source), quiet);
        let options = ConvertOptions {
            plan: PlanOptions {
                layout: match arguments.layout {
                    Layout::Sealed => flashpack::Layout::Sealed,
                    Layout::V4 => flashpack::Layout::V4,
                    Layout::V3 => flashpack::Layout::V3,
                },
                alignment: arguments.align,
                order: match arguments.order {
                    Order::Size => flashpack::Order::Size,
                    Order::Name => flashpack::Order::Name,
                    Order::Source => flashpack::Order::Source,
                },
                metadata: BTreeMap::new(),
                ..PlanOptions::default()
            },
            dtype: arguments.dtype,
            filter: Filter {
                names: arguments.ignore_names.clone(),
                prefixes: arguments.ignore_prefixes.clone(),
                suffixes: arguments.ignore_suffixes.clone(),
            },
            variant: arguments.variant.clone(),
            write: arguments.writing.options(&bar),
            open: arguments.trust.options(),
        };
        convert(&arguments.source, arguments.destination.as_deref(), &options)?
    };
    let mut out = stdout();
    for pack in &converted {
        print(&mut out, pack, arguments.writing.verbose)?;
    }
    if arguments.writing.verbose {
        writeln!(out, "{:.3} s", started.elapsed().as_secs_f64())?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn print(out: &mut impl Write, pack: &Converted, verbose: bool) -> std::io::Result<()> {
    let path = escaped(&pack.path.to_string_lossy());
    match pack.written.id {
        Some(id) => writeln!(out, "{path}  {id}")?,
        None => writeln!(out, "{path}")?,
    }
    if verbose {
        let manifest = &pack.written.manifest;
        let ignored = if pack.ignored > 0 { format!(", {} ignored", pack.ignored) } else { String::new() };
        writeln!(
            out,
            "  {}, {}{ignored} in {}, {}",
            manifest.layout(),
            count(pack.tensors, "tensor"),
            count(manifest.blocks().len(), "block"),
            size(pack.written.bytes)
        )?;
    }
    if pack.dropped_metadata {
        warning(&format!("{path}: {} has no place for metadata: it was left out", pack.written.manifest.layout()));
    }
    Ok(())
}

/// Whether a source is safetensors and no pack. Only packs have an id and a seal.
fn is_safetensors(source: &Path) -> bool {
    source.is_dir() || source.extension().is_some_and(|extension| extension == "safetensors" || extension == "json")
}

/// A dtype by its name, or by one of the other names that PyTorch has for some and the Python command takes.
fn parse_dtype(name: &str) -> Result<Dtype, flashpack::dtype::UnknownDtype> {
    match name {
        "double" => "float64",
        "float" => "float32",
        "half" => "float16",
        "long" => "int64",
        "int" => "int32",
        "short" => "int16",
        "cdouble" => "complex128",
        "cfloat" => "complex64",
        "chalf" => "complex32",
        name => name,
    }
    .parse()
}
