//! What a reader is willing to take from one file (spec chapter 11).

/// Bounds on what a file may make a reader hold or do. Each is checked before anything is allocated or read for it.
///
/// The defaults take any model published today with room to spare; a service that reads strangers' files may want less.
///
/// ```
/// let limits = flashpack::Limits { tensors: 10_000, ..Default::default() };
/// assert_eq!(limits.rank, 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a sealed file's tables, and of nothing else: default 1 GiB. (A group digest is 32 bytes a MiB: a payload of
    /// 1 TiB has 32 MiB of them.)
    pub table_bytes: u64,
    /// Bytes of the JSON footer: default 256 MiB.
    pub footer_bytes: u64,
    /// Tensors: default 2^22.
    pub tensors: u64,
    /// Blocks: default 65,536, which is also the most that a sealed file can hold.
    pub blocks: u64,
    /// Bytes of one tensor's name: default 1 MiB.
    pub name_bytes: u64,
    /// Dims of one tensor: default 64, as in PyTorch.
    pub rank: u64,
    /// Nesting of the footer's JSON: default 32, and never over [`Limits::MOST_JSON_DEPTH`]. A v4 footer of the Python package has 4.
    pub json_depth: u64,
}

impl Limits {
    /// The most that [`Limits::json_depth`] counts as: the stack is no place for more.
    pub const MOST_JSON_DEPTH: u64 = 128;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            table_bytes: 1 << 30,
            footer_bytes: 1 << 28,
            tensors: 1 << 22,
            blocks: 1 << 16,
            name_bytes: 1 << 20,
            rank: 64,
            json_depth: 32,
        }
    }
}
