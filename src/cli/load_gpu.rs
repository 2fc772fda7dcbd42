//! The part of `flashpack load` that is about GPUs.

use std::num::NonZero;
use std::time::{Duration, Instant};

use flashpack::cuda::{self, Device, DevicePack, LoadOptions, Loader, Select};
use flashpack::{Error, Pack};

use super::Failure;
use super::load::{Loads, Run};

/// What can be said of a load to a GPU.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For GPUs")]
pub(crate) struct Gpu {
    /// How the file is read. `registered` maps it and has the GPU read it: not verified, and only for files that nobody changes meanwhile
    #[arg(long, value_enum, default_value_t = Strategy::Auto)]
    strategy: Strategy,

    /// Reader threads: default one a core, at most 16
    #[arg(long)]
    threads: Option<NonZero<usize>>,

    /// Load only tensors whose names begin with this (repeatable)
    #[arg(long, value_name = "PREFIX", conflicts_with = "tensor")]
    prefix: Vec<String>,

    /// Load of each tensor the rows of rank R among N
    #[arg(long, value_name = "R/N", conflicts_with_all = ["tensor", "prefix"])]
    shard: Option<Rank>,

    /// Load of the payload's bytes the share of rank R among N
    #[arg(long, value_name = "R/N", conflicts_with_all = ["tensor", "prefix", "shard"])]
    share: Option<Rank>,

    /// Copy back what arrived and compare it with the file
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    /// Past the page cache if little of the file is in it
    Auto,
    /// Through the page cache
    Buffered,
    /// Past the page cache
    Direct,
    /// The GPU reads the mapped file
    Registered,
}

/// One of several.
#[derive(Clone, Copy, Debug)]
struct Rank {
    rank: u64,
    of: u64,
}

impl std::str::FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Rank, String> {
        let parts = text.split_once('/').and_then(|(rank, of)| Some((rank.parse().ok()?, of.parse().ok()?)));
        let (rank, of) = parts.ok_or("write it as R/N, as in 0/8")?;
        if rank < of { Ok(Rank { rank, of }) } else { Err("ranks count from 0: R must be less than N".into()) }
    }
}

impl Gpu {
    /// Whether anything was asked for that only GPUs have.
    pub(crate) fn is_given(&self) -> bool {
        let parts = self.shard.is_some() || self.share.is_some() || !self.prefix.is_empty();
        parts || self.strategy != Strategy::Auto || self.threads.is_some() || self.check
    }
}

/// Loads several times, with one loader: its pinned buffers are made once.
pub(crate) fn load(
    pack: &Pack,
    names: &[String],
    ordinals: &[u32],
    repeat: u32,
    opened: Duration,
    arguments: &Gpu,
) -> Result<Loads, Failure> {
    let registered = arguments.strategy == Strategy::Registered;
    let devices = ordinals.iter().map(|&ordinal| Device::open(ordinal)).collect::<Result<Vec<_>, Error>>()?;
    let device_names = devices.iter().map(Device::name).collect::<Result<Vec<_>, Error>>()?;
    let loader = Loader::new(&devices);
    let options = LoadOptions {
        select: arguments.select(names),
        strategy: match arguments.strategy {
            Strategy::Auto | Strategy::Registered => cuda::Strategy::Auto,
            Strategy::Buffered => cuda::Strategy::Buffered,
            Strategy::Direct => cuda::Strategy::Direct,
        },
        threads: arguments.threads,
        ..LoadOptions::default()
    };
    let mut loads = Loads {
        device_name: Some(device_names.join(", ")),
        strategy: None,
        threads: None,
        tensors: 0,
        bytes: 0,
        checked: false,
        runs: Vec::new(),
    };
    for _ in 0..repeat {
        let started = Instant::now();
        let loaded = if registered {
            // SAFETY: whoever asks for `registered` is told that nobody may change the file meanwhile.
            unsafe { loader.load_registered(pack, &options) }?
        } else {
            loader.load(pack, &options)?
        };
        let time = started.elapsed();
        if arguments.check {
            loaded.packs.iter().try_for_each(|on_device| check(pack, on_device, &options.select))?;
            loads.checked = true;
        }
        loads.strategy = Some(loaded.strategy.to_string());
        loads.threads = Some(loaded.threads);
        loads.bytes = loaded.bytes;
        loads.tensors = loaded.packs.first().map_or(0, DevicePack::len);
        let cuda::Timings { allocate, read, hash, copy, wait, .. } = loaded.timings;
        let stages =
            vec![("open", opened), ("allocate", allocate), ("read", read), ("hash", hash), ("copy", copy), ("wait", wait)];
        loads.runs.push(Run { time, stages });
    }
    Ok(loads)
}

impl Gpu {
    fn select(&self, names: &[String]) -> Select {
        match (self.shard, self.share) {
            (Some(Rank { rank, of }), _) => Select::Rows { rank, of },
            (_, Some(Rank { rank, of })) => Select::Share { rank, of },
            _ if !self.prefix.is_empty() => Select::Prefixes(self.prefix.clone()),
            _ if !names.is_empty() => Select::Names(names.to_vec()),
            _ => Select::All,
        }
    }
}

/// Compares what is on the device with the file.
fn check(pack: &Pack, on_device: &DevicePack, select: &Select) -> Result<(), Failure> {
    for tensor in on_device.tensors() {
        let expected = expected(pack, tensor.name(), tensor.length(), select)?;
        if tensor.to_host()? != expected {
            return Err(Failure::Differs(format!("tensor {:?} did not arrive as it is in the file", tensor.name())));
        }
    }
    Ok(())
}

/// The bytes of the file that should be there: of a tensor's rows, those from the rank's first.
fn expected(pack: &Pack, name: &str, length: u64, select: &Select) -> Result<Vec<u8>, Failure> {
    let whole = pack.read(name)?;
    let Select::Rows { rank, of } = *select else { return Ok(whole) };
    let tensor = pack.tensor(name)?;
    let Some(rows) = tensor.shape.iter().next().filter(|&rows| rows > 0) else { return Ok(whole) };
    let first = u128::from(rows) * u128::from(rank) / u128::from(of);
    let start = usize::try_from(first * u128::from(tensor.length) / u128::from(rows)).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(whole.get(start..end).unwrap_or_default().to_vec())
}
