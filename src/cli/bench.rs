//! `flashpack bench`: loading a model as a pack beside loading it as safetensors, in turn, on this machine.

mod loaders;
mod page_cache;
mod plot;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flashpack::convert::{ConvertOptions, convert, safetensors_files};
use flashpack::{Error, Progress, WriteOptions};
use serde_json::{Map, Value, json};

use self::loaders::{FLASHPACK, Loader, SAFETENSORS, loaders};
use self::page_cache::State;
use super::output::{escaped, size, stdout, warning};
use super::progress::{Bar, bytes_at};
use super::{CommandResult, Failure, Outcome, artifact, output, refuse_stream};

/// Measure how long models take to load, as packs and as safetensors
///
/// Each model is converted once to a sealed pack in a temporary folder. Then all ways to load it take turns, and the medians are told. The ratio is the
/// time of safetensors divided by that of flashpack, verified. Nothing may change the files meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack bench model.safetensors
  flashpack bench first.safetensors checkpoint/ --runs 9 --cold --csv times.csv --plot times.svg")]
pub(crate) struct Arguments {
    /// .safetensors files, and folders or indexes of sharded checkpoints
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,

    /// Load each model this many times in each way
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,

    /// Drop the files from the page cache before each load, so that it reads from the disk (Linux)
    #[arg(long)]
    cold: bool,

    /// Put the packs into a new folder in this one, removed at the end. By default the system's place for temporary files
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,

    /// Write the table as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Draw the rates as an SVG, for light and dark pages
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace the CSV and the SVG if they exist
    #[arg(short, long)]
    force: bool,

    /// Print JSON, with the time of every run
    #[arg(short, long)]
    json: bool,
}

/// A source, what to call it, and the files in it.
struct Source {
    name: String,
    path: PathBuf,
    files: Vec<PathBuf>,
}

/// One row of the table.
struct Row {
    model: String,
    source: PathBuf,
    /// Bytes of all tensors.
    bytes: u64,
    tensors: usize,
    convert: Duration,
    cache: State,
    times: Vec<Times>,
}

/// The times of one way to load a model.
struct Times {
    loader: &'static str,
    label: &'static str,
    runs: Vec<Duration>,
}

pub(crate) fn run(arguments: &Arguments, quiet: bool) -> CommandResult {
    // Whatever can be refused is refused before minutes are spent.
    for path in [&arguments.csv, &arguments.plot].into_iter().flatten() {
        artifact::refuse_existing(path, arguments.force)?;
    }
    if arguments.cold && !page_cache::CAN_EVICT {
        return Err(Failure::Usage("--cold: only on Linux can files be dropped from the page cache: leave it out".into()));
    }
    let sources = sources(&arguments.sources)?;
    let parent = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("flashpack-bench-").tempdir_in(&parent);
    let folder = folder.map_err(|error| Error::io(&parent, error))?;
    let mut rows = Vec::with_capacity(sources.len());
    for source in &sources {
        rows.push(measure(source, folder.path(), arguments, quiet)?);
    }
    if let Some(row) = rows.iter().find(|row| row.cache == State::StillCached) {
        let model = &row.model;
        warning(&format!("{model}: dropped files could still be read without the disk: its times are not cold (try --folder)"));
    }
    if let Some(path) = &arguments.csv {
        artifact::write(path, &as_csv(&rows, arguments.runs)?, arguments.force)?;
    }
    if let Some(path) = &arguments.plot {
        artifact::write(path, plot::draw(&rows, &heading(&rows, arguments)).as_bytes(), arguments.force)?;
    }
    if arguments.json {
        let models: Vec<Value> = rows.iter().map(as_json).collect();
        output::json(&json!({ "runs": arguments.runs, "folder": folder.path().to_string_lossy(), "models": models }))?;
    } else {
        print(&rows, &heading(&rows, arguments), folder.path())?;
    }
    Ok(Outcome::Done)
}

/// All sources, opened once to see that they can be converted.
fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        refuse_stream(path)?;
        if path.is_dir() && path.join("model_index.json").is_file() {
            let shown = path.display();
            return Err(Failure::Usage(format!("{shown}: a pipeline has several models: name the folders of its components")));
        }
        if path.extension().is_some_and(|extension| extension == "flashpack") {
            let shown = path.display();
            return Err(Failure::Usage(format!("{shown}: a pack: name the safetensors file (`flashpack revert` makes one)")));
        }
        sources.push(Source { name: model_name(path), path: path.clone(), files: safetensors_files(path, None)? });
    }
    // Two models of one name would be one in the table: they are called by their paths.
    let names: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
    for source in &mut sources {
        if names.iter().filter(|&name| *name == source.name).count() > 1 {
            source.name = source.path.to_string_lossy().into_owned();
        }
    }
    Ok(sources)
}

/// The name of a file, or that of its folder where the file has the name that all models have.
fn model_name(path: &Path) -> String {
    const USUAL: [&str; 3] = ["model", "diffusion_pytorch_model", "pytorch_model"];
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let stem = [".safetensors.index.json", ".safetensors"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
    let folder = absolute.parent().and_then(Path::file_name);
    match (stem.unwrap_or(&name), folder) {
        (stem, Some(folder)) if USUAL.contains(&stem) => folder.to_string_lossy().into_owned(),
        (stem, _) => stem.to_owned(),
    }
}

/// Converts a model, and loads it in every way in turn: so a machine that slows down or warms up does so for all of them.
fn measure(source: &Source, folder: &Path, arguments: &Arguments, quiet: bool) -> Result<Row, Failure> {
    let pack = folder.join("model.flashpack");
    let started = Instant::now();
    let converted = {
        let bar = Bar::new(bytes_at(&source.path), quiet);
        let write = WriteOptions { replace: true, progress: &bar, ..WriteOptions::default() };
        convert(&source.path, Some(&pack), &ConvertOptions { write, ..ConvertOptions::default() })?
    };
    let convert = started.elapsed();
    let manifest = converted.first().map(|converted| &converted.written.manifest);
    let tensors = manifest.map_or(0, flashpack::Manifest::len);
    let bytes: u64 = manifest.map_or(0, |manifest| manifest.tensors().map(|tensor| tensor.length).sum());

    let loaders = loaders(&pack, &source.files);
    let mut times: Vec<Times> =
        loaders.iter().map(|loader| Times { loader: loader.key, label: loader.label, runs: Vec::new() }).collect();
    // A first round, not counted, brings all files into the page cache; before cold runs it would be for nothing.
    let warming = usize::from(!arguments.cold);
    let rounds = usize::from(arguments.runs) + warming;
    let bar = Bar::new(Some(bytes * (rounds * loaders.len()) as u64), quiet);
    let mut cache = if arguments.cold { State::Cold } else { State::Hot };
    for round in 0..rounds {
        for (Loader { load, .. }, times) in loaders.iter().zip(&mut times) {
            if arguments.cold {
                for file in source.files.iter().chain([&pack]) {
                    let state = page_cache::evict(file).map_err(|error| Error::io(file, error))?;
                    cache = cache.max(state);
                }
            }
            let time = load()?;
            if round >= warming {
                times.runs.push(time);
            }
            // The folder is removed on the way out.
            if let ControlFlow::Break(()) = bar.advance(bytes) {
                return Err(Error::Cancelled.into());
            }
        }
    }
    // One pack at a time: models can be as large as the disk.
    std::fs::remove_file(&pack).map_err(|error| Error::io(&pack, error))?;
    let model = escaped(&source.name);
    Ok(Row { model, source: source.path.clone(), bytes, tensors, convert, cache, times })
}

impl Times {
    fn median(&self) -> Duration {
        let mut sorted = self.runs.clone();
        sorted.sort_unstable();
        let half = sorted.len() / 2;
        match (sorted.get(half.wrapping_sub(1)), sorted.get(half)) {
            (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => (*below + *above) / 2,
            (_, middle) => middle.copied().unwrap_or_default(),
        }
    }
}

impl Row {
    fn median_of(&self, loader: &str) -> Option<Duration> {
        self.times.iter().find(|times| times.loader == loader).map(Times::median)
    }

    /// How many times as long safetensors takes.
    fn ratio(&self) -> Option<f64> {
        let (ours, theirs) = (self.median_of(FLASHPACK)?, self.median_of(SAFETENSORS)?);
        (!ours.is_zero()).then(|| theirs.as_secs_f64() / ours.as_secs_f64())
    }
}

/// What the numbers are.
fn heading(rows: &[Row], arguments: &Arguments) -> String {
    let cache = match rows {
        [first, rest @ ..] if rest.iter().all(|row| row.cache == first.cache) => first.cache.meaning(),
        _ => "page cache as told for each model",
    };
    let runs = match arguments.runs {
        1 => "1 run".to_owned(),
        runs => format!("medians of {runs} runs"),
    };
    format!("{runs}, {cache}")
}

fn print(rows: &[Row], heading: &str, folder: &Path) -> io::Result<()> {
    let labels = rows.first().into_iter().flat_map(|row| &row.times).map(|times| times.label);
    let mut table: Vec<Vec<String>> =
        vec![["model", "bytes", "tensors", "convert"].into_iter().chain(labels).map(str::to_owned).collect()];
    table[0].extend(["ratio", "cache"].map(str::to_owned));
    for row in rows {
        let mut line = vec![row.model.clone(), size(row.bytes), row.tensors.to_string(), shown(row.convert)];
        line.extend(row.times.iter().map(|times| shown(times.median())));
        line.push(row.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        line.push(row.cache.name().to_owned());
        table.push(line);
    }
    let mut out = stdout();
    writeln!(out, "{heading}; packs in {}, now removed", escaped(&folder.to_string_lossy()))?;
    let width = |column: usize| table.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    for line in &table {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            // Names at the left, numbers at the right.
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        writeln!(out, "{text}")?;
    }
    out.flush()
}

/// A time to three figures.
fn shown(time: Duration) -> String {
    let (value, unit) = match time.as_secs_f64() {
        seconds if seconds >= 1.0 => (seconds, "s"),
        seconds if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        seconds => (seconds * 1e6, "µs"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

fn as_csv(rows: &[Row], runs: u16) -> Result<Vec<u8>, Failure> {
    let failed = |error: csv::Error| Failure::Usage(format!("the table as CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let loaders = rows.first().into_iter().flat_map(|row| &row.times).map(|times| format!("{}_seconds", times.loader));
    let columns = ["model", "bytes", "tensors", "convert_seconds"].map(str::to_owned).into_iter();
    let columns = columns.chain(loaders).chain(["ratio", "runs", "cache"].map(str::to_owned));
    writer.write_record(columns).map_err(failed)?;
    let seconds = |time: Duration| format!("{:.6}", time.as_secs_f64());
    for row in rows {
        let mut record = vec![row.model.clone(), row.bytes.to_string(), row.tensors.to_string(), seconds(row.convert)];
        record.extend(row.times.iter().map(|times| seconds(times.median())));
        record.push(row.ratio().map(|ratio| format!("{ratio:.3}")).unwrap_or_default());
        record.extend([runs.to_string(), row.cache.name().to_owned()]);
        writer.write_record(record).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| failed(error.into_error().into()))
}

fn as_json(row: &Row) -> Value {
    let loads = row.times.iter().map(|times| {
        let runs: Vec<f64> = times.runs.iter().map(Duration::as_secs_f64).collect();
        (times.loader.to_owned(), json!({ "median_seconds": times.median().as_secs_f64(), "runs_seconds": runs }))
    });
    json!({
        "model": row.model,
        "source": row.source.to_string_lossy(),
        "bytes": row.bytes,
        "tensors": row.tensors,
        "convert_seconds": row.convert.as_secs_f64(),
        "loads": loads.collect::<Map<String, Value>>(),
        "ratio": row.ratio(),
        "cache": row.cache.name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_even_and_odd_numbers_of_runs() {
        let median = |runs: &[u64]| {
            let runs = runs.iter().map(|&run| Duration::from_millis(run)).collect();
            Times { loader: "", label: "", runs }.median().as_millis()
        };
        assert_eq!(median(&[]), 0);
        assert_eq!(median(&[7]), 7);
        assert_eq!(median(&[9, 1]), 5);
        assert_eq!(median(&[9, 1, 2]), 2);
        assert_eq!(median(&[9, 1, 2, 4]), 3);
    }

    #[test]
    fn models_are_called_by_file_or_folder() {
        assert_eq!(model_name(Path::new("a/bert.safetensors")), "bert");
        assert_eq!(model_name(Path::new("a/bert/model.safetensors")), "bert");
        assert_eq!(model_name(Path::new("a/bert/model.safetensors.index.json")), "bert");
        assert_eq!(model_name(Path::new("a/bert/")), "bert");
    }

    #[test]
    fn times_have_three_figures() {
        assert_eq!(shown(Duration::from_micros(812)), "812 µs");
        assert_eq!(shown(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(shown(Duration::from_millis(123_400)), "123 s");
    }
}
