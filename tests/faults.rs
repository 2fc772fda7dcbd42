//! Faults, real ones where possible: killed processes, full disks, two writers, files that change under the reader, reads that fail.
#![cfg(unix)]

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flashpack::{Dtype, Error, Layout, OpenOptions, Pack, PlanOptions, ReadAt, TensorData, WriteOptions, Writer};
use tempfile::TempDir;

const FLASHPACK: &str = env!("CARGO_BIN_EXE_flashpack");
const MODEL: &str = "models/silero-vad/model.safetensors";

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A safetensors file of one tensor whose bytes can be told apart.
fn safetensors(path: &Path, bytes: usize, seed: u8) {
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8 ^ seed).collect();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).unwrap();
}

fn write(path: &Path, layout: Layout, bytes: &[u8]) {
    let mut writer = Writer::new(PlanOptions { layout, ..PlanOptions::default() });
    writer.add("w", Dtype::UInt8, [bytes.len() as u64], bytes);
    writer.write(path, &WriteOptions { replace: true, sync: false, ..Default::default() }).unwrap();
}

#[test]
fn a_killed_conversion_leaves_the_old_file_or_the_new_one_and_the_next_run_sweeps() {
    const KILLS: u32 = 200;
    let folder = TempDir::new().unwrap();
    let (source, target) = (folder.path().join("w.safetensors"), folder.path().join("w.flashpack"));
    safetensors(&source, 8 << 20, 0);
    let convert = || {
        let mut command = Command::new(FLASHPACK);
        command.args(["convert", "--force", "--no-sync"]).args([&source, &target]).stdout(Stdio::null());
        command
    };
    // How long it takes, so that the kills fall into it.
    let started = Instant::now();
    assert!(convert().status().unwrap().success());
    let whole = started.elapsed();
    let new = std::fs::read(&target).unwrap();
    let (mut old_count, mut new_count, mut strays) = (0, 0, 0);
    for number in 0..KILLS {
        std::fs::write(&target, "old").unwrap();
        let mut child = convert().spawn().unwrap();
        // Spread over the whole of it by the golden ratio: no two moments are alike.
        std::thread::sleep(whole.mul_f64((f64::from(number) * 0.618_034).fract() * 1.2));
        child.kill().unwrap();
        child.wait().unwrap();
        match std::fs::read(&target).unwrap() {
            found if found == b"old" => old_count += 1,
            found if found == new => new_count += 1,
            found => panic!("kill {number} left {} bytes that are neither", found.len()),
        }
        let left: Vec<String> = names(folder.path()).into_iter().filter(|name| !name.starts_with("w.")).collect();
        assert!(left.len() <= 1, "earlier ones were swept: {left:?}");
        assert!(left.iter().all(|name| name.starts_with(".flashpack-") && name.ends_with(".tmp")), "{left:?}");
        strays += left.len();
    }
    println!("{old_count} old, {new_count} new, {strays} stray temporary files");
    assert!(convert().status().unwrap().success());
    assert_eq!(names(folder.path()), ["w.flashpack", "w.safetensors"]);
    assert_eq!(std::fs::read(&target).unwrap(), new);
}

#[test]
fn a_sweep_takes_only_what_nobody_is_writing_and_what_is_ours() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in [".flashpack-abcdEF12.tmp", ".flashpack-mine.tmp", ".flashpack-abcdEF12.tmp.txt", "flashpack-abcdEF12.tmp"] {
        std::fs::write(at(name), "x").unwrap();
    }
    std::os::unix::fs::symlink(MODEL, at(".flashpack-link1234.tmp")).unwrap();
    std::fs::create_dir(at(".flashpack-folder12.tmp")).unwrap();

    // While another run is writing here, nothing is swept: its temporary file may be among these.
    let slow = SlowStream { started: Arc::default(), go_on: Arc::default(), left: 1 << 20 };
    let (started, go_on, path) = (slow.started.clone(), slow.go_on.clone(), at("slow.flashpack"));
    let writing = std::thread::spawn(move || {
        let mut writer = Writer::new(PlanOptions::default());
        writer.add("w", Dtype::UInt8, [1 << 20], TensorData::Stream(Box::new(slow)));
        writer.write(&path, &WriteOptions::default()).map(drop)
    });
    while !started.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    // It swept when it began, so here is a new one.
    std::fs::write(at(".flashpack-newstray.tmp"), "x").unwrap();
    write(&at("fast.flashpack"), Layout::Sealed, &[1]);
    assert!(at(".flashpack-newstray.tmp").exists());
    go_on.store(true, Ordering::Release);
    writing.join().unwrap().unwrap();

    write(&at("fast.flashpack"), Layout::Sealed, &[1]);
    let kept = [
        ".flashpack-abcdEF12.tmp.txt",
        ".flashpack-folder12.tmp",
        ".flashpack-link1234.tmp",
        ".flashpack-mine.tmp",
        "fast.flashpack",
        "flashpack-abcdEF12.tmp",
        "slow.flashpack",
    ];
    assert_eq!(names(folder.path()), kept);
}

/// A stream that waits in the middle until it is told to go on.
struct SlowStream {
    started: Arc<AtomicBool>,
    go_on: Arc<AtomicBool>,
    left: usize,
}

impl Read for SlowStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.started.store(true, Ordering::Release);
        while !self.go_on.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let read = buffer.len().min(self.left);
        buffer[..read].fill(1);
        self.left -= read;
        Ok(read)
    }
}

#[test]
fn of_two_writers_to_one_target_one_wins_whole() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("w.flashpack");
    let sources: Vec<PathBuf> = (0..2).map(|number| folder.path().join(format!("{number}.safetensors"))).collect();
    let results: Vec<Vec<u8>> = (0_u8..)
        .zip(&sources)
        .map(|(number, source)| {
            safetensors(source, 2 << 20, number);
            assert!(
                Command::new(FLASHPACK)
                    .args(["convert", "-f"])
                    .args([source, &target])
                    .stdout(Stdio::null())
                    .status()
                    .unwrap()
                    .success()
            );
            std::fs::read(&target).unwrap()
        })
        .collect();
    for round in 0..20 {
        std::fs::remove_file(&target).unwrap();
        let force = round % 2 == 0;
        let children: Vec<_> = sources
            .iter()
            .map(|source| {
                let mut command = Command::new(FLASHPACK);
                command.args(["convert", "--no-sync"]).args(force.then_some("--force")).args([source, &target]);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let codes: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap().code()).collect();
        // Without --force the second to finish is refused; both may have been allowed to begin.
        let wins = codes.iter().filter(|code| **code == Some(0)).count();
        assert_eq!(wins, if force { 2 } else { 1 }, "{codes:?}");
        assert!(results.contains(&std::fs::read(&target).unwrap()));
        assert_eq!(names(folder.path()), ["0.safetensors", "1.safetensors", "w.flashpack"]);
    }
}

/// Runs a shell script in a mount namespace of its own, where a small tmpfs can be mounted on `$1`. `None` where that is not allowed.
fn with_small_disk(script: &str, kibibytes: u32, folder: &Path) -> Option<std::process::Output> {
    let script = format!("mount -t tmpfs -o size={kibibytes}k none \"$1\" || exit 99\n{script}");
    for namespace in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let mut command = Command::new("unshare");
        command.args(namespace).args(["sh", "-c", &script, FLASHPACK]).arg(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.output() {
            Ok(output) if output.status.code() != Some(99) && !String::from_utf8_lossy(&output.stderr).contains("unshare:") => {
                return Some(output);
            }
            _ => {}
        }
    }
    None
}

#[test]
fn a_disk_that_fills_up_leaves_the_old_file_and_says_so() {
    let folder = TempDir::new().unwrap();
    let script = format!(
        r#"echo old > "$1/target"
        "$0" convert --force {MODEL} "$1/target"
        echo "code $?, $(cat "$1/target"), $(ls -A "$1" | tr '\n' ' ')""#
    );
    for kibibytes in [64, 256, 500, 900, 1100] {
        let Some(output) = with_small_disk(&script, kibibytes, folder.path()) else {
            // Where nothing can be mounted, a limit on file sizes stands in (`tests/atomic.rs`): also a write that fails midway.
            eprintln!("no file system can be mounted here");
            return;
        };
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out.trim_end(), "code 2, old, target", "{kibibytes} KiB: {error}");
        assert!(error.contains("No space left") && error.contains("free some space"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// A stream of short reads, a third of them interrupted.
struct Stuttering {
    left: usize,
    count: usize,
}

impl Read for Stuttering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count += 1;
        if self.count.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = buffer.len().min(self.left).min(1 + self.count * 37 % 8191);
        buffer[..read].fill(9);
        self.left -= read;
        Ok(read)
    }
}

#[test]
fn interrupted_and_short_reads_are_only_slow() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.flashpack");
    const LENGTH: usize = 3 << 20;
    let mut writer = Writer::new(PlanOptions::default());
    writer.add("w", Dtype::UInt8, [LENGTH as u64], TensorData::Stream(Box::new(Stuttering { left: LENGTH, count: 0 })));
    writer.write(&path, &WriteOptions { sync: false, ..Default::default() }).unwrap();
    assert_eq!(Pack::open(&path).unwrap().read("w").unwrap(), vec![9; LENGTH]);
}

/// Bytes of which the nth read fails.
struct Failing {
    bytes: Vec<u8>,
    left: AtomicU64,
}

impl ReadAt for Failing {
    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(io::Error::other("the disk is broken"));
        }
        self.bytes.read_exact_at(buffer, offset)
    }
}

#[test]
fn every_read_that_fails_is_an_error_and_hands_out_nothing() {
    for layout in [Layout::Sealed, Layout::V4, Layout::V3] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("w.flashpack");
        let content: Vec<u8> = (0..3_u32 << 20).map(|i| (i % 250) as u8 + 1).collect();
        write(&path, layout, &content);
        let bytes = std::fs::read(&path).unwrap();
        // Opens, reads a tensor into a buffer, loads, verifies: all on a source of which one read fails.
        let run = |reads: u64| -> (Result<(), Error>, Vec<u8>) {
            let source = Arc::new(Failing { bytes: bytes.clone(), left: reads.into() });
            let mut buffer = vec![0; content.len()];
            let result = OpenOptions::new().open_source(source).and_then(|pack| {
                pack.read_into("w", &mut buffer)?;
                pack.load().map(|loaded| assert_eq!(loaded.tensor("w").unwrap(), content))?;
                pack.verify(&())
            });
            (result, buffer)
        };
        let mut reads = 0;
        loop {
            let (result, buffer) = run(reads);
            assert!(buffer == content || buffer.iter().all(|&byte| byte == 0), "half a tensor was left");
            match result {
                Ok(()) => break,
                Err(error) => assert!(error.to_string().contains("broken"), "{error}"),
            }
            reads += 1;
        }
        assert!(reads >= 6, "{layout:?}: only {reads} reads");
    }
}

/// Changes a file again and again until it is told to stop.
fn while_changing<T>(path: &Path, change: impl Fn(&std::fs::File) + Sync, body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let (change, stopped) = (&change, &stop);
        scope.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                change(&file);
            }
        });
        /// Also when an assertion fails: the scope waits for its threads.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        body()
    })
}

#[test]
fn a_sealed_file_that_is_rewritten_meanwhile_gives_the_verified_bytes_or_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.flashpack");
    let content: Vec<u8> = (0..4_u32 << 20).map(|i| (i % 250) as u8).collect();
    write(&path, Layout::Sealed, &content);
    let pack = Pack::open(&path).unwrap();
    let payload = pack.manifest().payload();
    let good = std::fs::read(&path).unwrap()[payload.start as usize..payload.end as usize].to_vec();
    let bad: Vec<u8> = good.iter().map(|byte| byte.wrapping_add(1)).collect();
    let rewrite = |file: &std::fs::File| {
        for bytes in [&bad, &good] {
            file.write_all_at(bytes, payload.start).unwrap();
            std::thread::sleep(Duration::from_micros(300));
        }
    };
    while_changing(&path, rewrite, || {
        let refused = |error: &Error| error.violation().is_some_and(|violation| violation.rule.id == "SEAL-INT-01");
        for _ in 0..40 {
            match pack.read("w") {
                Ok(bytes) => assert!(bytes == content, "bytes that were not sealed were handed out"),
                Err(error) => assert!(refused(&error), "{error}"),
            }
            match pack.load() {
                Ok(loaded) => assert!(loaded.tensor("w").unwrap() == content),
                Err(error) => assert!(refused(&error), "{error}"),
            }
            if let Err(error) = pack.verify(&()) {
                assert!(refused(&error), "{error}");
            }
        }
    });
}

#[test]
fn a_file_that_is_cut_meanwhile_is_an_error_never_a_signal() {
    for layout in [Layout::Sealed, Layout::V4] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("w.flashpack");
        let content: Vec<u8> = (0..4_u32 << 20).map(|i| (i % 250) as u8 + 1).collect();
        write(&path, layout, &content);
        let pack = Pack::open(&path).unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let whole = std::fs::read(&path).unwrap();
        let cut = |file: &std::fs::File| {
            for part in [length / 3, 0, length - 1] {
                file.set_len(part).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
            file.set_len(0).unwrap();
            file.write_all_at(&whole, 0).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        };
        while_changing(&path, cut, || {
            for _ in 0..60 {
                let read = pack.read("w");
                if let Ok(bytes) = &read {
                    // Nothing verifies a v4 file; a sealed one gives these bytes or none.
                    assert!(layout == Layout::V4 || *bytes == content);
                }
                drop((pack.load().map(drop), pack.verify(&()), Pack::open(&path).map(drop)));
                drop(OpenOptions::new().validate(&path, false, &()));
            }
        });
    }
}
