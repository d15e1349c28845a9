//! Aligned text for a terminal: tables, and pairs of name and value. Nothing is cut off.

use std::fmt::Write as _;

/// On which side a column is flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under heads.
#[derive(Debug)]
pub struct Table {
    heads: Vec<(&'static str, Flush)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(heads: &[(&'static str, Flush)]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// One cell a head; an empty one is written `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| if cell.is_empty() { "-".into() } else { cell }).collect());
    }

    /// Two blanks before each line and between the columns; each line ends. Nothing when there is no row.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.rows.is_empty() {
            return text;
        }
        let widths: Vec<usize> = self.heads.iter().enumerate().map(|(at, _)| self.width(at)).collect();
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, flush)) in row.iter().zip(&widths).zip(&self.heads) {
                // Writing to a String can not fail.
                let _ = match flush {
                    Flush::Left => write!(line, "  {cell:<width$}"),
                    Flush::Right => write!(line, "  {cell:>width$}"),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn width(&self, at: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([self.heads[at].0.len()]).max().unwrap_or(0)
    }
}

/// Names, and behind them values that begin in one column.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
}

/// `text` without characters that could steer a terminal: they come out as `\u{1b}`.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_flush_left_numbers_right_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&[("NAME", Flush::Left), ("COUNT", Flush::Right), ("WHY", Flush::Left)]);
        assert_eq!(table.text(), "");
        table.row(["a".into(), "7".into(), String::new()]);
        table.row(["l\u{f6}nger".into(), "123456".into(), "so it is".into()]);
        let expected = "  NAME     COUNT  WHY\n  a            7  -\n  l\u{f6}nger  123456  so it is\n";
        assert_eq!(table.text(), expected);
        assert_eq!(pairs(&[("a", "b".into()), ("long", "c".into())]), "  a     b\n  long  c\n");
    }

    #[test]
    fn what_could_steer_a_terminal_is_written_out() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}\u{f6}"), "a\\u{1b}[2Jb\\u{d}\\u{a}\\u{9b}\u{f6}");
    }
}
