//! The file once more, as bare structure: where each key and value stands, so that a complaint can point at it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Any YAML value, without meaning.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A scalar, as text; `None` when nothing is written.
    Leaf(Option<String>),
    /// In the file's order.
    List(Vec<Spanned<Node>>),
    /// In the file's order.
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

/// Line and column, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl From<serde_saphyr::Location> for Place {
    fn from(at: serde_saphyr::Location) -> Self {
        Self { line: at.line(), column: at.column() }
    }
}

/// One step down the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// From the root to a value: `pools.chat.endpoints[2].address`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Path(Vec<Step>);

impl Path {
    pub(crate) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.into()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// The names and places of its steps, from the root: a key, or `None` for an entry of a list.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }

    pub(crate) fn parent(mut self) -> Self {
        self.0.pop();
        self
    }

    fn with(&self, step: Step) -> Self {
        let mut longer = self.clone();
        longer.0.push(step);
        longer
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The root of a file.
#[derive(Clone, Debug)]
pub(crate) struct Tree(Spanned<Node>);

impl Tree {
    /// # Errors
    /// When the text is not YAML at all.
    pub(crate) fn read(text: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(text).map(Self)
    }

    /// Where `path` stands; where its nearest written ancestor stands when it is not written.
    pub(crate) fn place(&self, path: &Path) -> Place {
        let (mut at, mut node) = (Place { line: 1, column: 1 }, &self.0);
        for step in &path.0 {
            let next = match (&node.value, step) {
                (Node::List(items), Step::Index(index)) => {
                    items.get(*index).map(|item| (item.referenced, item))
                }
                (Node::Map(entries), Step::Key(key)) => {
                    entries.iter().find(|(k, _)| k.value == *key).map(|(k, value)| (k.referenced, value))
                }
                (Node::Leaf(_) | Node::List(_) | Node::Map(_), _) => None,
            };
            let Some((location, value)) = next else { break };
            (at, node) = (location.into(), value);
        }
        at
    }

    /// True when the file itself has this key.
    pub(crate) fn is_written(&self, path: &Path) -> bool {
        let mut node = &self.0.value;
        path.0.iter().all(|step| {
            let next = match (node, step) {
                (Node::List(items), Step::Index(index)) => items.get(*index),
                (Node::Map(entries), Step::Key(key)) => {
                    entries.iter().find(|(k, _)| k.value == *key).map(|(_, value)| value)
                }
                (Node::Leaf(_) | Node::List(_) | Node::Map(_), _) => None,
            };
            next.is_some_and(|next| {
                node = &next.value;
                true
            })
        })
    }

    /// The deepest key or value that begins at `place`. The root when nothing does.
    pub(crate) fn at(&self, place: Place) -> Found<'_> {
        let mut found = Found { path: Path::default(), node: &self.0.value, by_key: false };
        descend(&self.0, &Path::default(), place, &mut found);
        found
    }
}

/// What stands at a place.
pub(crate) struct Found<'a> {
    pub(crate) path: Path,
    pub(crate) node: &'a Node,
    /// The place is where its key begins, not its value.
    pub(crate) by_key: bool,
}

fn descend<'a>(node: &'a Spanned<Node>, path: &Path, place: Place, found: &mut Found<'a>) {
    let mut visit = |path: Path, key: Option<Place>, value: &'a Spanned<Node>| {
        let by_key = key == Some(place);
        if by_key || Place::from(value.referenced) == place {
            *found = Found { path: path.clone(), node: &value.value, by_key };
        }
        descend(value, &path, place, found);
    };
    match &node.value {
        Node::Leaf(_) => {}
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(path.index(index), None, item);
            }
        }
        Node::Map(entries) => {
            for (key, value) in entries {
                visit(path.key(&key.value), Some(key.referenced.into()), value);
            }
        }
    }
}

impl Node {
    /// What it is, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Leaf(None) => "nothing".into(),
            Self::Leaf(Some(text)) => format!("`{text}`"),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Map(entries) => format!("a mapping with {} keys", entries.len()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn leaf<E>(value: impl ToString) -> Result<Node, E> {
        Ok(Node::Leaf(Some(value.to_string())))
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Self::leaf(value)
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Node, E> {
        Self::leaf(format!("{} bytes", value.len()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(None))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        Node::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
