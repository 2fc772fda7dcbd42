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
    /// `total` bytes to come. From here on Ctrl-C and SIGTERM end the work cleanly: what was begun is removed.
    pub(crate) fn new(total: u64, quiet: bool) -> Bar {
        // Only the first bar of a process can set the handler; the others share it. Without one the default stays: the process ends at once.
        let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
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

/// Bytes to be read at a path, near enough for a progress bar: a file's length, or that of all weights below a folder.
pub(crate) fn bytes_at(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let weights = |path: &Path| path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors");
    entries.flatten().map(|entry| entry.path()).filter(|path| weights(path)).map(|path| bytes_at(&path)).sum()
}
