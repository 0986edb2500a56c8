//! YAML text to a tree whose every node knows its place. The only file that knows the YAML crate.
//!
//! Anchors, aliases and merge keys work; what they may expand to is bounded. Tags are refused. Duplicate keys are
//! mistakes at the place of the second one.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span};

use super::diagnostic::{Notes, Place};

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(pub(super) u32);

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) place: Place,
    /// What it is.
    pub(super) value: Value,
    /// A scalar's text, with `${…}` put in.
    pub(super) text: String,
    /// A scalar's text as it stands in the file, if something was put into `text`.
    pub(super) raw: Option<String>,
    /// The key that names it, for a value in a map.
    pub(super) key: Option<Id>,
    /// How many nodes it is, aliases expanded.
    weight: usize,
    /// How deep it is.
    height: usize,
}

impl Node {
    /// A scalar's text, fit to be shown.
    pub(super) fn shown(&self) -> &str {
        self.raw.as_deref().unwrap_or(&self.text)
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str,
    Seq(Vec<Id>),
    Map(Vec<(Id, Id)>),
}

/// A document.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The outermost node.
    pub(super) root: Option<Id>,
}

const TEXT_LIMIT: usize = 4 << 20;
const NODE_LIMIT: usize = 500_000;
const DEPTH_LIMIT: usize = 64;

impl Tree {
    /// The node.
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The same, to be changed.
    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// All nodes.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(Id)
    }

    /// The place of the node.
    pub(super) fn place(&self, id: Id) -> Place {
        self.node(id).place
    }

    /// The place to point at when the node as a whole is meant: a scalar itself, else the key that names it.
    pub(super) fn head(&self, id: Id) -> Place {
        let node = self.node(id);
        match (&node.value, node.key) {
            (Value::Seq(_) | Value::Map(_) | Value::Null, Some(key)) => self.place(key),
            _ => node.place,
        }
    }

    /// The entries of a map; none of anything else.
    pub(super) fn entries(&self, id: Id) -> &[(Id, Id)] {
        match &self.node(id).value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value under that key of a map.
    pub(super) fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id).iter().find(|(k, _)| self.node(*k).text == key).map(|(_, v)| *v)
    }

    /// Takes the nodes of another document, as if its text stood `lines` lines further down; its root.
    pub(super) fn adopt(&mut self, other: Self, lines: u32) -> Option<Id> {
        let first = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let moved = |id: Id| Id(id.0.saturating_add(first));
        for mut node in other.nodes {
            node.place.line += lines;
            node.key = node.key.map(moved);
            node.value = match node.value {
                Value::Seq(items) => Value::Seq(items.into_iter().map(moved).collect()),
                Value::Map(entries) => Value::Map(entries.into_iter().map(|(k, v)| (moved(k), moved(v))).collect()),
                scalar => scalar,
            };
            self.nodes.push(node);
        }
        other.root.map(moved)
    }

    /// Puts a value under a key of a map, in place of what stands there.
    pub(super) fn set(&mut self, map: Id, key: Id, value: Id) {
        let name = self.node(key).text.clone();
        let place = self.entries(map).iter().position(|(k, _)| self.node(*k).text == name);
        if let Value::Map(entries) = &mut self.node_mut(map).value {
            match place.and_then(|place| entries.get_mut(place)) {
                Some(entry) => *entry = (key, value),
                None => entries.push((key, value)),
            }
        }
    }

    fn push(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        Id(u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX))
    }
}

/// Reads one document. Mistakes go to `notes`; without a tree, nothing more can be said about the text.
pub(super) fn parse(text: &str, notes: &mut Notes) -> Option<Tree> {
    let start = Place { line: 1, column: 1, end: 2 };
    if text.len() > TEXT_LIMIT {
        notes.error(start, format!("the file has {} bytes; more than {TEXT_LIMIT} are not read", text.len()));
        return None;
    }
    let mut builder = Builder { tree: Tree::default(), open: Vec::new(), anchors: HashMap::new(), total: 0, notes };
    let options = granit_parser::options! { emit_comments: false, block_nesting_limit: 200, flow_nesting_limit: 200 };
    let mut documents = 0;
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match next {
            Ok(next) => next,
            Err(error) => {
                let marker = error.marker();
                let (line, column) = (marker.line() as u32, marker.col() as u32 + 1);
                let (message, help) = explain(text, line, &error.info());
                builder.notes.push(super::Severity::Error, Place { line, column, end: column + 1 }, message, help);
                return None;
            }
        };
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                builder.notes.error(place(&span), "a second document begins here; the file must hold one");
                return None;
            }
        }
        builder.take(event, &span)?;
    }
    if builder.tree.root.is_none() {
        notes.error(start, "the file is empty");
        return None;
    }
    Some(builder.tree)
}

/// The parser's words, and what usually lies behind them.
fn explain(text: &str, line: u32, info: &str) -> (String, Option<String>) {
    let at = text.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default();
    let indent: String = at.chars().take_while(|c| c.is_whitespace()).collect();
    let help = if indent.contains('\t') || info.contains("tab") {
        Some("YAML does not allow tabs for indentation: use blanks".into())
    } else if let Some((bracket, opened)) = unclosed(text, line) {
        Some(format!("the `{bracket}` in line {opened} may not be closed"))
    } else if info.contains("mapping values are not allowed") {
        Some("check the indentation here and one line above; put quotes around a value that holds `: `".into())
    } else {
        None
    };
    (format!("this is not YAML: {info}"), help)
}

/// The innermost bracket that is open before that line, as far as a look without a parser can tell.
fn unclosed(text: &str, before: u32) -> Option<(char, usize)> {
    let mut open = Vec::new();
    for (i, line) in text.lines().enumerate().take((before as usize).saturating_sub(1)) {
        let (mut quote, mut last) = (None, ' ');
        for c in line.chars() {
            match (quote, c) {
                (None, '#') if last.is_whitespace() => break,
                (None, '"' | '\'') if !last.is_alphanumeric() => quote = Some(c),
                (Some(q), _) if q == c => quote = None,
                (None, '[' | '{') => open.push((c, i + 1)),
                (None, ']' | '}') => drop(open.pop()),
                _ => {}
            }
            last = c;
        }
    }
    open.pop()
}

fn place(span: &Span) -> Place {
    let (line, column) = (span.start.line() as u32, span.start.col() as u32 + 1);
    let end = if span.end.line() == span.start.line() { span.end.col() as u32 + 1 } else { column + 1 };
    Place { line, column, end: end.max(column + 1) }
}

enum Open {
    Seq { place: Place, anchor: usize, items: Vec<Id> },
    Map { place: Place, anchor: usize, entries: Vec<(Id, Id)>, merges: Vec<Id>, key: Option<Id> },
}

struct Builder<'n> {
    tree: Tree,
    open: Vec<Open>,
    anchors: HashMap<usize, Id>,
    /// Nodes so far, aliases expanded.
    total: usize,
    notes: &'n mut Notes,
}

impl Builder<'_> {
    /// Takes one event; `None`: the text is refused.
    fn take(&mut self, event: Event<'_>, span: &Span) -> Option<()> {
        let at = place(span);
        let tag = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, _, tag) | Event::MappingStart(_, _, tag) => tag,
            _ => &None,
        };
        if tag.is_some() {
            self.notes.error(at, "tags (`!…`) have no meaning here; leave it out");
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = if style == ScalarStyle::Plain { plain(&text) } else { Value::Str };
                let node =
                    Node { place: at, value, text: text.into_owned(), raw: None, key: None, weight: 1, height: 1 };
                self.add(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.enter(Open::Seq { place: at, anchor, items: Vec::new() }),
            Event::MappingStart(_, anchor, _) => {
                self.enter(Open::Map { place: at, anchor, entries: Vec::new(), merges: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            Event::Alias(anchor) => {
                let Some(&target) = self.anchors.get(&anchor) else {
                    self.notes.error(at, "this alias refers to something that it is itself a part of");
                    return None;
                };
                self.total = self.total.saturating_add(self.tree.node(target).weight);
                if self.total > NODE_LIMIT || self.open.len() + self.tree.node(target).height > DEPTH_LIMIT {
                    self.notes.error(at, "the aliases of this file expand to too much");
                    return None;
                }
                self.place_node(target, at)
            }
            _ => Some(()),
        }
    }

    fn enter(&mut self, open: Open) -> Option<()> {
        let (Open::Seq { place, .. } | Open::Map { place, .. }) = open;
        if self.open.len() >= DEPTH_LIMIT {
            self.notes.error(place, format!("this is nested more than {DEPTH_LIMIT} levels deep"));
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn leave(&mut self) -> Option<()> {
        let (place, anchor, value) = match self.open.pop()? {
            Open::Seq { place, anchor, items } => (place, anchor, Value::Seq(items)),
            Open::Map { place, anchor, mut entries, merges, .. } => {
                for from in merges {
                    for &(key, value) in self.tree.entries(from) {
                        let text = &self.tree.node(key).text;
                        if !entries.iter().any(|(k, _)| self.tree.node(*k).text == *text) {
                            entries.push((key, value));
                        }
                    }
                }
                (place, anchor, Value::Map(entries))
            }
        };
        let children: Vec<Id> = match &value {
            Value::Seq(items) => items.clone(),
            Value::Map(entries) => entries.iter().flat_map(|(k, v)| [*k, *v]).collect(),
            _ => Vec::new(),
        };
        let weight = children.iter().fold(1usize, |sum, c| sum.saturating_add(self.tree.node(*c).weight));
        let height = 1 + children.iter().map(|c| self.tree.node(*c).height).max().unwrap_or(0);
        self.add(Node { place, value, text: String::new(), raw: None, key: None, weight, height }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Option<()> {
        let at = node.place;
        self.total += 1;
        if self.total > NODE_LIMIT {
            self.notes.error(at, format!("the file holds more than {NODE_LIMIT} values"));
            return None;
        }
        let id = self.tree.push(node);
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        self.place_node(id, at)
    }

    /// Puts a finished node (or an alias of one, standing at `at`) where it belongs.
    fn place_node(&mut self, id: Id, at: Place) -> Option<()> {
        match self.open.last_mut() {
            None => self.tree.root = Some(id),
            Some(Open::Seq { items, .. }) => items.push(id),
            Some(Open::Map { key: slot @ None, .. }) => {
                if matches!(self.tree.node(id).value, Value::Seq(_) | Value::Map(_)) {
                    self.notes.error(at, "a key must be a word, not a list or a map");
                    return None;
                }
                *slot = Some(id);
            }
            Some(Open::Map { key: slot, entries, merges, .. }) => {
                let Some(key) = slot.take() else { return Some(()) };
                let text = self.tree.node(key).text.clone();
                if text == "<<" {
                    match &self.tree.node(id).value {
                        Value::Map(_) => merges.push(id),
                        Value::Seq(list) if list.iter().all(|i| matches!(self.tree.node(*i).value, Value::Map(_))) => {
                            merges.extend(list);
                        }
                        _ => self.notes.error(at, "`<<` merges maps, and this is none"),
                    }
                    return Some(());
                }
                if let Some((first, _)) = entries.iter().find(|(k, _)| self.tree.node(*k).text == text) {
                    let line = self.tree.place(*first).line;
                    self.notes.error_help(
                        self.tree.place(key),
                        format!("`{text}` stands here twice"),
                        format!("the first one is in line {line}: keep one of them"),
                    );
                    return Some(());
                }
                entries.push((key, id));
                self.tree.node_mut(id).key.get_or_insert(key);
            }
        }
        Some(())
    }
}

/// What a plain scalar means, by YAML 1.2's core schema.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, radix).ok());
        if let Some(int) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| text.parse().ok()) {
            return Value::Int(int);
        }
        if digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
            && let Ok(float) = text.parse::<f64>()
            && float.is_finite()
        {
            return Value::Float(float);
        }
    }
    Value::Str
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Severity;

    fn read(text: &str) -> (Option<Tree>, Vec<String>) {
        let mut notes = Notes::new("t", text);
        let tree = parse(text, &mut notes);
        let list = notes.take(Severity::Error);
        (tree, list.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect())
    }

    #[test]
    fn places_are_exact() {
        let (tree, mistakes) = read("a: { b: 12, c: [x, \"y z\"] }\nd: ~\n");
        assert_eq!(mistakes, [""; 0]);
        let tree = tree.unwrap();
        let a = tree.get(tree.root.unwrap(), "a").unwrap();
        let b = tree.get(a, "b").unwrap();
        assert_eq!((tree.place(b), &tree.node(b).value), (Place { line: 1, column: 9, end: 11 }, &Value::Int(12)));
        let Value::Seq(items) = &tree.node(tree.get(a, "c").unwrap()).value else { panic!() };
        assert_eq!(tree.place(items[1]), Place { line: 1, column: 20, end: 25 });
        assert_eq!(tree.head(a), Place { line: 1, column: 1, end: 2 });
    }

    #[test]
    fn aliases_and_merges_work_and_bombs_do_not() {
        let (tree, mistakes) = read("x: &x { p: 1, q: 2 }\ny: { <<: *x, q: 3 }\nz: *x\n");
        assert_eq!(mistakes, [""; 0]);
        let tree = tree.unwrap();
        let y = tree.get(tree.root.unwrap(), "y").unwrap();
        assert_eq!(tree.node(tree.get(y, "p").unwrap()).value, Value::Int(1));
        assert_eq!(tree.node(tree.get(y, "q").unwrap()).value, Value::Int(3));

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb += &format!("a{i}: &a{i} [{list}]\n");
        }
        let mistakes = read(&bomb).1;
        let [only] = mistakes.as_slice() else { panic!("{mistakes:?}") };
        assert!(only.starts_with("6:") && only.ends_with("the aliases of this file expand to too much"), "{only}");
        assert!(read("a: &a [*a]\n").1[0].contains("itself"), "{:?}", read("a: &a [*a]\n").1);
    }

    #[test]
    fn what_is_not_yaml_is_said_with_its_place() {
        assert_eq!(read("a: 1\nb: 2\na: 3\n").1, ["3:1 `a` stands here twice"]);
        assert!(read("a:\n\tb: 1\n").1[0].starts_with("2:"), "{:?}", read("a:\n\tb: 1\n").1);
        assert!(read("a: [1, 2\nb: 3\n").0.is_none());
        assert_eq!(read("").1, ["1:1 the file is empty"]);
        assert!(read("--- a\n--- b\n").1[0].starts_with("2:1 a second document"));
        assert!(read("a: !x 1\n").1[0].contains("tags"));
    }
}
