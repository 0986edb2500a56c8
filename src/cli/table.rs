//! A small table: columns aligned, no frames, nothing wrapped.

use super::style::Paint;

/// One cell: its text, and the same text painted.
#[derive(Clone, Debug, Default)]
struct Cell {
    width: usize,
    painted: String,
}

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    paint: Paint,
    indent: usize,
    /// Columns of numbers stand to the right.
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings. One that ends in `>` is a column of numbers.
    #[must_use]
    pub fn new(paint: Paint, indent: usize, headings: &[&str]) -> Self {
        let right = headings.iter().map(|h| h.ends_with('>')).collect();
        let mut table = Self { paint, indent, right, rows: Vec::new() };
        let heads: Vec<Cell> = headings.iter().map(|h| table.cell(h.trim_end_matches('>'), Paint::dim)).collect();
        table.rows.push(heads);
        table
    }

    fn cell(&self, text: &str, how: fn(Paint, &str) -> String) -> Cell {
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Cell { width: clean.chars().count(), painted: how(self.paint, &clean) }
    }

    /// Adds a row of plain cells.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let row = cells.into_iter().map(|c| self.cell(c.as_ref(), |_, text| text.to_owned())).collect();
        self.rows.push(row);
    }

    /// Paints a cell of the row added last.
    pub fn paint_last(&mut self, column: usize, how: impl Fn(Paint, &str) -> String) {
        let paint = self.paint;
        if let Some(cell) = self.rows.last_mut().and_then(|row| row.get_mut(column)) {
            cell.painted = how(paint, &cell.painted);
        }
    }

    /// The table as lines.
    #[must_use]
    pub fn to_text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.width).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            let mut gap = 0;
            for (i, cell) in row.iter().enumerate() {
                let pad = widths[i] - cell.width;
                let (before, after) = if self.right.get(i) == Some(&true) { (pad, 0) } else { (0, pad) };
                if cell.width > 0 {
                    line.push_str(&" ".repeat(gap + before));
                    line.push_str(&cell.painted);
                    gap = after + 2;
                } else {
                    gap += pad + 2;
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_are_kept_out() {
        let mut table = Table::new(Paint::OFF, 2, &["NAME", "EPOCH>", "NOTE"]);
        table.row(["a", "4", "ok"]);
        table.row(["broker-b", "12", ""]);
        table.row(["x\x1b[2J", "", "evil"]);
        assert_eq!(
            table.to_text(),
            "  NAME      EPOCH  NOTE\n  a             4  ok\n  broker-b     12\n  x [2J            evil\n"
        );
    }
}
