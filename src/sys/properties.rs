//! Java's `.properties`, edited in place: everything but the one value stays as it was, comments, order, blanks and line
//! ends included. Pure: bytes in, bytes out.
//!
//! What the format has that plain lines have not: `=`, `:` or a blank between key and value, `!` for comments as well as
//! `#`, backslash escapes in keys and values, and values that go on over lines that end in a backslash.

use std::ops::Range;

/// A key with its value, where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// All its lines, with their ends.
    pub whole: Range<usize>,
    /// What of it is the value, as it is written.
    pub value_at: Range<usize>,
    /// The key, its escapes resolved.
    pub key: String,
    /// The value, its escapes resolved.
    pub value: String,
}

/// All entries, in their order.
#[must_use]
pub fn entries(content: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < content.len() {
        let (begin, mut end) = (at, line_end(content, at));
        let first = skip_blanks(content, begin, end);
        let is_comment = content.get(first).is_some_and(|b| matches!(b, b'#' | b'!'));
        at = after_end(content, end);
        if is_comment || first == end {
            continue;
        }
        // A comment is never continued; anything else is, by a backslash that is not itself escaped.
        while is_continued(content, begin, end) && at < content.len() {
            end = line_end(content, at);
            at = after_end(content, end);
        }
        found.push(entry(content, begin..at, first, end));
    }
    found
}

/// The values of a key, in the order of the file. Java takes the last.
#[must_use]
pub fn values(content: &[u8], key: &str) -> Vec<String> {
    entries(content).into_iter().filter(|entry| entry.key == key).map(|entry| entry.value).collect()
}

/// A value as the file has to hold it.
#[must_use]
pub fn escaped(value: &str) -> Vec<u8> {
    escape(value, false)
}

/// A key and its value as a new line, without its end. `separator`: what stands between them.
#[must_use]
pub fn line(key: &str, separator: &str, value: &str) -> Vec<u8> {
    [escape(key, true), separator.as_bytes().to_vec(), escape(value, false)].concat()
}

fn escape(text: &str, is_key: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for (i, c) in text.chars().enumerate() {
        match c {
            '\\' => out.extend(b"\\\\"),
            '\n' => out.extend(b"\\n"),
            '\r' => out.extend(b"\\r"),
            '\t' => out.extend(b"\\t"),
            '\u{c}' => out.extend(b"\\f"),
            ' ' if i == 0 || is_key => out.extend(b"\\ "),
            '=' | ':' if is_key => out.extend([b'\\', c as u8]),
            '#' | '!' if is_key && i == 0 => out.extend([b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            // The file is ISO 8859-1 to some readers and UTF-8 to others; the escape is the same to all.
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    out.extend(format!("\\u{unit:04X}").bytes());
                }
            }
        }
    }
    out
}

fn line_end(content: &[u8], from: usize) -> usize {
    content[from..].iter().position(|b| matches!(b, b'\n' | b'\r')).map_or(content.len(), |n| from + n)
}

fn after_end(content: &[u8], end: usize) -> usize {
    match content.get(end..) {
        Some([b'\r', b'\n', ..]) => end + 2,
        Some([_, ..]) => end + 1,
        _ => end,
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\x0c')
}

fn skip_blanks(content: &[u8], from: usize, end: usize) -> usize {
    from + content[from..end].iter().take_while(|b| is_blank(**b)).count()
}

fn is_continued(content: &[u8], begin: usize, end: usize) -> bool {
    content[begin..end].iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Walks the characters of an entry, over the ends of its lines. Yields each with where it begins and ends, and whether
/// it was escaped.
struct Characters<'a> {
    content: &'a [u8],
    at: usize,
    end: usize,
}

impl Iterator for Characters<'_> {
    type Item = (Range<usize>, u16, bool);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let begin = self.at;
            if begin >= self.end {
                return None;
            }
            let byte = self.content[begin];
            if byte != b'\\' {
                self.at += 1;
                return Some((begin..self.at, u16::from(byte), false));
            }
            let next = self.content.get(begin + 1).copied().filter(|_| begin + 1 < self.end);
            let plain = match next {
                None => {
                    // A backslash at the very end stands for nothing.
                    self.at = self.end;
                    return None;
                }
                Some(b'\n' | b'\r') => {
                    let next_line = after_end(self.content, begin + 1);
                    self.at = skip_blanks(self.content, next_line.min(self.end), self.end);
                    continue;
                }
                Some(b'u') => {
                    let digits = self.content.get(begin + 2..begin + 6).filter(|_| begin + 6 <= self.end);
                    let unit = digits.and_then(|d| u16::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
                    if let Some(unit) = unit {
                        self.at = begin + 6;
                        return Some((begin..self.at, unit, true));
                    }
                    b'u'
                }
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'f') => b'\x0c',
                Some(other) => other,
            };
            self.at = begin + 2;
            return Some((begin..self.at, u16::from(plain), true));
        }
    }
}

fn entry(content: &[u8], whole: Range<usize>, first: usize, end: usize) -> Entry {
    let ends_key = |unit: u16, is_escaped: bool| {
        !is_escaped && u8::try_from(unit).is_ok_and(|byte| is_blank(byte) || matches!(byte, b'=' | b':'))
    };
    let mut key = Vec::new();
    let mut characters = Characters { content, at: first, end };
    let mut value_from = end;
    while let Some((at, unit, is_escaped)) = characters.next() {
        if !ends_key(unit, is_escaped) {
            key.push(unit);
            continue;
        }
        // Blanks, at most one separator, blanks.
        let mut had_separator = false;
        let mut pending = Some((at, unit, is_escaped));
        while let Some((at, unit, is_escaped)) = pending {
            let is_separator = !is_escaped && (unit == u16::from(b'=') || unit == u16::from(b':'));
            if !ends_key(unit, is_escaped) || (is_separator && had_separator) {
                value_from = at.start;
                break;
            }
            had_separator |= is_separator;
            pending = characters.next();
        }
        break;
    }
    let value: Vec<u16> = Characters { content, at: value_from, end }.map(|(_, unit, _)| unit).collect();
    Entry { whole, value_at: value_from..end, key: text(&key), value: text(&value) }
}

/// Bytes above ASCII were read as ISO 8859-1, which is what Java did for the longest time; a key of ours is ASCII.
fn text(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(content: &str) -> Vec<(String, String)> {
        entries(content.as_bytes()).into_iter().map(|e| (e.key, e.value)).collect()
    }

    fn one(content: &str, key: &str, value: &str) {
        assert_eq!(pairs(content), [(key.to_owned(), value.to_owned())], "{content:?}");
    }

    /// The examples of the format's own description.
    #[test]
    fn it_is_read_as_java_reads_it() {
        for content in
            ["Truth = Beauty", " Truth:Beauty", "Truth                  :Beauty", "Truth Beauty", "Truth\t=\tBeauty\n"]
        {
            one(content, "Truth", "Beauty");
        }
        one(
            "fruits    apple, banana, pear, \\\n          cantaloupe, watermelon, \\\r\n   kiwi, mango\n",
            "fruits",
            "apple, banana, pear, cantaloupe, watermelon, kiwi, mango",
        );
        one("cheeses", "cheeses", "");
        one("a\\:b\\=c\\ d = e=f", "a:b=c d", "e=f");
        one("k=\\u0041\\t\\\\x", "k", "A\t\\x");
        one("k=c:\\\\dir\\\\\n", "k", "c:\\dir\\");
        assert_eq!(pairs("# a=b\\\n!c=d\n\n  # e\nk=v"), [("k".into(), "v".into())]);
        assert_eq!(pairs("a=1\\\n# no comment\nb=2"), [("a".into(), "1# no comment".into()), ("b".into(), "2".into())]);
        one("k==v", "k", "=v");
        one("k=v\\", "k", "v");
    }

    #[test]
    fn a_value_is_found_where_it_stands() {
        let content = b"# old\nread-only = fal\\\n    se\nx=1\n";
        let entries = entries(content);
        let entry = &entries[0];
        assert_eq!((entry.key.as_str(), entry.value.as_str()), ("read-only", "false"));
        assert_eq!(&content[entry.value_at.clone()], b"fal\\\n    se");
        assert_eq!(&content[entry.whole.clone()], b"read-only = fal\\\n    se\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(key in "[ -~äé=:#!\\\\]{1,8}", value in "[ -~\t\nä€😀\\\\]{0,12}") {
            let written = line(&key, "=", &value);
            let found = entries(&written);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].key, &key);
            prop_assert_eq!(&found[0].value, &value);
        }

        #[test]
        fn any_bytes_are_survived_and_entries_do_not_overlap(content in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'\n'), Just(b'\r'), Just(b'='), Just(b' '), Just(b'u'), Just(b'#'), any::<u8>()], 0..60)) {
            let mut last = 0;
            for entry in entries(&content) {
                prop_assert!(entry.whole.start >= last && entry.whole.end <= content.len());
                prop_assert!(entry.value_at.start >= entry.whole.start && entry.value_at.end <= entry.whole.end);
                last = entry.whole.end;
            }
        }
    }
}
