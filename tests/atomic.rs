//! Whatever interrupts a conversion, the target is the old file or the whole new one, and nothing else is left.
#![cfg(unix)]

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use flashpack::{Dtype, Error, PlanOptions, Progress, TensorBytes, TensorData, WriteOptions, Writer};
use tempfile::TempDir;

const LENGTH: u64 = 5 << 20;

/// A tensor whose reads fail from the nth on.
struct Failing {
    left: AtomicU64,
}

impl TensorBytes for Failing {
    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> flashpack::Result<()> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(Error::io(Path::new("source"), io::Error::other("the disk is on fire")));
        }
        buffer.fill(1);
        Ok(())
    }
}

fn names(folder: &TempDir) -> Vec<String> {
    std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn write(path: &Path, data: TensorData<'_>, progress: &dyn Progress) -> flashpack::Result<flashpack::Written> {
    let mut writer = Writer::new(PlanOptions::default());
    writer.add("w", Dtype::UInt8, [LENGTH], data);
    writer.write(path, &WriteOptions { replace: true, sync: false, progress })
}

#[test]
fn a_failing_source_leaves_the_old_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("target");
    std::fs::write(&path, "old").unwrap();
    for calls in 0..5 {
        let data = TensorData::Positional(Box::new(Failing { left: calls.into() }));
        let error = write(&path, data, &()).unwrap_err();
        assert!(error.to_string().contains("on fire"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&folder), ["target"]);
    }
    write(&path, TensorData::Positional(Box::new(Failing { left: 5.into() })), &()).unwrap();
}

#[test]
fn streams_of_the_wrong_length_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("target");
    for (length, says) in [(LENGTH - 1, "fewer"), (0, "fewer"), (LENGTH + 1, "more")] {
        let data = TensorData::Stream(Box::new(io::repeat(1).take(length)));
        let error = write(&path, data, &()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(names(&folder).is_empty());
    }
}

/// Ends the work at the nth call.
struct Cancel(AtomicU64);

impl Progress for Cancel {
    fn advance(&self, _bytes: u64) -> ControlFlow<()> {
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

#[test]
fn cancelling_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("target");
    let bytes = vec![7; LENGTH as usize];
    for calls in 0..5 {
        let result = write(&path, TensorData::Bytes(&bytes), &Cancel(calls.into()));
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(names(&folder).is_empty());
    }
}

/// A safetensors file of one tensor, with a hole for its bytes.
fn large_safetensors(path: &Path, bytes: u64) {
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn an_interrupt_leaves_the_old_file_and_no_temporary_one() {
    let folder = TempDir::new().unwrap();
    let (source, target) = (folder.path().join("w.safetensors"), folder.path().join("w.flashpack"));
    large_safetensors(&source, 400 << 20);
    std::fs::write(&target, "old").unwrap();
    for signal in ["INT", "TERM"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flashpack"))
            .args(["convert", "--force", "--no-sync"])
            .args([&source, &target])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Once there is a temporary file, the work is under way.
        while names(&folder).len() < 3 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        let mut found = names(&folder);
        found.sort();
        assert_eq!(found, ["w.flashpack", "w.safetensors"], "after SIG{signal}, {status}");
        let whole = std::fs::read(&target).unwrap() != b"old";
        assert_eq!(status.code(), Some(if whole { 0 } else { 130 }));
        std::fs::write(&target, "old").unwrap();
    }
}

#[test]
fn a_file_that_cannot_grow_leaves_the_old_one() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("target");
    std::fs::write(&target, "old").unwrap();
    // The shell's limit on file sizes stands for a full disk: both come as a failed write.
    let script = r#"trap "" XFSZ; ulimit -f 64; exec "$0" convert --force models/silero-vad/model.safetensors "$1""#;
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_flashpack")]).arg(&target).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(names(&folder), ["target"]);
}

#[test]
fn a_link_at_the_target_is_replaced_not_followed() {
    let folder = TempDir::new().unwrap();
    let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let bytes = vec![7; LENGTH as usize];
    write(&link, TensorData::Bytes(&bytes), &()).unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert!(!link.symlink_metadata().unwrap().is_symlink());
    flashpack::Pack::open(&link).unwrap();
}

#[test]
fn a_pack_can_replace_its_own_source() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.flashpack");
    let bytes: Vec<u8> = (0..LENGTH).map(|i| i as u8).collect();
    write(&path, TensorData::Bytes(&bytes), &()).unwrap();
    let mut options = flashpack::convert::ConvertOptions::default();
    options.write.replace = true;
    options.plan.alignment = 0;
    flashpack::convert::convert(&path, Some(&path), &options).unwrap();
    assert_eq!(flashpack::Pack::open(&path).unwrap().read("w").unwrap(), bytes);
}

#[test]
fn the_umask_decides_who_may_read() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("target");
    let script = r#"umask 027; exec "$0" convert models/silero-vad/model.safetensors "$1" >&2"#;
    assert!(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_flashpack")]).arg(&target).status().unwrap().success());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
}
