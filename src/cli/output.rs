//! Printing: texts from files escaped, sizes readable, JSON whole.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use serde_json::Value;

/// Standard output, buffered. Colours are dropped where nobody sees them, and with `NO_COLOR`.
pub(crate) fn stdout() -> impl Write {
    BufWriter::new(anstream::AutoStream::auto(io::stdout()))
}

/// Prints one JSON document.
pub(crate) fn json(document: &Value) -> io::Result<()> {
    // Not through `stdout`: what drops colours drops other control characters too, and with them a part of a name.
    let mut out = io::stdout().lock();
    out.write_all(visible_json(&format!("{document:#}\n")).as_bytes())?;
    out.flush()
}

/// A text that goes on after its reader has gone away (`| head`), for commands whose exit status is a verdict: that must not depend on
/// who reads the text.
pub(crate) fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
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
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same JSON with what a terminal would act on or hide as escapes. JSON itself escapes only what is below 0x20, so a line break here
/// is one between values.
fn visible_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character != '\n' && is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Control characters, and those that turn the direction of text or take no place, are where a name lies about itself.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
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
    fn json_says_the_same_when_made_visible() {
        let name = "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}\n\"é漢";
        let shown = visible_json(&format!("{:#}\n", serde_json::json!({ "name": name })));
        assert!(shown.lines().all(|line| !line.contains(is_hidden)));
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["name"], name);
    }

    #[test]
    fn sizes_have_three_figures() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.50 KiB");
        assert_eq!(size(1 << 30), "1.00 GiB");
        assert_eq!(size(250 << 20), "250 MiB");
    }
}
