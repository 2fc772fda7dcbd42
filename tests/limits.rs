//! What a stranger's file may cost: every limit at, just under and just over it; and attempts to make the reader hold or do much for little.
//!
//! Memory is counted by this program's own allocator, so the bounds are exact on any machine. `cargo test --release --test limits -- --nocapture
//! table` prints the table of `SECURITY.md`, with the times that nothing here depends on.

use std::alloc::{GlobalAlloc, Layout as Allocation, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flashpack::format::header::{Header, SIZE as HEADER_SIZE, Section};
use flashpack::format::tables::{BlockRecord, Tables, TensorRecord};
use flashpack::format::trailer::{MAGIC, Trailer};
use flashpack::{Dtype, Layout, Limits, OpenOptions, PlanOptions, ReadAt, Result, Writer};

/// Counts the bytes that are allocated, and the most there were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Allocation) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Allocation) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Allocation) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time: the count is the program's.
static ALONE: Mutex<()> = Mutex::new(());

/// The most bytes that were allocated at once by `work`, beyond what there was before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), result)
}

/// A file of any length: some bytes at some places, one byte everywhere else.
struct Sparse {
    length: u64,
    elsewhere: u8,
    parts: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Sparse {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(self.elsewhere);
        for (start, bytes) in &self.parts {
            let (from, to) = ((*start).max(offset), (start + bytes.len() as u64).min(end));
            if from < to {
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn of(bytes: Vec<u8>) -> Sparse {
        Sparse { length: bytes.len() as u64, elsewhere: 0, parts: vec![(0, bytes)] }
    }

    /// A v4 file that is nothing but a footer, as long as it says, of one byte again and again.
    fn footer_of(byte: u8, length: u64) -> Sparse {
        let trailer = trailer(length).to_vec();
        Sparse { length: length + trailer.len() as u64, elsewhere: byte, parts: vec![(length, trailer)] }
    }

    /// A v4 file with a footer and one byte of payload.
    fn v4(footer: &str) -> Sparse {
        Sparse::of([b"w", footer.as_bytes(), &trailer(footer.len() as u64)].concat())
    }
}

fn sealed() -> Vec<u8> {
    written(PlanOptions { group_log2: 16, ..PlanOptions::default() })
}

fn written(options: PlanOptions) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.flashpack");
    let (long, short) = (vec![1; 64], vec![2; 12]);
    let mut writer = Writer::new(options);
    writer.add("a.long.name", Dtype::Float32, [2, 2, 2, 2], long.as_slice());
    writer.add("b", Dtype::Float16, [6], short.as_slice());
    writer.write(&path, &Default::default()).unwrap();
    std::fs::read(path).unwrap()
}

/// A sealed file whose header was changed, and is the header of that file all the same.
fn with_header(change: impl FnOnce(&mut Header)) -> Sparse {
    let mut bytes = sealed();
    let mut header = Header::from_bytes(bytes[..HEADER_SIZE].try_into().unwrap());
    change(&mut header);
    header.header_digest = header.digest();
    bytes[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
    Sparse::of(bytes)
}

/// A sealed file of tables alone, with digests that fit: as far as a stranger gets who computes them.
fn with_tables(tensors: &[TensorRecord], names: &[u8], payload: u64) -> Sparse {
    const PAGE: u64 = 4096;
    let dtype = Dtype::UInt8.code().into();
    let zero = || 0_u64.into();
    let base = Header::from_bytes(sealed()[..HEADER_SIZE].try_into().unwrap());
    let groups = payload.div_ceil(1 << 16);
    let tables = |offset: u64| {
        let block = BlockRecord {
            dtype,
            reserved: 0.into(),
            codec: 0.into(),
            offset: offset.into(),
            length: payload.into(),
            decoded_length: zero(),
        };
        Tables::new(&[block], tensors, &[], groups as usize, names, &[]).unwrap()
    };
    let length = tables(0).as_bytes().len() as u64;
    let tables = tables(PAGE + length);
    let mut header = base;
    let lengths = [32, 32 * tensors.len() as u64, 0, 32 * groups, names.len() as u64, 0, 0];
    let mut cursor = PAGE;
    let mut next = |length: u64| {
        let section = Section { offset: cursor, length };
        cursor += length;
        section
    };
    let sections = lengths.map(&mut next);
    let [blocks, tensors, dims, digests, names, metadata, extra] = sections;
    header.sections.blocks = blocks;
    header.sections.tensors = tensors;
    header.sections.dims = dims;
    header.sections.digests = digests;
    header.sections.names = names;
    header.sections.metadata = metadata;
    header.sections.extra = extra;
    header.sections.payload = Section { offset: PAGE + length, length: payload };
    header.sections.footer = Section { offset: PAGE + length + payload, length: 2 };
    header.file_size = PAGE + length + payload + 2 + 16;
    header.tables_digest = flashpack::seal::digest(tables.as_bytes());
    header.header_digest = header.digest();
    let trailer = [b"{}", &trailer(2)[..]].concat();
    let parts = vec![(0, header.to_bytes().to_vec()), (PAGE, tables.as_bytes().to_vec()), (PAGE + length + payload, trailer)];
    Sparse { length: header.file_size, elsewhere: 0, parts }
}

fn tensor(name: std::ops::Range<u32>, offset: u64, length: u64) -> TensorRecord {
    TensorRecord {
        name_offset: name.start.into(),
        name_length: (name.end - name.start).into(),
        first_dim: 0.into(),
        rank: 0.into(),
        block: 0.into(),
        offset: offset.into(),
        length: length.into(),
    }
}

const MANY: u32 = 1 << 20;

/// What a stranger might try: in words, the file, and the rule that stops it.
fn attempts() -> Vec<(&'static str, Sparse, &'static str)> {
    let huge = Section { offset: 4096, length: 1 << 52 };
    let record = r#"{"name":"a","shape":[],"offset":0,"length":1,"macroblock":0}"#;
    let block = r#"{"dtype":"uint8","offset_bytes":0,"length_bytes":1,"length_elems":1}"#;
    let v4 = |blocks: &str, index: &str, more: &str| {
        Sparse::v4(&format!(
            r#"{{"format":"flashpack_v4","align_bytes":0,"total_payload_bytes":1,"total_elems":1,"macroblocks":[{blocks}],"index":[{index}]{more}}}"#
        ))
    };
    let one_name: Vec<TensorRecord> = (0..MANY).map(|number| tensor(0..1, number.into(), 1)).collect();
    let names: Vec<u8> = (0..MANY).flat_map(|number| format!("{number:08}").into_bytes()).collect();
    let overlapping: Vec<TensorRecord> = (0..MANY).map(|number| tensor(number * 8..number * 8 + 8, 0, 1)).collect();
    vec![
        ("10 KiB that claim 2^47 tensors", with_header(|header| header.sections.tensors = huge), "SEAL-SEC-02"),
        (
            "10 KiB that claim 2^60 bytes of tensors",
            with_header(|header| header.sections.tensors.length = 1 << 60),
            "SEAL-SEC-08",
        ),
        ("10 KiB that claim to be 2^63 bytes long", with_header(|header| header.file_size = 1 << 63), "SEAL-HDR-05"),
        ("a sealed head before 1 TiB of nothing", Sparse { length: 1 << 40, ..Sparse::of(sealed()) }, "SEAL-HDR-05"),
        ("1 TiB of zeros", Sparse { length: 1 << 40, ..Sparse::of(Vec::new()) }, "TRAIL-MAGIC-01"),
        ("a footer of 1 GiB of `[`", Sparse::footer_of(b'[', 1 << 30), "LIMIT-FOOTER-01"),
        ("a footer of 16 MiB of `[`", Sparse::footer_of(b'[', 1 << 24), "LIMIT-DEPTH-01"),
        ("a footer of 16 MiB of `\"`", Sparse::footer_of(b'"', 1 << 24), "FOOT-TXT-02"),
        ("a footer of 2^63 bytes", Sparse::of(trailer(1 << 63).to_vec()), "TRAIL-LENGTH-01"),
        ("2^20 tensors with one name, sealed", with_tables(&one_name, b"a", MANY.into()), "SEAL-TEN-01"),
        ("2^20 tensors in one place, sealed", with_tables(&overlapping, &names, 1 << 20), "TENSOR-TILE-01"),
        ("2^18 tensors with one name, v4", v4(block, &vec![record; 1 << 18].join(","), ""), "TENSOR-NAME-01"),
        ("2^20 blocks, v4", v4(&vec!["{}"; 1 << 20].join(","), record, ""), "LIMIT-BLOCKS-01"),
        ("2^22 empty records, v4", v4(block, &vec!["{}"; 1 << 22].join(","), ""), "FOOT-SCH-03"),
        (
            "a shape of 2^20 dims, v4",
            v4(block, &record.replace("[]", &format!("[{}]", vec!["1"; 1 << 20].join(","))), ""),
            "LIMIT-RANK-01",
        ),
        (
            "dims whose product is over 2^64, v4",
            v4(block, &record.replace("[]", "[4294967296,4294967296,16]"), ""),
            "TENSOR-SHAPE-01",
        ),
        (
            "a number of 2^20 digits, v4",
            Sparse::v4(&format!(r#"{{"format":"flashpack_v4","align_bytes":{}}}"#, "9".repeat(1 << 20))),
            "FOOT-SCH-05",
        ),
        (
            "2^20 equal keys beside the known ones, v4",
            v4(block, record, &format!(",\"x\":{{{}}}", vec!["\"k\":0"; 1 << 20].join(","))),
            "FOOT-TXT-03",
        ),
        (
            "a list of 2^22 numbers that nobody asked for, and a tensor out of its block",
            v4(block, &record.replace(r#""offset":0"#, r#""offset":7"#), &format!(",\"x\":[{}0]", "0,".repeat(1 << 22))),
            "TENSOR-RANGE-01",
        ),
    ]
}

fn trailer(footer_length: u64) -> [u8; 16] {
    Trailer { footer_length, magic: MAGIC }.to_bytes()
}

fn open(source: Arc<dyn ReadAt>, limits: Limits) -> Result<()> {
    OpenOptions::new().limits(limits).open_source(source).map(drop)
}

#[test]
fn attempts_to_exhaust_the_reader_are_refused_in_bounded_memory_table() {
    const MOST: usize = 64 << 20;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    println!("| attempt | bytes | refused by | time | peak memory |\n|---|---|---|---|---|");
    let mut failures = Vec::new();
    for (what, source, rule) in attempts() {
        let length = source.length;
        let source: Arc<dyn ReadAt> = Arc::new(source);
        let started = Instant::now();
        let (peak, result) = peak_of(|| open(source, Limits::default()));
        let time = started.elapsed();
        let found = result.err().and_then(|error| error.violation().map(|violation| violation.rule.id));
        println!(
            "| {what} | {length} | `{}` | {:.1} ms | {:.1} MiB |",
            found.unwrap_or("nothing"),
            time.as_secs_f64() * 1e3,
            peak as f64 / f64::from(1 << 20)
        );
        if found != Some(rule) {
            failures.push(format!("{what}: {found:?}, not {rule}"));
        }
        // What is read of a file is held once; what is made of it is no more than twice that.
        if peak > MOST || peak as u64 > length.saturating_mul(3) + (1 << 17) {
            failures.push(format!("{what}: {peak} bytes for a file of {length}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The limit's value for which the file is just acceptable, and the rule that says so.
fn assert_limit(bytes: &[u8], exact: u64, rule: &str, set: impl Fn(&mut Limits, u64)) {
    for (value, accepted) in [(exact - 1, false), (exact, true), (exact + 1, true)] {
        let mut limits = Limits::default();
        set(&mut limits, value);
        let result = open(Arc::new(bytes.to_vec()), limits);
        match result {
            Ok(()) => assert!(accepted, "{rule}: accepted at {value} of {exact}"),
            Err(error) => {
                assert!(!accepted, "{rule}: refused at {value} of {exact}: {error}");
                assert_eq!(error.violation().map(|violation| violation.rule.id), Some(rule));
            }
        }
    }
}

#[test]
fn every_limit_holds_to_the_byte() {
    let v4 = written(PlanOptions { layout: Layout::V4, ..PlanOptions::default() });
    let sealed = sealed();
    let header = Header::from_bytes(sealed[..HEADER_SIZE].try_into().unwrap());
    let footer_length = Trailer::from_bytes(v4[v4.len() - 16..].try_into().unwrap()).footer_length;
    assert_limit(&sealed, header.sections.payload.offset - 4096, "LIMIT-TABLES-01", |limits, to| limits.table_bytes = to);
    assert_limit(&sealed, header.sections.footer.length, "LIMIT-FOOTER-01", |limits, to| limits.footer_bytes = to);
    assert_limit(&v4, footer_length, "LIMIT-FOOTER-01", |limits, to| limits.footer_bytes = to);
    assert_limit(&v4, 4, "LIMIT-DEPTH-01", |limits, to| limits.json_depth = to);
    for bytes in [&sealed, &v4] {
        assert_limit(bytes, 2, "LIMIT-TENSORS-01", |limits, to| limits.tensors = to);
        assert_limit(bytes, 2, "LIMIT-BLOCKS-01", |limits, to| limits.blocks = to);
        assert_limit(bytes, "a.long.name".len() as u64, "LIMIT-NAME-01", |limits, to| limits.name_bytes = to);
        assert_limit(bytes, 4, "LIMIT-RANK-01", |limits, to| limits.rank = to);
    }
    // Whatever a caller sets, the stack is no place for more.
    let deep = |depth: usize| {
        let mut footer = String::from_utf8(v4[..v4.len() - 16].to_vec()).unwrap();
        footer = footer[footer.find('{').unwrap()..].to_owned();
        footer.insert_str(footer.len() - 1, &format!(",\"x\":{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1)));
        let payload = &v4[..v4.len() - 16 - footer_length as usize];
        [payload, footer.as_bytes(), &trailer(footer.len() as u64)].concat()
    };
    let limits = Limits { json_depth: u64::MAX, ..Limits::default() };
    let most = Limits::MOST_JSON_DEPTH as usize;
    open(Arc::new(deep(most)), limits.clone()).unwrap();
    assert!(open(Arc::new(deep(most + 1)), limits).is_err());
}

/// Memory that the reader holds for an open pack is bounded by its tables, not by its payload.
#[test]
fn opening_takes_no_memory_for_the_payload() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tensor_count = 1 << 10;
    let names: Vec<u8> = (0..tensor_count).flat_map(|number| format!("{number:08}").into_bytes()).collect();
    let tensors: Vec<TensorRecord> =
        (0..tensor_count).map(|number| tensor(number * 8..number * 8 + 8, u64::from(number) << 20, 1 << 20)).collect();
    let source = with_tables(&tensors, &names, 1 << 30);
    let (peak, result) = peak_of(|| open(Arc::new(source), Limits::default()));
    // Refused for its shapes, but only after all its tables were read.
    assert!(result.is_err());
    assert!(peak < 4 << 20, "{peak}");
}

/// A plan has no bytes yet, so its shapes can claim anything.
#[test]
fn planning_takes_no_memory_for_what_no_reader_would_take() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (bytes, says) in [(1_u64 << 46, "digest groups"), ((1 << 53) - 1, "2^53")] {
        let tensors = [flashpack::TensorInfo::new("w", Dtype::UInt8, [bytes])];
        let (peak, plan) = peak_of(|| flashpack::Plan::new(&tensors, &PlanOptions::default()));
        let error = plan.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(peak < 1 << 16, "{peak}");
    }
}
