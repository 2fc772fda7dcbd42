//! The rules of the spec, one constant each, and what it means to break one.
//!
//! `spec/rules.toml` lists the same ids, severities, stages, layouts and texts; `spec/flashpack.md` has a clause for each;
//! `conformance/manifest.json` has at least one vector that breaks each error. A test compares all four.

use std::fmt;

/// How bad it is to break a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is read; `validate` mentions it.
    Warning,
}

impl Severity {
    /// `error` or `warning`, as in the JSON output of `validate`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// The layouts of a pack (spec chapter 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// `flashpack_v3`: one block of one dtype at offset 0.
    V3,
    /// `flashpack_v4`: one block a dtype.
    V4,
    /// A sealed pack: header, tables, page-aligned blocks, and a v4 footer.
    Sealed,
}

impl Layout {
    /// The name on the command line and in JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Layout::V3 => "v3",
            Layout::V4 => "v4",
            Layout::Sealed => "sealed",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The stages of reading, in the order in which a reader meets them (spec chapter 10): the first stage that fails is the same
/// for every conforming reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The file is long enough to be told apart.
    Size,
    /// Sealed: the header page.
    Header,
    /// Counts and lengths against the reader's limits.
    Limits,
    /// The last 16 bytes.
    Trailer,
    /// Sealed: the digest of the tables and the shape of their records.
    Tables,
    /// v3 and v4: the footer as text.
    FooterText,
    /// v3 and v4: the footer's keys and values.
    FooterSchema,
    /// Where blocks lie.
    Layout,
    /// Where tensors lie in their blocks.
    Tensor,
    /// Sealed: the footer's digest, and its equality with header and tables.
    Footer,
    /// Sealed: the digests of the payload and its fill.
    Integrity,
}

impl Stage {
    /// The name in conformance results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Size => "size",
            Stage::Header => "header",
            Stage::Limits => "limits",
            Stage::Trailer => "trailer",
            Stage::Tables => "tables",
            Stage::FooterText => "footer-text",
            Stage::FooterSchema => "footer-schema",
            Stage::Layout => "layout",
            Stage::Tensor => "tensor",
            Stage::Footer => "footer",
            Stage::Integrity => "integrity",
        }
    }
}

/// One rule of the spec. Two rules are the same when their ids are.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rule {
    /// The stable id, which is also the id of the spec's clause.
    pub id: &'static str,
    /// The stage that raises it. `Limits` comes before `Trailer` in sealed files and after it in v3 and v4.
    pub stage: Stage,
    /// What follows from breaking it.
    pub severity: Severity,
    /// The layouts that it governs.
    pub layouts: &'static [Layout],
    /// The rule in one line.
    pub text: &'static str,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        self.id == other.id
    }
}

impl Eq for Rule {}

impl Rule {
    /// Whether breaking it means that the file may be fine but needs a newer reader.
    #[must_use]
    pub fn means_unsupported(&self) -> bool {
        [&SEAL_HDR_VERSION, &SEAL_HDR_FEATURES, &SEAL_BLK_CODEC, &FOOT_SCH_FORMAT, &FOOT_SCH_BLOCK_KEY].contains(&self)
    }
}

macro_rules! rules {
    ($($name:ident $id:literal $stage:ident $severity:ident $layouts:ident $text:literal;)*) => {
        $(#[doc = concat!("`", $id, "`: ", $text)]
        pub const $name: Rule = Rule {
            id: $id, stage: Stage::$stage, severity: Severity::$severity, layouts: $layouts, text: $text,
        };)*

        /// Every rule, in the spec's order.
        pub const ALL: &[&Rule] = &[$(&$name,)*];
    };
}

const ANY: &[Layout] = &[Layout::V3, Layout::V4, Layout::Sealed];
const LEGACY: &[Layout] = &[Layout::V3, Layout::V4];
const V4: &[Layout] = &[Layout::V4];
const SEALED: &[Layout] = &[Layout::Sealed];

rules! {
    // Telling layouts apart.
    FILE_SIZE "FILE-SIZE-01" Size Error LEGACY "a file without the sealed magic is at least 16 bytes long";
    SEAL_SIZE "SEAL-SIZE-01" Size Error SEALED "a file with the sealed magic is at least 4112 bytes long";
    PIN_SEAL "PIN-SEAL-01" Size Error LEGACY "the caller's policy demands a sealed file";

    // The header page.
    SEAL_HDR_DIGEST "SEAL-HDR-01" Header Error SEALED "bytes 256 to 288 are the BLAKE3 of bytes 0 to 256";
    PIN_ID "PIN-ID-01" Header Error ANY "the pack id is the one that the caller pinned";
    SEAL_HDR_VERSION "SEAL-HDR-02" Header Error SEALED "the major version is 1";
    SEAL_HDR_FEATURES "SEAL-HDR-03" Header Error SEALED "every required feature bit is one that the reader knows";
    SEAL_HDR_SIZE "SEAL-HDR-04" Header Error SEALED "the header size is 288";
    SEAL_HDR_FILE_SIZE "SEAL-HDR-05" Header Error SEALED "the header's file size is the size of the file";
    SEAL_HDR_ALIGNMENT "SEAL-HDR-06" Header Error SEALED "the alignment is 0 or a power of two up to 4096";
    SEAL_HDR_GROUP "SEAL-HDR-07" Header Error SEALED "the logarithm of the group size is 16 to 26";
    SEAL_HDR_RESERVED "SEAL-HDR-08" Header Error SEALED "bytes 189 to 192 of the header are zero";
    SEAL_HDR_FILL "SEAL-HDR-09" Header Error SEALED "bytes 288 to 4096 of the file are zero";
    SEAL_HDR_MINOR "SEAL-HDR-10" Header Warning SEALED "the minor version is 0: a later one may carry what this reader passes over";
    SEAL_HDR_OPTIONAL "SEAL-HDR-11" Header Warning SEALED "no optional feature bit is set that the reader does not know";
    SEAL_SEC_START "SEAL-SEC-01" Header Error SEALED "the blocks section begins at 4096";
    SEAL_SEC_CHAIN "SEAL-SEC-02" Header Error SEALED "each table section begins where the one before it ends";
    SEAL_SEC_PAYLOAD "SEAL-SEC-03" Header Error SEALED "the payload begins at the end of the tables rounded up to 4096";
    SEAL_SEC_RECORDS "SEAL-SEC-04" Header Error SEALED "the blocks, tensors, dims and digests sections hold whole records";
    SEAL_SEC_DIGESTS "SEAL-SEC-05" Header Error SEALED "there is one digest for each group of the payload";
    SEAL_SEC_FOOTER "SEAL-SEC-06" Header Error SEALED "the footer begins where the payload ends";
    SEAL_SEC_END "SEAL-SEC-07" Header Error SEALED "the footer and the 16 bytes of the trailer end the file";
    SEAL_SEC_RANGE "SEAL-SEC-08" Header Error SEALED "every offset, length and end of a section is at most 2^53 - 1";

    // Limits: what a reader is willing to take.
    LIMIT_TABLES "LIMIT-TABLES-01" Limits Error SEALED "the tables are no longer than the reader's limit";
    LIMIT_FOOTER "LIMIT-FOOTER-01" Limits Error ANY "the footer is no longer than the reader's limit";
    LIMIT_TENSORS "LIMIT-TENSORS-01" Limits Error ANY "there are no more tensors than the reader's limit";
    LIMIT_BLOCKS "LIMIT-BLOCKS-01" Limits Error ANY "there are no more blocks than the reader's limit";
    LIMIT_NAME "LIMIT-NAME-01" Limits Error ANY "no tensor's name is longer than the reader's limit";
    LIMIT_RANK "LIMIT-RANK-01" Limits Error ANY "no tensor's rank is over the reader's limit";
    LIMIT_DEPTH "LIMIT-DEPTH-01" Limits Error LEGACY "the footer's JSON is nested no deeper than the reader's limit";

    // The trailer.
    TRAIL_MAGIC "TRAIL-MAGIC-01" Trailer Error ANY "the file ends in 46 4C 41 53 48 50 4B 00";
    TRAIL_LENGTH "TRAIL-LENGTH-01" Trailer Error LEGACY "the footer length is at most the size of the file less 16";
    TRAIL_SEALED "TRAIL-LENGTH-02" Trailer Error SEALED "the trailer's footer length is the header's";

    // Tables.
    SEAL_TAB_DIGEST "SEAL-TAB-01" Tables Error SEALED "the tables digest is the BLAKE3 of the bytes from 4096 to the payload";
    SEAL_TAB_FILL "SEAL-TAB-02" Tables Error SEALED "the bytes between the tables and the payload are zero";
    SEAL_BLK_DTYPE "SEAL-BLK-01" Tables Error SEALED "a block's dtype code is in the registry";
    SEAL_BLK_CODEC "SEAL-BLK-02" Tables Error SEALED "a block's reserved fields are zero";
    SEAL_TEN_NAME_RANGE "SEAL-TEN-01" Tables Error SEALED "a tensor's name begins where the one before it ends, and the last ends the names section";
    SEAL_TEN_NAME_TEXT "SEAL-TEN-02" Tables Error SEALED "a tensor's name is UTF-8";
    SEAL_TEN_NAME_ORDER "SEAL-TEN-03" Tables Error SEALED "tensors are sorted by the bytes of their names, and no two names are equal";
    SEAL_TEN_DIMS "SEAL-TEN-04" Tables Error SEALED "a tensor's first dim comes after the last of the one before it, and the last ends the dims section";
    SEAL_META_RECORDS "SEAL-META-01" Tables Error SEALED "the metadata section is whole length-prefixed pairs";
    SEAL_META_TEXT "SEAL-META-02" Tables Error SEALED "metadata keys and values are UTF-8";
    SEAL_META_ORDER "SEAL-META-03" Tables Error SEALED "metadata keys are in strictly ascending order of their bytes";
    SEAL_EXTRA "SEAL-EXTRA-01" Tables Warning SEALED "the extra section is empty: a reader of 1.0 passes over what it holds";

    // The footer's text (v3 and v4).
    FOOT_TXT_UTF8 "FOOT-TXT-01" FooterText Error LEGACY "the footer is UTF-8";
    FOOT_TXT_JSON "FOOT-TXT-02" FooterText Error LEGACY "the footer is one JSON value";
    FOOT_TXT_KEYS "FOOT-TXT-03" FooterText Error LEGACY "no object in the footer has two equal keys";

    // The footer's keys and values (v3 and v4).
    FOOT_SCH_OBJECT "FOOT-SCH-01" FooterSchema Error LEGACY "the footer is an object, and so is each record in it";
    FOOT_SCH_FORMAT "FOOT-SCH-02" FooterSchema Error LEGACY "the format is `flashpack_v3` or `flashpack_v4`";
    FOOT_SCH_MISSING "FOOT-SCH-03" FooterSchema Error LEGACY "no key that the layout needs is missing";
    FOOT_SCH_TYPE "FOOT-SCH-04" FooterSchema Error LEGACY "a value has the type that its key needs";
    FOOT_SCH_INTEGER "FOOT-SCH-05" FooterSchema Error LEGACY "a number is written as a whole number from 0 to 2^53 - 1";
    FOOT_SCH_DTYPE "FOOT-SCH-06" FooterSchema Error LEGACY "a dtype is one of the registry that v3 and v4 may hold";
    FOOT_SCH_BLOCK_KEY "FOOT-SCH-07" FooterSchema Error V4 "a block record has no key that the reader does not know";
    FOOT_SCH_FOREIGN_KEY "FOOT-SCH-08" FooterSchema Error LEGACY "a footer has no key of the other layout";
    FOOT_SCH_SEAL "FOOT-SCH-09" FooterSchema Error LEGACY "only a sealed file has a footer with a seal";
    FOOT_SCH_BLOCKS "FOOT-SCH-10" FooterSchema Error V4 "there is at least one block";
    FOOT_SCH_UNKNOWN_KEY "FOOT-SCH-11" FooterSchema Warning LEGACY "the footer and its index records have no key that the reader does not know";

    // Where blocks lie.
    BLOCK_LENGTH "BLOCK-LENGTH-01" Layout Error V4 "a block's length in bytes is that of its elements";
    BLOCK_ALIGN "BLOCK-ALIGN-01" Layout Error LEGACY "a block begins on a multiple of the least common multiple of alignment and element size";
    BLOCK_ORDER "BLOCK-ORDER-01" Layout Error V4 "blocks come in the order of their offsets and do not overlap";
    BLOCK_END "BLOCK-END-01" Layout Error V4 "a block ends at or before the end of the payload";
    BLOCK_TOTAL "BLOCK-TOTAL-01" Layout Error LEGACY "the total of elements is that of the blocks";
    BLOCK_PAYLOAD "BLOCK-PAYLOAD-01" Layout Error V4 "the payload ends where the footer begins";
    BLOCK_GAP "BLOCK-GAP-01" Integrity Warning LEGACY "bytes that belong to no tensor are zero";
    SEAL_BLK_PLACE "SEAL-BLK-03" Layout Error SEALED "the first block begins the payload, each next one begins at the end of the one before rounded up to 4096, and the last ends the payload";
    SEAL_BLK_EMPTY "SEAL-BLK-04" Layout Error SEALED "each block holds at least one tensor";

    // Where tensors lie.
    TENSOR_BLOCK "TENSOR-BLOCK-01" Tensor Error ANY "a tensor's block exists";
    TENSOR_SHAPE "TENSOR-SHAPE-01" Tensor Error ANY "the product of a tensor's dims other than zero is at most 2^53 - 1, and so is each dim";
    TENSOR_LENGTH "TENSOR-LENGTH-01" Tensor Error ANY "a tensor's length is that of its shape, in whole bytes";
    TENSOR_RANGE "TENSOR-RANGE-01" Tensor Error LEGACY "a tensor ends at or before the end of its block";
    TENSOR_ALIGN "TENSOR-ALIGN-01" Tensor Error LEGACY "a tensor begins on a multiple of its rounding unit";
    TENSOR_OVERLAP "TENSOR-OVERLAP-01" Tensor Error LEGACY "no two tensors share bytes";
    TENSOR_NAME "TENSOR-NAME-01" Tensor Error LEGACY "no two tensors have one name";
    TENSOR_TILE "TENSOR-TILE-01" Tensor Error SEALED "tensors tile their block: each begins at the end of the one before rounded up, and the last ends the block";
    TENSOR_NAME_ODD "TENSOR-NAME-02" Tensor Warning ANY "a tensor's name is not empty and has no control characters";

    // The sealed footer and payload.
    SEAL_FOOT_DIGEST "SEAL-FOOT-01" Footer Error SEALED "the footer digest is the BLAKE3 of the footer";
    SEAL_FOOT_EQUAL "SEAL-FOOT-02" Footer Error SEALED "the footer is the one that header and tables determine";
    SEAL_INT_GROUP "SEAL-INT-01" Integrity Error SEALED "a group's digest is the BLAKE3 of its bytes";
    SEAL_INT_FILL "SEAL-INT-02" Integrity Error SEALED "payload bytes that belong to no tensor are zero";
}

/// The rule with this id.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Rule> {
    ALL.iter().copied().find(|rule| rule.id == id)
}

/// One place where a file breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The rule that is broken.
    pub rule: &'static Rule,
    /// Where in the file, in bytes from its start.
    pub offset: u64,
    /// The tensor it is about, if it is about one.
    pub tensor: Option<String>,
    /// What was found there, in a form for people.
    pub message: String,
}

impl Violation {
    /// A violation that is not about one tensor.
    #[must_use]
    pub fn new(rule: &'static Rule, offset: u64, message: impl Into<String>) -> Violation {
        Violation { rule, offset, tensor: None, message: message.into() }
    }

    /// The same, about a tensor.
    #[must_use]
    pub fn of_tensor(mut self, name: impl AsRef<str>) -> Violation {
        self.tensor = Some(shown_name(name.as_ref()));
        self
    }
}

/// A tensor's name as violations carry it: whole unless it is very long, for a file may have millions of violations and names of a MiB.
pub(crate) fn shown_name(name: &str) -> String {
    const MOST: usize = 1024;
    if name.len() <= MOST { name.to_owned() } else { format!("{}...", name.chars().take(MOST).collect::<String>()) }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.rule.id, self.offset)?;
        if let Some(tensor) = &self.tensor {
            // Debug formatting: a name from a stranger's file may hold line breaks or terminal escapes.
            write!(f, ", tensor {:?}", Shortened(tensor))?;
        }
        write!(f, ": {} ({})", self.message, self.rule.text)
    }
}

/// A text cut to what fits a message.
struct Shortened<'a>(&'a str);

impl fmt::Debug for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80).and_then(|(end, _)| self.0.get(..end)) {
            Some(head) => write!(f, "{head:?}..."),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// The violations found in a file, in the order in which a reader meets them.
///
/// At most [`Violations::MOST`] are kept, so that a hostile file cannot make the list long; [`Violations::omitted`] counts the
/// rest. An error of the earliest stage is always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    found: Vec<Violation>,
    omitted: u64,
    /// The earliest stage that has an error.
    earliest: Option<Stage>,
}

impl Violations {
    /// How many violations are kept.
    pub const MOST: usize = 1000;

    /// Adds one. When the list is full, an error of an earlier stage than all kept ones still finds a place.
    pub fn push(&mut self, violation: Violation) {
        if self.makes_room_for(violation.rule) {
            self.found.push(violation);
        }
    }

    /// The same for a violation whose message is only written if it is kept: a file may have millions of them.
    pub(crate) fn push_with(&mut self, rule: &'static Rule, offset: u64, message: impl FnOnce() -> String) {
        if self.makes_room_for(rule) {
            self.found.push(Violation::new(rule, offset, message()));
        }
    }

    fn makes_room_for(&mut self, rule: &'static Rule) -> bool {
        let stage = (rule.severity == Severity::Error).then_some(rule.stage);
        let is_earliest = stage.is_some_and(|stage| self.earliest.is_none_or(|earliest| stage < earliest));
        if is_earliest {
            self.earliest = stage;
        }
        if self.found.len() >= Violations::MOST {
            self.omitted = self.omitted.saturating_add(1);
            if !is_earliest {
                return false;
            }
            self.found.pop();
        }
        true
    }

    /// The stage of the first failing step, and the errors of this stage: what a conforming reader reports (`CHECK-REPORT-01`).
    #[must_use]
    pub fn first_failing(&self) -> Option<(Stage, Vec<&Violation>)> {
        let stage = self.earliest?;
        Some((stage, self.errors().filter(|violation| violation.rule.stage == stage).collect()))
    }

    /// Whether there is an error among them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.earliest.is_some()
    }

    /// The errors.
    pub fn errors(&self) -> impl Iterator<Item = &Violation> {
        self.found.iter().filter(|violation| violation.rule.severity == Severity::Error)
    }

    /// Errors and warnings.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.found.iter()
    }

    /// How many more there were than are kept.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Whether nothing was found, not even a warning.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The same, sorted by stage: what was found in one pass over a text belongs to several.
    pub(crate) fn in_order_of_stages(mut self) -> Violations {
        self.found.sort_by_key(|violation| violation.rule.stage);
        self
    }

    /// The same, each changed.
    pub(crate) fn map(mut self, change: impl FnMut(Violation) -> Violation) -> Violations {
        self.found = self.found.into_iter().map(change).collect();
        self
    }

    /// Those that hold. Only for leaving warnings out: errors are what a list is for.
    pub(crate) fn filter(mut self, holds: impl FnMut(&Violation) -> bool) -> Violations {
        self.found.retain(holds);
        self
    }

    /// Adds those of another list.
    pub fn extend(&mut self, other: Violations) {
        other.found.into_iter().for_each(|violation| self.push(violation));
        self.omitted = self.omitted.saturating_add(other.omitted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = ALL.iter().map(|rule| rule.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
    }

    #[test]
    fn a_full_list_still_shows_the_error_that_comes_first() {
        let mut violations = Violations::default();
        for _ in 0..Violations::MOST {
            violations.push(Violation::new(&TENSOR_NAME_ODD, 0, ""));
        }
        violations.push(Violation::new(&TENSOR_LENGTH, 0, ""));
        violations.push(Violation::new(&FOOT_TXT_KEYS, 0, ""));
        violations.push(Violation::new(&TENSOR_LENGTH, 0, ""));
        let (stage, first) = violations.first_failing().unwrap();
        assert_eq!((stage, first.len()), (Stage::FooterText, 1));
        assert_eq!(violations.omitted(), 3);
    }
}
