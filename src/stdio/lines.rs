//! Bytes in, lines out: bounded in memory, whatever comes.

/// A line may be this long, its end not counted. What is longer is passed over to its end and answered as malformed.
pub const LINE_MAX: usize = 1 << 20;

/// A line that is not blank, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// The first [`LINE_MAX`] bytes of one that is longer.
    TooLong(Vec<u8>),
}

/// Splits bytes into lines, however they come in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    kept: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    /// Takes some bytes; `found` gets each line that they complete. Blank lines are passed over.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Line)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..end]);
            rest = &rest[end + 1..];
            if let Some(line) = self.end() {
                found(line);
            }
        }
        self.keep(rest);
    }

    /// What was begun is a line, too: the end of the input ends it.
    pub fn end(&mut self) -> Option<Line> {
        let bytes = std::mem::take(&mut self.kept);
        if std::mem::take(&mut self.is_too_long) {
            return Some(Line::TooLong(bytes));
        }
        let is_blank = bytes.iter().all(u8::is_ascii_whitespace);
        (!is_blank).then_some(Line::Whole(bytes))
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_MAX - self.kept.len();
        self.is_too_long |= bytes.len() > room;
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| found.push(line));
        }
        found.extend(lines.end());
        found
    }

    #[test]
    fn lines_are_the_same_however_they_come_and_blank_ones_are_passed_over() {
        let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
        let text = b"a\n\n \t\r\nbc\r\n\xff\nend";
        let expected = vec![whole("a"), whole("bc\r"), Line::Whole(vec![0xff]), whole("end")];
        assert_eq!(split(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(split(&bytes), expected);
        assert_eq!(split(&[b"", b"\n"]), []);
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_the_bound() {
        let piece = vec![b'x'; LINE_MAX];
        assert_eq!(split(&[&piece, b"\n"]), [Line::Whole(piece.clone())]);
        let mut lines = Lines::default();
        for _ in 0..64 {
            lines.push(&piece, |line| panic!("{line:?}"));
        }
        assert_eq!(lines.kept.len(), LINE_MAX);
        let mut found = Vec::new();
        lines.push(b"\nb\n", |line| found.push(line));
        assert_eq!(found, [Line::TooLong(piece), Line::Whole(b"b".to_vec())]);
        // Blank as far as it was kept is not blank.
        let spaces = vec![b' '; LINE_MAX + 1];
        assert!(matches!(split(&[&spaces])[..], [Line::TooLong(_)]));
    }
}
