//! What is fuzzed, apart from the fuzzer: `fuzz_targets/` has a door of a few lines for each, and `tests/fuzz_corpus.rs` replays the corpora
//! through the same functions on stable Rust.

pub mod generate;
pub mod oracle;
pub mod repair;
pub mod targets;
