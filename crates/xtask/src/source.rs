//! Rust source as text: comments, strings and code told apart, so that a rule about code is not broken by a
//! sentence about it.
//!
//! A scanner of some sixty lines, not a parser: it knows comments, literals and braces, which is all that the
//! rules ask for.

/// One file in three views of equal shape: every character that is not of a view is a space there, and line
/// breaks are in all of them.
pub struct Source {
    /// Without comments and without the inside of literals.
    pub code: String,
    /// Only comments.
    pub comments: String,
    /// Each string literal.
    pub literals: Vec<Literal>,
    /// The first line of `#[cfg(test)] mod`, from 0, or the number of lines.
    pub tests_from: usize,
}

/// A string literal: what is between its quotes, as it is written.
#[derive(PartialEq, Eq, Debug)]
pub struct Literal {
    /// Where it starts, from 0.
    pub line: usize,
    /// Where its quotes start and end, in characters.
    pub start: usize,
    pub end: usize,
    pub text: String,
}

/// A function: where it starts, from 0, and how many lines it has, signature included.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum View {
    Code,
    Comment,
    Literal,
}

impl Source {
    /// Tells the views apart.
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut source =
            Self { code: String::new(), comments: String::new(), literals: Vec::new(), tests_from: 0 };
        let mut at = 0;
        let mut line = 0;
        while at < chars.len() {
            let (view, end) = token(&chars, at);
            if view == View::Literal && chars[at] != '\'' {
                let literal: String = chars[at..end].iter().collect();
                let inside = literal.split_once('"').map_or("", |(_, rest)| rest);
                let text = inside.trim_end_matches('#');
                let text = text.strip_suffix('"').unwrap_or(text).to_owned();
                source.literals.push(Literal { line, start: at, end, text });
            }
            for &c in &chars[at..end] {
                let blank = if c == '\n' { '\n' } else { ' ' };
                source.code.push(if view == View::Code { c } else { blank });
                source.comments.push(if view == View::Comment { c } else { blank });
                line += usize::from(c == '\n');
            }
            at = end;
        }
        source.tests_from = tests_from(&source.code);
        source
    }

    /// Lines of code that is not `#[cfg(test)]`, with their number from 0.
    pub fn core_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().take(self.tests_from)
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let before = self.code[..at].chars().next_back();
            let rest = &self.code[at + 3..];
            let name: String = rest.trim_start().chars().take_while(|c| is_word(*c)).collect();
            if before.is_some_and(is_word) || name.is_empty() {
                continue;
            }
            if let Some(length) = body_end(rest) {
                let line = self.code[..at].matches('\n').count();
                functions.push(Function { name, line, lines: rest[..length].matches('\n').count() + 1 });
            }
        }
        functions
    }
}

/// Letters, digits and `_`.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` occurs in `code` with no letter, digit or `_` beside it.
pub fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let open = |side: Option<char>| !side.is_some_and(is_word);
        open(before) && (open(after) || !word.ends_with(is_word))
    })
}

/// What starts at `at`, and where it ends.
fn token(chars: &[char], at: usize) -> (View, usize) {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let after_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == '/' => (View::Comment, find(chars, at, |i| chars[i] == '\n')),
        '/' if next(1) == '*' => (View::Comment, block_comment_end(chars, at)),
        '"' => (View::Literal, string_end(chars, at + 1)),
        'b' | 'c' if !after_word && next(1) == '"' => (View::Literal, string_end(chars, at + 2)),
        'b' | 'c' | 'r' if !after_word => match raw_string_end(chars, at) {
            Some(end) => (View::Literal, end),
            None => (View::Code, at + 1),
        },
        '\'' if next(1) == '\\' => (View::Literal, find(chars, at + 3, |i| chars[i] == '\'') + 1),
        '\'' if next(2) == '\'' => (View::Literal, at + 3),
        _ => (View::Code, at + 1),
    }
}

fn find(chars: &[char], from: usize, test: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| test(i)).unwrap_or(chars.len().saturating_sub(1))
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// `r"..."`, `br#"..."#`; `None` for anything else, such as the raw identifier `r#type`.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let r = if chars[at] == 'r' { at } else { at + 1 };
    let hashes = chars[r..].iter().skip(1).take_while(|c| **c == '#').count();
    if chars.get(r) != Some(&'r') || chars.get(r + 1 + hashes) != Some(&'"') {
        return None;
    }
    let ends = |i: usize| chars[i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    let end = (r + 2 + hashes..chars.len()).find(|&i| ends(i));
    Some(end.map_or(chars.len(), |i| i + 1 + hashes))
}

/// Offset after the body's closing brace; `None` for a declaration that ends in `;` or for a function type.
fn body_end(rest: &str) -> Option<usize> {
    let (mut depth, mut brackets, mut opened) = (0_i32, 0_i32, false);
    for (at, c) in rest.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => (depth, opened) = (depth + 1, true),
            '}' => depth -= 1,
            _ => {}
        }
        if opened && depth == 0 {
            return Some(at + 1);
        }
        if depth < 0 || brackets < 0 {
            return None;
        }
    }
    None
}

fn tests_from(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let is_tests = |at: usize| {
        lines[at].starts_with("#[cfg(test)]")
            && lines[at + 1..].iter().find(|l| !l.starts_with("#[")).is_some_and(|l| {
                let l = l.strip_prefix("pub(crate) ").unwrap_or(l);
                l.starts_with("mod ") && l.ends_with('{')
            })
    };
    (0..lines.len()).find(|&at| is_tests(at)).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "let a = \"fn x() { // no\"; // fn y\n/* { /* nested */ } */ let c = '{'; let d: &'a str = r#\"\"}\"#;";
        let source = Source::new(text);
        assert!(!source.code.contains(['{', '}']) && source.code.contains("&'a str"), "{}", source.code);
        assert_eq!(source.code.len(), text.len());
        assert!(source.comments.contains("// fn y") && source.comments.contains("nested"));
        let literal = Literal { line: 0, start: 8, end: 24, text: "fn x() { // no".into() };
        assert_eq!(source.literals[0], literal);
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let text = "fn one() {}\ntrait T { fn declared(a: [u8; 2]); }\nfn\n two(\n) {\n  if x { y }\n}\n";
        let found = Source::new(text).functions();
        assert_eq!(found[0], Function { name: "one".into(), line: 0, lines: 1 });
        assert_eq!(found.len(), 1, "a line break after fn is not how rustfmt writes: {found:?}");
        let long = format!("impl A {{\n    pub fn long() {{\n{}    }}\n}}\n", "        x();\n".repeat(80));
        assert_eq!(Source::new(&long).functions()[0], Function { name: "long".into(), line: 1, lines: 82 });
    }

    #[test]
    fn the_tests_module_ends_the_core() {
        let source = Source::new("a();\n#[cfg(test)]\nuse b;\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}\n");
        assert_eq!(source.tests_from, 3);
        assert_eq!(source.core_lines().count(), 3);
    }

    #[test]
    fn words_are_found_whole() {
        assert!(has_word("let x: HashMap<A>", "HashMap") && !has_word("MyHashMap", "HashMap"));
        assert!(has_word("thread::sleep(x)", "sleep(") && !has_word("no_sleep(x)", "sleep("));
    }

    #[test]
    fn every_file_of_this_crate_keeps_its_shape() {
        for text in [include_str!("source.rs"), include_str!("tidy.rs"), include_str!("purity.rs")] {
            let source = Source::new(text);
            assert_eq!(source.code.lines().count(), text.lines().count());
            assert!(source.code.matches('{').count() == source.code.matches('}').count());
        }
    }
}
