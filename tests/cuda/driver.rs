//! The test side of the stand-in for the CUDA driver library, which lies in `tests/fake-cuda`.
//!
//! The driver library is found by the loader's ordinary search, once for a process, so a test that needs the stand-in runs
//! again in a process of its own, whose search begins with the folder of the stand-in.

use libloading::Library;
use std::{
    cell::Cell,
    env,
    ffi::{CString, c_char},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Set in the process that a test runs in again.
const INNER: &str = "FLASHPACK_FAKE_CUDA";
/// The variable that the loader's search begins with.
const SEARCH_PATH: &str = "LD_LIBRARY_PATH";

/// How many devices there are unless a test resets the driver.
pub const DEVICES: u32 = 2;
/// How much memory each of them has.
pub const MEMORY: u64 = 1 << 30;

/// The stand-in, as loaded by this process.
pub struct Driver {
    library: Library,
    expects_faults: Cell<bool>,
}

/// Runs a test with the stand-in as the driver, and afterwards checks that it has found no fault and nothing leaked.
///
/// The closure must be written in the test function itself, whose name is where it gets its own.
pub fn with_driver<F: FnOnce(&Driver)>(test: F) {
    if env::var_os(INNER).is_none() {
        run_again(test_name::<F>(), stand_in());
        return;
    }
    let driver = Driver::load();
    driver.reset(DEVICES, MEMORY, 0);
    test(&driver);
    if !driver.expects_faults.get() {
        let report = driver.report();
        assert!(report.is_empty(), "the driver reports:\n{report}");
    }
}

/// Runs a test where no driver is to be found, not even where one is installed.
pub fn without_driver<F: FnOnce()>(test: F) {
    if env::var_os(INNER).is_none() {
        run_again(test_name::<F>(), no_driver());
        return;
    }
    test();
}

/// The name of the test that calls this, as the harness filters by it.
fn test_name<F>() -> String {
    // A test has a thread of its name, unless the harness runs one test at a time; then the closure has its path.
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => {
            let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
            path.split_once("::").map_or(path, |(_, name)| name).to_owned()
        }
    }
}

/// Runs one test again in a process of its own, with that folder to look for the driver in.
fn run_again(test: String, folder: &Path) {
    let mut command = Command::new(env::current_exe().expect("the test's own program is there"));
    command.args(["--exact", &test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(INNER, "1").env(SEARCH_PATH, folder);
    let output = command.output().expect("the test's own program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && text.contains("test result: ok. 1 passed");
    assert!(passed, "{test}, in its own process: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// The folder that builds go to.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is a folder of the target folder")
}

/// The folder of the stand-in, which is built first.
fn stand_in() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = target().join("fake-cuda");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-cuda/Cargo.toml");
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
        command.args(["build", "--quiet", "--offline", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(&folder);
        // With a target named, the library would go to a folder of another name.
        // What sanitizes the tests is not for a library that they load.
        let output = command.env_remove("CARGO_BUILD_TARGET").env_remove("RUSTFLAGS").output().expect("cargo can be started");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the stand-in can't be built: {}\n{text}", output.status);
        folder.join("debug")
    })
}

/// A folder that ends every search for a driver: the loader stops at a file of the right name that is no library.
fn no_driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = target().join("no-cuda");
        std::fs::create_dir_all(&folder).expect("the target folder can be written to");
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::fs::write(folder.join(name), "").expect("the target folder can be written to");
        }
        folder
    })
}

impl Driver {
    fn load() -> Self {
        // SAFETY: the stand-in does nothing when it is loaded.
        let library = unsafe { Library::new("libcuda.so") }.expect("the search begins with the stand-in's folder");
        Self { library, expects_faults: Cell::new(false) }
    }

    /// Begins anew with that many devices of that much memory each: nothing is allocated or found, and no failures or
    /// delays are set. What the test still held is gone without a report. The seed is for [`Self::set_delay`].
    pub fn reset(&self, devices: u32, memory: u64, seed: u64) {
        // SAFETY: this is the function's type.
        unsafe { self.function::<unsafe extern "C" fn(u32, u64, u64)>("fake_cuda_reset")(devices, memory, seed) }
    }

    /// Makes each copy take that long, and lets a random time of up to that much pass before each operation of a stream.
    pub fn set_delay(&self, copy_microseconds: u64, jitter_microseconds: u64) {
        // SAFETY: this is the function's type.
        unsafe {
            self.function::<unsafe extern "C" fn(u64, u64)>("fake_cuda_set_delay")(copy_microseconds, jitter_microseconds);
        }
    }

    /// Sets whether devices can access each other; they can't after a reset.
    pub fn set_peer(&self, can: bool) {
        // SAFETY: this is the function's type.
        unsafe { self.function::<unsafe extern "C" fn(u32)>("fake_cuda_set_peer")(can.into()) }
    }

    /// Makes one call of a function fail with a result code, by its number since the reset, from 0. The function's name is
    /// the exported one, with its version. A call that releases something releases it all the same; every other does
    /// nothing.
    pub fn fail(&self, function: &str, nth: u64, code: u32) {
        let function = CString::new(function).expect("a function's name has no zero byte");
        // SAFETY: this is the function's type, and the string outlives the call.
        unsafe {
            self.function::<unsafe extern "C" fn(*const c_char, u64, u32)>("fake_cuda_fail")(function.as_ptr(), nth, code);
        }
    }

    /// Makes one asynchronous copy fail with a result code when it is carried out, by its number among the asynchronous
    /// copies enqueued since the reset, from 0. The context is unusable from then on.
    pub fn fail_async(&self, nth_copy: u64, code: u32) {
        // SAFETY: this is the function's type.
        unsafe { self.function::<unsafe extern "C" fn(u64, u32)>("fake_cuda_fail_async")(nth_copy, code) }
    }

    /// How often a function was called since the reset.
    pub fn calls(&self, function: &str) -> u64 {
        let function = CString::new(function).expect("a function's name has no zero byte");
        // SAFETY: this is the function's type, and the string outlives the call.
        unsafe { self.function::<unsafe extern "C" fn(*const c_char) -> u64>("fake_cuda_calls")(function.as_ptr()) }
    }

    /// The faults found since the reset, and then what is not released at this moment, one a line; empty if all is well.
    pub fn report(&self) -> String {
        // SAFETY: this is the function's type.
        let report = unsafe { self.function::<unsafe extern "C" fn(*mut c_char, usize) -> usize>("fake_cuda_report") };
        // SAFETY: without a buffer it only counts.
        let length = unsafe { report(std::ptr::null_mut(), 0) };
        // Another thread may add to it meanwhile.
        let mut buffer = vec![0_u8; length + 1000];
        // SAFETY: the buffer has room for that many bytes.
        let length = unsafe { report(buffer.as_mut_ptr().cast(), buffer.len()) };
        buffer.truncate(length.min(buffer.len() - 1));
        String::from_utf8(buffer).expect("the report is text")
    }

    /// The report, which then need not be empty at the end of the test.
    pub fn expect_faults(&self) -> String {
        self.expects_faults.set(true);
        self.report()
    }

    /// How many allocations of device memory held anything but zeros when they were freed, since the reset.
    pub fn freed_nonzero(&self) -> u64 {
        self.number("fake_cuda_freed_nonzero")
    }

    /// How many bytes were copied from host to device since the reset.
    pub fn bytes_copied(&self) -> u64 {
        self.number("fake_cuda_bytes_copied")
    }

    /// How many bytes of device memory are alive.
    pub fn allocated(&self) -> u64 {
        self.number("fake_cuda_allocated")
    }

    fn number(&self, name: &str) -> u64 {
        // SAFETY: all functions that this is called with are of this type.
        unsafe { self.function::<unsafe extern "C" fn() -> u64>(name)() }
    }

    /// A function of the stand-in.
    ///
    /// # Safety
    ///
    /// `F` must be its type.
    unsafe fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller names the function's type. It stays loaded while `self` is borrowed.
        *unsafe { self.library.get::<F>(name) }.unwrap_or_else(|error| panic!("the driver isn't the stand-in: {error}"))
    }
}
