//! The picture in characters: the file as cells of equal size, a legend, the blocks, the largest tensors.

use std::cmp::Reverse;
use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use flashpack::map::{Kind, Region};

use super::super::output::{count, escaped, size};
use super::{Picture, clipped, label};

/// What is drawn on.
pub(super) struct Screen {
    columns: usize,
    colours: bool,
}

impl Screen {
    /// Standard output: `columns` of it, or as many as it has.
    pub(super) fn of(columns: Option<u16>) -> Screen {
        const PIPED: u16 = 80;
        const NARROWEST: u16 = 40;
        let stdout = io::stdout();
        let found = || stdout.is_terminal().then(|| terminal_size::terminal_size_of(&stdout)).flatten();
        let columns = columns.or_else(|| found().map(|(width, _)| width.0)).unwrap_or(PIPED).max(NARROWEST);
        let colours = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        Screen { columns: columns.into(), colours }
    }
}

/// Room for the offset of each row.
const GUTTER: usize = 10;
/// How many blocks and tensors are listed.
const LISTED: usize = 8;

pub(super) fn print(out: &mut impl Write, picture: &Picture<'_>, screen: Screen) -> io::Result<()> {
    let Screen { columns, colours } = screen;
    let cells = cells(picture, columns - GUTTER);
    let line = |text: String| clipped(&text, columns);
    writeln!(out, "{}", line(picture.name.clone()))?;
    // Cells are equal to within a byte.
    let cell = picture.length.div_ceil(cells.len().max(1) as u64);
    writeln!(out, "{}", line(format!("{}; a cell is {}", picture.summary(), size(cell))))?;
    writeln!(out)?;
    for (number, row) in cells.chunks(columns - GUTTER).enumerate() {
        let offset = start_of(number * (columns - GUTTER), cells.len(), picture.length);
        write!(out, "{:>width$}  ", size(offset), width = GUTTER - 2)?;
        for same in row.chunk_by(|a, b| a == b) {
            let glyph = same.first().map_or(' ', |cell| cell.glyph(colours));
            let style = same.first().map_or(Style::new(), |cell| cell.style());
            let run: String = std::iter::repeat_n(glyph, same.len()).collect();
            write!(out, "{style}{run}{style:#}")?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    legend(out, picture, colours)?;
    blocks(out, picture, columns, colours)?;
    largest(out, picture, columns)?;
    out.flush()
}

/// What one cell shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    kind: Kind,
    block: usize,
    /// Tensors take turns, so that one can be told from the next.
    odd: bool,
}

impl Cell {
    fn glyph(self, colours: bool) -> char {
        const LETTERS: [u8; 26] = *b"abcdefghijklmnopqrstuvwxyz";
        match self.kind {
            Kind::Padding => '.',
            Kind::Tensor if colours => '█',
            Kind::Header => '#',
            Kind::Table => '=',
            Kind::Tensor => {
                let letter = char::from(LETTERS[self.block % LETTERS.len()]);
                if self.odd { letter.to_ascii_uppercase() } else { letter }
            }
            Kind::Footer => '{',
            Kind::Trailer => '|',
            _ => '!',
        }
    }

    fn style(self) -> Style {
        const BLOCKS: [[AnsiColor; 2]; 4] = [
            [AnsiColor::Blue, AnsiColor::BrightBlue],
            [AnsiColor::Cyan, AnsiColor::BrightCyan],
            [AnsiColor::Magenta, AnsiColor::BrightMagenta],
            [AnsiColor::Green, AnsiColor::BrightGreen],
        ];
        match self.kind {
            Kind::Tensor => BLOCKS[self.block % BLOCKS.len()][usize::from(self.odd)].on_default(),
            Kind::Padding => AnsiColor::BrightBlack.on_default(),
            Kind::Header | Kind::Table | Kind::Footer | Kind::Trailer => AnsiColor::Yellow.on_default(),
            _ => AnsiColor::BrightWhite.on(AnsiColor::Red).bold(),
        }
    }
}

/// The file in cells: more rows, the more there is to tell apart.
fn cells(picture: &Picture<'_>, columns: usize) -> Vec<Cell> {
    let rows = match picture.regions.len() {
        0..=40 => 4,
        41..=400 => 8,
        _ => 16,
    };
    // Never less than a byte a cell.
    let count = usize::try_from(picture.length).unwrap_or(usize::MAX).min(rows * columns);
    let mut cells = Vec::with_capacity(count);
    let mut odd = true;
    let mut regions = picture.regions.iter().map(|region| {
        odd ^= region.kind == Kind::Tensor;
        (region, odd)
    });
    let mut current = regions.next();
    for number in 0..count {
        let start = start_of(number, count, picture.length);
        let end = start_of(number + 1, count, picture.length);
        let mut found = Found::default();
        while let Some((region, odd)) = current {
            found.add(region, odd, region.end().min(end).saturating_sub(region.offset.max(start)));
            if region.end() > end {
                break;
            }
            current = regions.next();
        }
        cells.extend(found.cell());
    }
    cells
}

/// Where a cell begins in the file.
fn start_of(cell: usize, cells: usize, length: u64) -> u64 {
    let start = u128::from(length) * cell as u128 / cells.max(1) as u128;
    u64::try_from(start).unwrap_or(length)
}

/// What lies in one cell.
#[derive(Default)]
struct Found<'a> {
    bytes: [u64; Kind::ALL.len()],
    /// The region of each kind that has most of the cell.
    most: [Option<(u64, &'a Region<'a>, bool)>; Kind::ALL.len()],
}

impl<'a> Found<'a> {
    fn add(&mut self, region: &'a Region<'a>, odd: bool, bytes: u64) {
        let kind = Kind::ALL.iter().position(|&kind| kind == region.kind).unwrap_or_default();
        self.bytes[kind] += bytes;
        if bytes > 0 && self.most[kind].is_none_or(|(most, _, _)| most < bytes) {
            self.most[kind] = Some((bytes, region, odd));
        }
    }

    /// The kind with most bytes. But what nothing refers to is shown however small: whoever looks for it must not miss it.
    fn cell(&self) -> Option<Cell> {
        let weight = |number: &usize| (self.bytes[*number] > 0 && Kind::ALL[*number] == Kind::Unreferenced, self.bytes[*number]);
        let kind = (0..Kind::ALL.len()).max_by_key(weight)?;
        let (_, region, odd) = self.most[kind]?;
        Some(Cell { kind: region.kind, block: region.block.unwrap_or_default(), odd })
    }
}

fn legend(out: &mut impl Write, picture: &Picture<'_>, colours: bool) -> io::Result<()> {
    writeln!(out, "  {:5}  {:<12} {:>9} {:>9} {:>8}", "", "kind", "bytes", "share", "regions")?;
    for sum in &picture.sums {
        let cell = Cell { kind: sum.kind, block: 0, odd: false };
        let (style, share) = (cell.style(), picture.share(sum.bytes));
        let glyph = match sum.kind {
            Kind::Tensor if !colours => "aA bB".to_owned(),
            Kind::Tensor => {
                let odd = Cell { odd: true, ..cell }.style();
                format!("{style}█{style:#}{odd}█{odd:#}   ")
            }
            _ => format!("{style}{}{style:#}    ", cell.glyph(colours)),
        };
        let (bytes, regions) = (size(sum.bytes), sum.regions);
        writeln!(out, "  {glyph}  {:<12} {bytes:>9} {share:>9} {regions:>8}", label(sum.kind))?;
    }
    Ok(())
}

fn blocks(out: &mut impl Write, picture: &Picture<'_>, columns: usize, colours: bool) -> io::Result<()> {
    let blocks = picture.pack.manifest().blocks();
    let all = blocks.len();
    if all == 0 {
        return Ok(());
    }
    let mut tensors = vec![0_usize; all];
    picture.pack.tensors().for_each(|tensor| tensors[tensor.block] += 1);
    writeln!(out, "\nblocks")?;
    for (number, (block, tensors)) in blocks.zip(tensors).enumerate().take(LISTED) {
        let cell = Cell { kind: Kind::Tensor, block: number, odd: false };
        let (glyph, style) = (cell.glyph(colours), cell.style());
        let (bytes, share, offset) = (size(block.length), picture.share(block.length), size(block.offset));
        let line = format!(" {number}  {bytes:>9} {share:>9}  {:<9} at {offset}, {}", block.dtype, count(tensors, "tensor"));
        writeln!(out, "  {style}{glyph}{style:#}{}", clipped(&line, columns - 3))?;
    }
    more(out, all)
}

fn largest(out: &mut impl Write, picture: &Picture<'_>, columns: usize) -> io::Result<()> {
    let mut tensors: Vec<_> = picture.pack.tensors().collect();
    let all = tensors.len();
    if all == 0 {
        return Ok(());
    }
    tensors.sort_by_key(|tensor| (Reverse(tensor.length), tensor.name));
    writeln!(out, "\nlargest tensors")?;
    for tensor in tensors.into_iter().take(LISTED) {
        let (bytes, share) = (size(tensor.length), picture.share(tensor.length));
        // Only what may be shown of a name is escaped: it can have a megabyte.
        let name = escaped(&clipped(tensor.name, columns));
        let line = format!("       {bytes:>9} {share:>9}  {:<9} {name} {}", tensor.dtype, tensor.shape);
        writeln!(out, "{}", clipped(&line, columns))?;
    }
    more(out, all)?;
    match picture.empty_tensors().count() {
        0 => Ok(()),
        empty => {
            let line = format!("{} without elements: no place in the picture", count(empty, "tensor"));
            writeln!(out, "\n{}", clipped(&line, columns))
        }
    }
}

fn more(out: &mut impl Write, all: usize) -> io::Result<()> {
    if all > LISTED { writeln!(out, "  ... and {} more", all - LISTED) } else { Ok(()) }
}
