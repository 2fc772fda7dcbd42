//! The picture as SVG: the file as lines of equal scale, a band of lines for head, each block, and foot.
//!
//! Its size is bounded whatever the file: lines are as many as fit the scale, bands are merged past [`BANDS`], names are cut, and regions
//! narrower than [`NARROWEST`] are merged with their neighbours. Colours come from a style sheet that knows light and dark pages.

use std::fmt::Write;

use flashpack::map::{Kind, Region};

use super::super::output::{count, escaped, size};
use super::{Picture, clipped, label};

const WIDTH: f64 = 800.0;
const MARGIN: f64 = 16.0;
/// The width of a line of regions.
const LINE: f64 = WIDTH - 2.0 * MARGIN;
const LINE_HEIGHT: f64 = 16.0;
const LINE_STEP: f64 = 19.0;
/// Regions under half a pixel cannot be seen: they are merged until they can.
const NARROWEST: f64 = 0.5;
/// A line that has nothing else is at least this long, to be seen at all.
const LONE: f64 = 1.5;
/// The most bands for blocks; all further blocks share one.
const BANDS: usize = 40;
/// The most characters of a tensor's name.
const NAME: usize = 120;
/// The width of a character in a region, roughly, to see whether a name fits.
const CHARACTER: f64 = 6.2;

const STYLE: &str = "\
svg{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px}\
text{fill:#1f2328}.title{font-size:15px;font-weight:600}.faint{fill:#59636e}.in{font-size:10px;pointer-events:none}\
.page{fill:#fff}\
.b0{fill:#a5cdfb}.b0.odd{fill:#7fb5f5}.b1{fill:#a9dfbb}.b1.odd{fill:#82cb9a}\
.b2{fill:#d8c6f6}.b2.odd{fill:#c1a5ee}.b3{fill:#fbd5a6}.b3.odd{fill:#f3ba77}\
.header,.table{fill:#8c959f}.table.odd{fill:#6e7781}.padding{fill:#dde2e7}.unreferenced{fill:#cf222e}.footer{fill:#d4a72c}.trailer{fill:#9a6700}\
@media (prefers-color-scheme:dark){\
text{fill:#e6edf3}.faint{fill:#9198a1}.page{fill:#0d1117}\
.b0{fill:#1f4f8f}.b0.odd{fill:#2f6cba}.b1{fill:#1d5b36}.b1.odd{fill:#2a7a4a}\
.b2{fill:#4f3587}.b2.odd{fill:#6b4bb0}.b3{fill:#7a4510}.b3.odd{fill:#9c5d1c}\
.header,.table{fill:#6e7681}.table.odd{fill:#8b949e}.padding{fill:#2a3038}.unreferenced{fill:#f85149}.footer{fill:#bb8009}.trailer{fill:#e3b341}\
}";

pub(super) fn draw(picture: &Picture<'_>) -> String {
    let mut drawing = Drawing { body: String::new(), y: MARGIN + 12.0, bytes_per_line: bytes_per_line(picture) };
    drawing.text("title", MARGIN, &picture.name);
    drawing.y += 20.0;
    let pixel = drawing.bytes_per_line as f64 / LINE;
    let scale = if pixel < 1.0 { format!("{pixel:.2} B") } else { size(pixel.round() as u64) };
    drawing.text("faint", MARGIN, &format!("{}; a pixel of a line is {scale}", picture.summary()));
    drawing.legend(picture);
    for band in bands(picture) {
        drawing.band(picture, &band);
    }
    let height = drawing.y + MARGIN - 4.0;
    let title = xml(&format!("{}: {}", picture.name, picture.summary()));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n{}</svg>\n",
        drawing.body
    )
}

/// The scale: more lines, the more there is to tell apart.
fn bytes_per_line(picture: &Picture<'_>) -> u64 {
    let lines = match picture.regions.len() {
        0..=40 => 8,
        41..=400 => 14,
        _ => 24,
    };
    picture.length.div_ceil(lines).max(1)
}

/// A part of the file that begins on a line of its own.
struct Band<'a> {
    label: String,
    regions: &'a [Region<'a>],
}

fn bands<'a>(picture: &'a Picture<'_>) -> Vec<Band<'a>> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Part {
        Head,
        Block(usize),
        Foot,
    }
    let mut part = Part::Head;
    // A gap belongs to what it follows.
    let parts: Vec<Part> = picture
        .regions
        .iter()
        .map(|region| {
            part = match (region.kind, region.block) {
                (Kind::Footer | Kind::Trailer, _) => Part::Foot,
                (_, Some(number)) => Part::Block(number.min(BANDS)),
                (_, None) => part,
            };
            part
        })
        .collect();
    let blocks: Vec<_> = picture.pack.manifest().blocks().collect();
    let mut bands = Vec::new();
    let mut start = 0;
    for same in parts.chunk_by(|a, b| a == b) {
        let regions = picture.regions.get(start..start + same.len()).unwrap_or_default();
        start += same.len();
        let bytes = size(regions.iter().filter(|region| region.kind != Kind::Padding).map(|region| region.length).sum());
        let tensors = count(regions.iter().filter(|region| region.tensor.is_some()).count(), "tensor");
        let label = match same.first() {
            Some(Part::Block(BANDS)) if blocks.len() > BANDS + 1 => {
                format!("blocks {BANDS} to {}: {tensors}, {bytes}", blocks.len() - 1)
            }
            Some(Part::Block(number)) => {
                let dtype = blocks.get(*number).map_or("", |block| block.dtype.name());
                format!("block {number}: {dtype}, {tensors}, {bytes}")
            }
            Some(Part::Foot) => format!("footer and trailer: {bytes}"),
            _ if picture.pack.header().is_some() => format!("header and tables: {bytes}"),
            _ => format!("before the first block: {bytes}"),
        };
        bands.push(Band { label, regions });
    }
    bands
}

struct Drawing {
    body: String,
    y: f64,
    bytes_per_line: u64,
}

impl Drawing {
    fn text(&mut self, class: &str, x: f64, text: &str) {
        self.put(format_args!("<text class=\"{class}\" x=\"{}\" y=\"{}\">{}</text>\n", Px(x), Px(self.y), xml(text)));
    }

    fn put(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(markup);
    }

    /// Kinds with their bytes and shares, three a row.
    fn legend(&mut self, picture: &Picture<'_>) {
        const COLUMNS: usize = 3;
        self.y += 8.0;
        for row in picture.sums.chunks(COLUMNS) {
            self.y += 19.0;
            for (column, sum) in row.iter().enumerate() {
                let x = MARGIN + LINE / COLUMNS as f64 * column as f64;
                let class = if sum.kind == Kind::Tensor { "b0 odd" } else { sum.kind.name() };
                self.put(format_args!(
                    "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"11\" height=\"11\" rx=\"2\"/>\
                     <text x=\"{}\" y=\"{}\">{} <tspan class=\"faint\">{}, {}</tspan></text>\n",
                    Px(x),
                    Px(self.y - 10.0),
                    Px(x + 17.0),
                    Px(self.y),
                    label(sum.kind),
                    size(sum.bytes),
                    xml(&picture.share(sum.bytes))
                ));
            }
        }
        self.y += 10.0;
    }

    fn band(&mut self, picture: &Picture<'_>, band: &Band<'_>) {
        let (Some(first), Some(last)) = (band.regions.first(), band.regions.last()) else { return };
        let width = (last.end() - first.offset) as f64 / self.bytes_per_line as f64 * LINE;
        // Beside a short line there is room for what it is.
        let beside = width < LINE / 2.0;
        self.y += 6.0;
        if !beside {
            self.y += 10.0;
            self.text("faint", MARGIN, &band.label);
            self.y += 6.0;
        }
        let mut line = Line { end: first.offset.saturating_add(self.bytes_per_line), start: first.offset, slivers: None };
        let mut odd = false;
        for region in band.regions {
            // Neighbours of one colour take turns, so that one can be told from the next.
            odd ^= matches!(region.kind, Kind::Tensor | Kind::Table);
            let mut from = region.offset;
            while from < region.end() {
                let to = region.end().min(line.end);
                self.piece(picture, &mut line, &Piece { region, odd, from, to });
                from = to;
                if to == line.end && to < last.end() {
                    self.slivers(&mut line);
                    self.y += LINE_STEP;
                    line = Line { end: to.saturating_add(self.bytes_per_line), start: to, slivers: None };
                }
            }
        }
        self.slivers(&mut line);
        if beside {
            let top = self.y;
            self.y += 12.0;
            self.text("faint", MARGIN + width.max(LONE) + 8.0, &band.label);
            self.y = top;
        }
        self.y += LINE_STEP;
    }

    fn x(&self, line: &Line<'_>, at: u64) -> f64 {
        MARGIN + (at - line.start) as f64 / self.bytes_per_line as f64 * LINE
    }

    fn piece<'a>(&mut self, picture: &Picture<'_>, line: &mut Line<'a>, piece: &Piece<'a>) {
        let width = self.x(line, piece.to) - self.x(line, piece.from);
        if width < NARROWEST {
            let merged = line.slivers.get_or_insert_with(|| Slivers::new(piece.from));
            merged.add(piece);
            let from = merged.from;
            if self.x(line, piece.to) - self.x(line, from) >= NARROWEST {
                self.slivers(line);
            }
            return;
        }
        self.slivers(line);
        let region = piece.region;
        let what = match region.tensor {
            Some(tensor) => format!("{} {}, ", tensor.dtype, clipped(&tensor.shape.to_string(), NAME)),
            None => String::new(),
        };
        let name = escaped(&clipped(region.name, NAME));
        let kind = region.kind.name();
        let title = format!(
            "{kind} {name}{}{what}{}, {} at {}",
            if name.is_empty() { "" } else { ": " },
            size(region.length),
            picture.share(region.length),
            region.offset
        );
        let x = self.x(line, piece.from);
        self.rect(&class(region, piece.odd), x, width, &title);
        let room = width - 8.0;
        // A name stands once, where its tensor begins.
        if piece.from == region.offset && region.tensor.is_some() && room >= 4.0 * CHARACTER {
            let shown = xml(&clipped(&name, (room / CHARACTER) as usize));
            self.put(format_args!("<text class=\"in\" x=\"{}\" y=\"{}\">{shown}</text>\n", Px(x + 4.0), Px(self.y + 11.5)));
        }
    }

    /// Draws what was too narrow by itself.
    fn slivers(&mut self, line: &mut Line<'_>) {
        let Some(slivers) = line.slivers.take() else { return };
        let Some((_, region, odd)) = slivers.most else { return };
        let x = self.x(line, slivers.from);
        let alone = slivers.from == line.start;
        let width = (self.x(line, slivers.to) - x).max(if alone { LONE } else { NARROWEST });
        let title = match slivers.regions {
            1 => format!("{} {}, {}", region.kind.name(), escaped(&clipped(region.name, NAME)), size(region.length)),
            regions => format!("{regions} regions, {}", size(slivers.to - slivers.from)),
        };
        self.rect(&class(region, odd), x, width, &title);
    }

    fn rect(&mut self, class: &str, x: f64, width: f64, title: &str) {
        let (y, title) = (self.y, xml(title));
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{LINE_HEIGHT}\"><title>{title}</title></rect>\n",
            Px(x),
            Px(y),
            Px(width)
        ));
    }
}

/// The bytes of one line of the picture.
struct Line<'a> {
    start: u64,
    end: u64,
    /// Regions that wait for others, as they are too narrow.
    slivers: Option<Slivers<'a>>,
}

/// The part of a region that lies on one line.
struct Piece<'a> {
    region: &'a Region<'a>,
    odd: bool,
    from: u64,
    to: u64,
}

struct Slivers<'a> {
    from: u64,
    to: u64,
    regions: usize,
    /// The piece that gives its colour: the longest, but before all others what nothing refers to.
    most: Option<((bool, u64), &'a Region<'a>, bool)>,
}

impl<'a> Slivers<'a> {
    fn new(from: u64) -> Slivers<'a> {
        Slivers { from, to: from, regions: 0, most: None }
    }

    fn add(&mut self, piece: &Piece<'a>) {
        self.to = piece.to;
        self.regions += 1;
        let weight = (piece.region.kind == Kind::Unreferenced, piece.to - piece.from);
        if self.most.is_none_or(|(most, _, _)| most < weight) {
            self.most = Some((weight, piece.region, piece.odd));
        }
    }
}

fn class(region: &Region<'_>, odd: bool) -> String {
    /// As many as the style sheet has.
    const BLOCK_COLOURS: usize = 4;
    let class = match region.kind {
        Kind::Tensor => format!("b{}", region.block.unwrap_or_default() % BLOCK_COLOURS),
        kind => kind.name().to_owned(),
    };
    if odd { class + " odd" } else { class }
}

/// A length to hundredths, without the zeros that say nothing.
struct Px(f64);

impl std::fmt::Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A text as it may stand in XML. Control characters are no XML, not even as references: they were made visible before, and what
/// else XML leaves out is here.
fn xml(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in escaped(text).chars() {
        match character {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => shown.extend(character.escape_unicode()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short() {
        assert_eq!(Px(16.0).to_string(), "16");
        assert_eq!(Px(0.126).to_string(), "0.13");
        assert_eq!(Px(100.5).to_string(), "100.5");
        assert_eq!(Px(0.0).to_string(), "0");
    }

    #[test]
    fn texts_cannot_leave_their_place() {
        assert_eq!(xml("</text><script>\"'&\u{0}\u{ffff}"), "&lt;/text&gt;&lt;script&gt;&quot;&#39;&amp;\\u{0}\\u{ffff}");
    }
}
