//! Regions of a file to a [`Manifest`], or the violations found on the way.
//!
//! The order of checks is the spec's (chapter 10): a stage that fails ends the reading once all that can safely be said about it is
//! collected. Nothing is allocated by a number from the file before that number is checked against the file's size and the limits.

mod legacy;
mod sealed;

use std::io;

use crate::format::header::{self, Header, Section};
use crate::format::tables::Digest;
use crate::format::trailer::{self, Trailer};
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::rule::{self, Layout, Violation, Violations};
use crate::seal::PackId;
use crate::source::ReadAt;

/// What the caller demands of a file, beyond that it be valid.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub limits: Limits,
    pub expected_id: Option<PackId>,
    pub require_seal: bool,
}

/// What is known of a file after its structure was read.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The layout, as far as it could be told.
    pub layout: Option<Layout>,
    /// The header of a sealed file, once its digest was found right.
    pub header: Option<Header>,
    /// Where the footer lies.
    pub footer: Section,
    /// The contents; `None` if there is an error among the violations.
    pub manifest: Option<Manifest>,
    pub violations: Violations,
}

impl Parsed {
    fn new(layout: Option<Layout>) -> Parsed {
        Parsed { layout, header: None, footer: Section::default(), manifest: None, violations: Violations::default() }
    }

    fn with(mut self, violation: Violation) -> Parsed {
        self.violations.push(violation);
        self
    }

    /// The pack id of a sealed file whose header digest is right.
    pub fn id(&self) -> Option<PackId> {
        self.header.map(|header| PackId(header.header_digest))
    }
}

/// Reads the structure of a file: everything but the bytes of its tensors and, in a sealed file, the footer.
pub(crate) fn parse(source: &dyn ReadAt, policy: &Policy) -> io::Result<Parsed> {
    let mut magic = [0; header::MAGIC.len()];
    if source.length() >= header::MAGIC.len() as u64 {
        source.read_exact_at(&mut magic, 0)?;
    }
    // The magic decides alone. Falling back to the footer of a file whose header is damaged would be a way to have the seal ignored.
    if magic == header::MAGIC { sealed::parse(source, policy) } else { legacy::parse(source, policy) }
}

/// Reads the trailer, whose magic all layouts share.
fn read_trailer(source: &dyn ReadAt, violations: &mut Violations) -> io::Result<Trailer> {
    let mut bytes = [0; trailer::SIZE];
    let at = source.length().saturating_sub(trailer::SIZE as u64);
    source.read_exact_at(&mut bytes, at)?;
    let trailer = Trailer::from_bytes(&bytes);
    if trailer.magic != trailer::MAGIC {
        let message = format!("the last eight bytes are {}", hex(&trailer.magic));
        violations.push(Violation::new(&rule::TRAIL_MAGIC, at.saturating_add(8), message));
    }
    Ok(trailer)
}

/// Whether a text is ASCII with no control characters: then it is UTF-8 and no part of it is one to warn about, but an empty one. One pass
/// over all names together costs far less than one over each.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, &byte| plain & (0x20..0x7f).contains(&byte))
}

/// Whether a name is one to warn about (`TENSOR-NAME-02`).
fn is_odd_name(name: &str) -> bool {
    // Bytes first: control characters above ASCII are rare, and looking for them needs decoding.
    name.is_empty()
        || name.bytes().any(|byte| byte < 0x20 || byte == 0x7f)
        || (!name.is_ascii() && name.chars().any(char::is_control))
}

fn odd_name(name: &str, offset: u64) -> Violation {
    let message = if name.is_empty() { "the name is empty" } else { "the name holds control characters" };
    Violation::new(&rule::TENSOR_NAME_ODD, offset, message).of_tensor(name)
}

fn over_limit(rule: &'static rule::Rule, offset: u64, found: u64, limit: u64) -> Violation {
    Violation::new(rule, offset, format!("{found} where the limit is {limit}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// A digest in hexadecimal, for messages.
fn digest_text(digest: &Digest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}
