//! YAML text to trees, one per document.
//!
//! An event parser rather than serde, because every key and value must know its line, duplicates must be found, and a
//! broken document must not take its neighbours with it. Scalars follow YAML 1.2's core schema (`yes` and `on` are
//! texts). Merge keys (`<<`) work. Aliases are copied under a budget, so that a "billion laughs" ends at once.

use super::{Data, Entry, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Place};
use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Span, StrInput};
use serde_json::Number;
use std::collections::HashMap;

/// What went wrong in a text, before any object is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Not YAML, or over a limit: the document is lost.
    Broken {
        /// Where.
        place: Place,
        /// What.
        message: String,
    },
    /// A key written twice; the document goes on with the first.
    Duplicate {
        /// Where the second is.
        place: Place,
        /// The key with the path to it.
        field: String,
        /// Line of the first.
        first: u32,
    },
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its tree; `None` when it is broken.
    pub root: Option<Node>,
    /// What was found while reading.
    pub problems: Vec<Problem>,
}

/// Reads all documents of a text. Empty documents (comments only) are left out.
#[must_use]
pub fn read(bytes: &[u8]) -> Vec<Document> {
    let broken = |place, message: String| {
        vec![Document {
            root: None,
            problems: vec![Problem::Broken { place, message }],
        }]
    };
    if bytes.len() > MAX_BYTES {
        return broken(
            Place::default(),
            format!("{} bytes: at most {MAX_BYTES} are read", bytes.len()),
        );
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let head = &bytes[..error.valid_up_to()];
            let lines = head.iter().filter(|byte| **byte == b'\n').count();
            let place = Place {
                line: small(lines + 1),
                column: 0,
            };
            return broken(place, "not UTF-8 text".to_owned());
        }
    };
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        problems: Vec::new(),
    };
    let mut documents = Vec::new();
    loop {
        match reader.next_document() {
            Ok(None) => return documents,
            Ok(Some(root)) => {
                let problems = std::mem::take(&mut reader.problems);
                if root.data != Data::Null || !problems.is_empty() {
                    documents.push(Document {
                        root: Some(root),
                        problems,
                    });
                }
            }
            Err((place, message)) => {
                let mut problems = std::mem::take(&mut reader.problems);
                problems.push(Problem::Broken { place, message });
                documents.push(Document {
                    root: None,
                    problems,
                });
                if !matches!(reader.parser.proceed_next_document(), Ok(true)) {
                    return documents;
                }
            }
        }
    }
}

type Failed = (Place, String);

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    problems: Vec<Problem>,
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn place_of(marker: &Marker) -> Place {
    Place {
        line: small(marker.line()),
        column: small(marker.col().saturating_add(1)),
    }
}

impl<'t> Reader<'t> {
    fn event(&mut self) -> Result<Option<(Event<'t>, Span)>, Failed> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => Err((place_of(error.marker()), error.info())),
        }
    }

    fn next_document(&mut self) -> Result<Option<Node>, Failed> {
        self.anchors.clear();
        self.nodes = 0;
        loop {
            match self.event()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        let mut root = Node::bare(Data::Null);
        loop {
            match self.event()? {
                None | Some((Event::DocumentEnd, _)) => return Ok(Some(root)),
                Some((event, span)) => root = self.node(event, span, 0, "")?,
            }
        }
    }

    fn count(&mut self, more: usize, place: Place) -> Result<(), Failed> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err((
                place,
                format!("more than {MAX_NODES} values, aliases included"),
            ));
        }
        Ok(())
    }

    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        depth: usize,
        path: &str,
    ) -> Result<Node, Failed> {
        let place = place_of(&span.start);
        if depth > MAX_DEPTH {
            return Err((place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, place)?;
        let before = self.nodes;
        let (data, anchor) = match event {
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err((place, "alias to itself or to something unknown".to_owned()));
                };
                self.count(size, place)?;
                if depth + height(&node) > MAX_DEPTH {
                    return Err((place, format!("nested deeper than {MAX_DEPTH} levels")));
                }
                // The place of use, not of definition: that is the line a person has to change.
                return Ok(Node {
                    data: node.data,
                    place,
                });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag
                    .as_ref()
                    .is_some_and(|tag| tag.core_suffix() == Some("str"));
                let data = if style == ScalarStyle::Plain && !is_text {
                    plain(&text)
                } else {
                    Data::Text(text.into_owned())
                };
                (data, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.list(depth, path)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(depth, path)?, anchor),
            _ => return Err((place, "unexpected end".to_owned())),
        };
        let node = Node { data, place };
        if anchor != 0 {
            self.anchors
                .insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize, path: &str) -> Result<Data, Failed> {
        let mut items = Vec::new();
        loop {
            match self.event()? {
                None => return Err((Place::default(), "the list does not end".to_owned())),
                Some((Event::SequenceEnd, _)) => return Ok(Data::List(items)),
                Some((event, span)) => {
                    let path = format!("{path}[{}]", items.len());
                    items.push(self.node(event, span, depth + 1, &path)?);
                }
            }
        }
    }

    fn map(&mut self, depth: usize, path: &str) -> Result<Data, Failed> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = match self.event()? {
                None => return Err((Place::default(), "the map does not end".to_owned())),
                Some((Event::MappingEnd, _)) => break,
                Some(found) => found,
            };
            let plain_key = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let key_node = self.node(event, span, depth + 1, path)?;
            let place = key_node.place;
            let Some(key) = key_text(&key_node) else {
                return Err((place, "a key must be a text".to_owned()));
            };
            let field = join(path, &key);
            let Some((event, span)) = self.event()? else {
                return Err((place, format!("{field} has no value")));
            };
            let value = self.node(event, span, depth + 1, &field)?;
            if key == "<<" && plain_key {
                merge(&mut merged, value)?;
            } else if let Some(first) = seen.get(&key) {
                self.problems.push(Problem::Duplicate {
                    place,
                    field,
                    first: *first,
                });
            } else {
                seen.insert(key.clone(), place.line);
                entries.push(Entry { key, place, value });
            }
        }
        for entry in merged {
            if !seen.contains_key(&entry.key) {
                seen.insert(entry.key.clone(), entry.place.line);
                entries.push(entry);
            }
        }
        Ok(Data::Map(entries))
    }
}

fn height(node: &Node) -> usize {
    match &node.data {
        Data::List(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        Data::Map(entries) => {
            1 + entries
                .iter()
                .map(|entry| height(&entry.value))
                .max()
                .unwrap_or(0)
        }
        _ => 0,
    }
}

fn key_text(node: &Node) -> Option<String> {
    match &node.data {
        Data::Text(text) => Some(text.clone()),
        Data::Bool(value) => Some(value.to_string()),
        Data::Number(value) => Some(value.to_string()),
        Data::Null | Data::List(_) | Data::Map(_) => None,
    }
}

fn merge(into: &mut Vec<Entry>, value: Node) -> Result<(), Failed> {
    let place = value.place;
    match value.data {
        Data::Map(entries) => {
            into.extend(entries);
            Ok(())
        }
        Data::List(items) => items.into_iter().try_for_each(|item| {
            if matches!(item.data, Data::Map(_)) {
                merge(into, item)
            } else {
                Err((place, "<< wants a map".to_owned()))
            }
        }),
        _ => Err((place, "<< wants a map or a list of maps".to_owned())),
    }
}

/// Appends a field name to a path; names with other characters than letters, digits, `-`, `_` are quoted.
pub(crate) fn join(path: &str, key: &str) -> String {
    let simple = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match (path.is_empty(), simple) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

/// A plain scalar by YAML 1.2's core schema.
fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        _ => {}
    }
    if let Some(number) = number(text) {
        Data::Number(number)
    } else {
        Data::Text(text.to_owned())
    }
}

fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().map(Number::from);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Number::from);
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return text
            .strip_prefix('+')
            .unwrap_or(text)
            .parse::<i64>()
            .ok()
            .map(Number::from)
            .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64));
    }
    let float = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if float {
        text.parse::<f64>().ok().and_then(Number::from_f64)
    } else {
        None
    }
}
