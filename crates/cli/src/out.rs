//! The only place that writes to the terminal.
//!
//! Output goes through here so that a closed pipe (`naka get … | head`) ends the command quietly instead of
//! panicking, and so that tables look alike everywhere.

use std::io::{self, IsTerminal, Write};

/// Writes text and a line end to stdout. A reader that went away is no error of ours.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{}", text.as_ref());
    let _ = stdout.flush();
}

/// Writes text as it is to stdout.
pub(crate) fn raw(text: impl AsRef<str>) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_ref().as_bytes());
    let _ = stdout.flush();
}

/// Writes a line to stderr.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Whether stdout is a terminal, so that live output may redraw itself.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// JSON with indentation and a line end.
pub(crate) fn json(value: &serde_json::Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// YAML of a JSON value.
pub(crate) fn yaml(value: &serde_json::Value) -> String {
    let text = serde_saphyr::to_string(value).unwrap_or_default();
    if text.ends_with('\n') {
        text
    } else {
        format!("{text}\n")
    }
}

/// A table with aligned columns; columns are separated by three blanks, as kubectl does.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn row<I: Into<String>>(&mut self, cells: impl IntoIterator<Item = I>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there is nothing but the headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// The text of the table.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width.saturating_sub(cell.chars().count()) + 3;
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', pad));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the table, or a sentence when it is empty.
    pub(crate) fn print(&self, nothing: &str) {
        if self.is_empty() {
            note(nothing);
        } else {
            raw(self.render());
        }
    }
}

/// Bytes as people read them.
pub(crate) fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// An age as kubectl shows it: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, age, mebibytes};

    #[test]
    fn tables_align_their_columns_and_trim_the_end() {
        let mut table = Table::new(&["NAME", "AGE"]);
        table.row(["payment", "5s"]);
        assert_eq!(table.render(), "NAME      AGE\npayment   5s\n");
        assert!(Table::new(&["NAME"]).is_empty());
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(mebibytes(12_582_912), "12.0 MiB");
        assert_eq!(age(119), "119s");
        assert_eq!(age(7300), "2h");
    }
}
