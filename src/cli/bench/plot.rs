//! The rates as bars: a group a model, a bar a way to load it.

use std::fmt::Write;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::output::{count, size};
use super::{Row, shown};

/// As wide as a README.
const WIDTH: u32 = 800;
const TOP: i32 = 78;
const BOTTOM: i32 = 34;
/// Where bars begin: before it are the names.
const LEFT: i32 = 180;
/// Room at the right, for what stands after the longest bar.
const RIGHT: i32 = 140;
const BAR: i32 = 15;
const BAR_STEP: i32 = 18;
const GROUP_GAP: i32 = 20;
/// The longest name in characters.
const NAME: usize = 22;
/// Plotters divides font sizes by this, to have the height of letters, not of lines.
const FONT: f64 = 1.24;

/// The colours on a light page, which are in the elements, and on a dark one, which the style sheet puts in their place.
struct Ink {
    light: RGBColor,
    dark: &'static str,
}

const PAGE: Ink = Ink { light: RGBColor(255, 255, 255), dark: "#0d1117" };
const TEXT: Ink = Ink { light: RGBColor(31, 35, 40), dark: "#e6edf3" };
const FAINT: Ink = Ink { light: RGBColor(89, 99, 110), dark: "#9198a1" };
const GRID: Ink = Ink { light: RGBColor(225, 228, 232), dark: "#262c36" };
const BARS: [Ink; 6] = [
    Ink { light: RGBColor(9, 105, 218), dark: "#4493f8" },
    Ink { light: RGBColor(128, 189, 255), dark: "#1f4f8f" },
    Ink { light: RGBColor(207, 120, 20), dark: "#db8b2f" },
    Ink { light: RGBColor(175, 184, 193), dark: "#59626d" },
    Ink { light: RGBColor(26, 127, 55), dark: "#3fb950" },
    Ink { light: RGBColor(130, 80, 223), dark: "#ab7df8" },
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

pub(super) fn draw(rows: &[Row], heading: &str) -> String {
    let bars: i32 = rows.iter().map(|row| group_height(row) + GROUP_GAP).sum();
    let height = u32::try_from(TOP + bars + BOTTOM).unwrap_or_default();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // Into a string, which does not fail.
        let _ = draw_on(&area, rows, heading).and_then(|()| Ok(area.present()?));
    }
    with_dark(&svg)
}

fn group_height(row: &Row) -> i32 {
    i32::try_from(row.times.len()).unwrap_or_default() * BAR_STEP
}

/// Bytes of the model a second, in 10^9.
fn rates(row: &Row) -> impl Iterator<Item = f64> {
    row.times.iter().map(|times| match times.median().as_secs_f64() {
        seconds if seconds > 0.0 => row.bytes as f64 / seconds / 1e9,
        _ => 0.0,
    })
}

fn draw_on(area: &Area<'_>, rows: &[Row], heading: &str) -> Drawn {
    area.fill(&PAGE.light)?;
    text(area, "Loading into memory, GB/s", (16, 20), 17, &TEXT, HPos::Left)?;
    text(area, heading, (16, 40), 12, &FAINT, HPos::Left)?;
    legend(area, rows)?;

    let (step, end) = scale(rows.iter().flat_map(rates).fold(0.0, f64::max));
    let room = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT);
    let x = |rate: f64| LEFT + (rate / end * room).round() as i32;
    let bottom = TOP + rows.iter().map(|row| group_height(row) + GROUP_GAP).sum::<i32>();
    for tick in 0..=(end / step).round() as u32 {
        let rate = f64::from(tick) * step;
        area.draw(&PathElement::new([(x(rate), TOP), (x(rate), bottom)], GRID.light))?;
        text(area, &trimmed(rate), (x(rate), bottom + 12), 11, &FAINT, HPos::Center)?;
    }

    let mut y = TOP + GROUP_GAP / 2;
    for row in rows {
        let middle = y + group_height(row) / 2;
        let name: String = super::super::map::clipped(&row.model, NAME);
        text(area, &name, (LEFT - 12, middle - 8), 13, &TEXT, HPos::Right)?;
        let about = format!("{}, {}", size(row.bytes), count(row.tensors, "tensor"));
        text(area, &about, (LEFT - 12, middle + 8), 11, &FAINT, HPos::Right)?;
        for ((times, rate), ink) in row.times.iter().zip(rates(row)).zip(BARS.iter().cycle()) {
            // A bar of no width would be none.
            let end = x(rate).max(LEFT + 1);
            area.draw(&Rectangle::new([(LEFT, y), (end, y + BAR)], ink.light.filled()))?;
            let value = format!("{}  ({})", three_figures(rate), shown(times.median()));
            text(area, &value, (end + 6, y + BAR / 2 + 1), 11, &TEXT, HPos::Left)?;
            y += BAR_STEP;
        }
        y += GROUP_GAP;
    }
    Ok(())
}

fn legend(area: &Area<'_>, rows: &[Row]) -> Drawn {
    let mut x = 16;
    for (times, ink) in rows.first().into_iter().flat_map(|row| &row.times).zip(BARS.iter().cycle()) {
        area.draw(&Rectangle::new([(x, 54), (x + 11, 65)], ink.light.filled()))?;
        text(area, times.label, (x + 17, 60), 12, &TEXT, HPos::Left)?;
        x += 40 + 7 * i32::try_from(times.label.len())?;
    }
    Ok(())
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: u32, ink: &Ink, side: HPos) -> Drawn {
    let style =
        TextStyle::from(("sans-serif", f64::from(size) * FONT).into_font()).color(&ink.light).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

/// The step of the grid, 1, 2 or 5 times a power of ten, and where it ends: four to ten steps for the largest rate.
fn scale(largest: f64) -> (f64, f64) {
    let largest = if largest > 0.0 { largest } else { 1.0 };
    let power = 10_f64.powf((largest / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().map(|factor| factor * power).find(|step| step * 4.0 <= largest).unwrap_or(power);
    (step, (largest / step).ceil() * step)
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn three_figures(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

/// The drawing with a style sheet for dark pages. Plotters writes each colour into its element; a rule of CSS is stronger than that.
fn with_dark(svg: &str) -> String {
    let mut style = String::from("\n<style>text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}");
    style.push_str("@media (prefers-color-scheme:dark){");
    for Ink { light: RGBColor(red, green, blue), dark } in [&PAGE, &TEXT, &FAINT, &GRID].into_iter().chain(&BARS) {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        // Writing to a string does not fail.
        let _ = write!(style, "[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}");
    }
    style.push_str("}</style>");
    match svg.split_once("<svg ").and_then(|(before, rest)| Some((before, rest.split_once('>')?))) {
        Some((before, (tag, rest))) => format!("{before}<svg {tag}>{style}{rest}"),
        None => svg.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_round_steps() {
        assert_eq!(scale(4.0), (1.0, 4.0));
        assert_eq!(scale(9.9), (2.0, 10.0));
        assert_eq!(scale(23.0), (5.0, 25.0));
        assert_eq!(scale(0.0), (0.2, 1.0));
    }
}
