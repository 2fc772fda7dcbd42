//! A progress bar on a terminal, and Ctrl-C as a clean end.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use flashpack::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Shows bytes, rate and time left on standard error, if that is a terminal.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// `total` bytes to come, if that is known. From here on Ctrl-C and SIGTERM end the work cleanly: what was begun is removed.
    pub(crate) fn new(total: Option<u64>, quiet: bool) -> Bar {
        // Only the first bar of a process can set the handler; the others share it. Without one the default stays: the process ends at once.
        let _ = ctrlc::set_handler(interrupt);
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        let template = match total {
            Some(_) => "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            None => "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

/// Asks the work to end, which cleans up after itself. Asked twice, the process ends where it stands: a hung disk must not make it immortal.
fn interrupt() {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        std::process::exit(super::INTERRUPTED.into());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.0.inc(bytes);
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Bytes to be read at a path, near enough for a progress bar: a file's length, or that of all weights in a folder.
pub(crate) fn bytes_at(path: &Path) -> Option<u64> {
    let metadata = std::fs::metadata(path).ok()?;
    let bytes = if metadata.is_dir() {
        // A pipeline has a folder for each component, and no weights below that. Going no deeper also ends where links go round in circles.
        weights_in(path) + entries(path).filter(|entry| entry.is_dir()).map(|folder| weights_in(&folder)).sum::<u64>()
    } else if path.extension().is_some_and(|extension| extension == "json") {
        weights_in(path.parent()?)
    } else {
        metadata.len()
    };
    (bytes > 0).then_some(bytes)
}

fn weights_in(folder: &Path) -> u64 {
    let weights = entries(folder).filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    weights.filter_map(|path| path.metadata().ok()).filter(std::fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
