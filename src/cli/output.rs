//! Printing: texts from files escaped, sizes readable, JSON whole.

use std::io::{self, BufWriter, Write};

use serde_json::Value;

/// Standard output, buffered. Colours are dropped where nobody sees them, and with `NO_COLOR`.
pub(crate) fn stdout() -> impl Write {
    BufWriter::new(anstream::AutoStream::auto(io::stdout()))
}

/// Prints one JSON document.
pub(crate) fn json(document: &Value) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "{document:#}")?;
    out.flush()
}

/// One line on standard error.
pub(crate) fn error(message: &str) {
    note("error", message);
}

/// One line on standard error that is no error.
pub(crate) fn warning(message: &str) {
    note("warning", message);
}

fn note(kind: &str, message: &str) {
    // Nothing is left to be done if even this fails.
    let _ = writeln!(anstream::stderr(), "flashpack: {kind}: {}", escaped(message));
}

/// A text from a file as it may be shown: on one line, with no terminal escapes in it.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        // Control characters, and those that turn the direction of text or take no place, are where a name lies about itself.
        let hidden =
            matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if character.is_control() || hidden {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Bytes in the largest unit that leaves at least one, to three figures.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1 tensor`, `2 tensors`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_act_on_the_terminal() {
        assert_eq!(escaped("a\u{1b}[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
    }

    #[test]
    fn sizes_have_three_figures() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(size(1 << 30), "1.00 GiB");
        assert_eq!(size(250 << 20), "250 MiB");
    }
}
