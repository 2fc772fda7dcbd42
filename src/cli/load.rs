//! `flashpack load`.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flashpack::Pack;
use serde_json::{Map, Value, json};

#[cfg(feature = "cuda")]
use super::load_gpu;
use super::output::{self, count, size, stdout};
use super::{CommandResult, Failure, Outcome, Trust, refuse_stream};

/// Load a pack as a program would, and tell how long it took
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flashpack load model.flashpack
  flashpack load model.flashpack --no-verify --tensor conv1.weight conv1.bias
  flashpack load model.flashpack --device cuda:0 --repeat 5")]
#[command(override_usage = "flashpack load [OPTIONS] <PATH> [--tensor <NAME>...]")]
pub(crate) struct Arguments {
    /// The pack
    #[arg(required_unless_present = "tensor")]
    path: Option<PathBuf>,

    /// Where to: cpu, or GPUs as cuda:0 or cuda:0,cuda:1
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Do not verify what is read
    #[arg(long)]
    no_verify: bool,

    /// Load only the tensors of these names (repeatable)
    #[arg(long, value_name = "NAME", num_args = 1..)]
    tensor: Vec<String>,

    /// Load this many times, and tell of each
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// Print JSON
    #[arg(short, long)]
    json: bool,

    #[command(flatten)]
    trust: Trust,

    // Last, as its heading holds for all that follows.
    #[cfg(feature = "cuda")]
    #[command(flatten)]
    gpu: load_gpu::Gpu,
}

/// What was loaded, each time alike, and how long each time took.
pub(crate) struct Loads {
    /// Where to, in words: the GPU's name, if it is one.
    pub(crate) device_name: Option<String>,
    /// How the file was read, where there is a choice.
    pub(crate) strategy: Option<String>,
    pub(crate) threads: Option<usize>,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    /// Whether what arrived was compared with the file.
    pub(crate) checked: bool,
    pub(crate) runs: Vec<Run>,
}

/// One load: its time, and the stages' times. These may be sums over threads.
pub(crate) struct Run {
    pub(crate) time: Duration,
    pub(crate) stages: Vec<(&'static str, Duration)>,
}

pub(crate) fn run(arguments: &Arguments) -> CommandResult {
    let (path, names) = arguments.path_and_names()?;
    refuse_stream(&path)?;
    let devices = Devices::parse(&arguments.device)?;
    #[cfg(feature = "cuda")]
    if matches!(devices, Devices::Cpu) && arguments.gpu.is_given() {
        return Err(Failure::Usage(
            "--strategy, --threads, --prefix, --shard, --share and --check are for GPUs: give --device cuda:0".into(),
        ));
    }
    let started = Instant::now();
    let pack = arguments.trust.options().verify_reads(!arguments.no_verify).open(&path)?;
    let opened = started.elapsed();
    let loads = match devices {
        Devices::Cpu => to_memory(&pack, names, arguments.repeat, opened)?,
        #[cfg(feature = "cuda")]
        Devices::Gpus(ordinals) => load_gpu::load(&pack, names, &ordinals, arguments.repeat, opened, &arguments.gpu)?,
    };
    let verified = pack.id().is_some() && !arguments.no_verify;
    if arguments.json {
        output::json(&document(&loads, &path.to_string_lossy(), &arguments.device, verified))?;
    } else {
        print(&loads, verified)?;
    }
    Ok(Outcome::Done)
}

fn to_memory(pack: &Pack, names: &[String], repeat: u32, opened: Duration) -> Result<Loads, Failure> {
    let mut loads =
        Loads { device_name: None, strategy: None, threads: None, tensors: 0, bytes: 0, checked: false, runs: Vec::new() };
    for _ in 0..repeat {
        let started = Instant::now();
        // Whole blocks: a few large reads, whatever the number of tensors.
        let loaded = if names.is_empty() { pack.load()? } else { pack.load_tensors(names)? };
        let time = started.elapsed();
        (loads.tensors, loads.bytes) = (loaded.len(), loaded.bytes());
        loads.runs.push(Run { time, stages: vec![("open", opened), ("read", time)] });
    }
    Ok(loads)
}

fn document(loads: &Loads, path: &str, device: &str, verified: bool) -> Value {
    let run = |run: &Run| {
        let stages: Map<String, Value> =
            run.stages.iter().map(|(stage, time)| ((*stage).to_owned(), json!(time.as_secs_f64()))).collect();
        json!({ "seconds": run.time.as_secs_f64(), "stages": stages })
    };
    let mut document = json!({
        "path": path,
        "device": device,
        "tensors": loads.tensors,
        "bytes": loads.bytes,
        "verified": verified,
        "checked": loads.checked,
        "runs": loads.runs.iter().map(run).collect::<Vec<_>>(),
    });
    if let Value::Object(fields) = &mut document {
        let more = [
            ("device_name", loads.device_name.as_ref().map(|name| json!(name))),
            ("strategy", loads.strategy.as_ref().map(|name| json!(name))),
            ("threads", loads.threads.map(|threads| json!(threads))),
        ];
        fields.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    document
}

fn print(loads: &Loads, verified: bool) -> Result<(), Failure> {
    let mut out = stdout();
    let verified = if verified { "verified" } else { "not verified" };
    write!(out, "{}, {}, {verified}", count(loads.tensors, "tensor"), size(loads.bytes))?;
    if let (Some(name), Some(strategy), Some(threads)) = (&loads.device_name, &loads.strategy, loads.threads) {
        write!(out, ", {name}, {strategy}, {}", count(threads, "thread"))?;
    }
    writeln!(out, "{}", if loads.checked { ", compared with the file" } else { "" })?;
    for run in &loads.runs {
        write!(out, "  {:<10} {:>10.3} ms", "load", run.time.as_secs_f64() * 1e3)?;
        match rate(loads.bytes, run.time) {
            Some(rate) => writeln!(out, "  {rate:>7.2} GB/s")?,
            None => writeln!(out)?,
        }
        for (stage, time) in &run.stages {
            writeln!(out, "    {stage:<8} {:>10.3} ms", time.as_secs_f64() * 1e3)?;
        }
    }
    if loads.threads.is_some_and(|threads| threads > 1) {
        writeln!(out, "  (read, hash, copy and wait are sums over the threads)")?;
    }
    Ok(out.flush()?)
}

enum Devices {
    Cpu,
    /// The numbers of some.
    #[cfg(feature = "cuda")]
    Gpus(Vec<u32>),
}

impl Devices {
    fn parse(text: &str) -> Result<Devices, Failure> {
        if text == "cpu" {
            return Ok(Devices::Cpu);
        }
        let ordinal = |device: &str| if device == "cuda" { Some(0) } else { device.strip_prefix("cuda:")?.parse().ok() };
        let ordinals: Option<Vec<u32>> = text.split(',').map(ordinal).collect();
        match ordinals {
            None => Err(Failure::Usage(format!("{text}: no such device: there are cpu and cuda:N"))),
            #[cfg(feature = "cuda")]
            Some(mut ordinals) => {
                ordinals.sort_unstable();
                ordinals.dedup();
                Ok(Devices::Gpus(ordinals))
            }
            #[cfg(not(feature = "cuda"))]
            Some(_) => {
                let message = "this build has no GPU support: load to cpu, or build with the feature `cuda`";
                Err(Failure::Usage(message.into()))
            }
        }
    }
}

impl Arguments {
    /// As `--tensor` takes all names that follow it, it also takes a path that comes last.
    fn path_and_names(&self) -> Result<(PathBuf, &[String]), Failure> {
        match (&self.path, self.tensor.as_slice()) {
            (Some(path), names) => Ok((path.clone(), names)),
            (None, [names @ .., path]) if !names.is_empty() => Ok((path.into(), names)),
            (None, _) => Err(Failure::Usage("a name and no pack: `flashpack load PATH --tensor NAME...`".into())),
        }
    }
}

/// 10^9 bytes a second.
fn rate(bytes: u64, time: Duration) -> Option<f64> {
    (bytes > 0 && !time.is_zero()).then(|| bytes as f64 / time.as_secs_f64() / 1e9)
}
