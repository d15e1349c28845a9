//! Field tables (section 4.2.5.5), with the types that RabbitMQ and its clients write.
//!
//! A table is looked into for a few keys and otherwise passes as bytes.

use crate::reader::Reader;

/// Tables and arrays within one another beyond this depth are taken for malformed.
const DEPTH_MAX: u8 = 16;

/// A field table's entries as they stand on the wire, without the length in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Table<'a> {
    bytes: &'a [u8],
}

/// A value, as far as anybody here asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A boolean.
    Bool(bool),
    /// Any integer, a timestamp included.
    Int(i64),
    /// A long string or bytes.
    Bytes(&'a [u8]),
    /// A nested table.
    Table(Table<'a>),
    /// Anything else: floats, decimals, arrays, void.
    Other,
}

impl<'a> Table<'a> {
    /// Over the entries `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The entries as they stand.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The first value under `key`. `None`: there is none, or the table is malformed before it.
    pub fn find(&self, key: &str) -> Option<Value<'a>> {
        self.entries().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// Name after name with its value, as far as the table is well-formed. Looks into nothing that is nested.
    pub fn entries(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || {
            let name = reader.short_string()?;
            Some((name, field(&mut reader)?.value()))
        })
    }

    /// True when every entry can be read to the end, those of nested tables and arrays as well, and none is deeper than
    /// 16 levels. Work is in proportion to the bytes.
    pub fn is_well_formed(&self) -> bool {
        is_well_formed(self.bytes, Names::Yes, 0)
    }
}

/// Whether each value has a name in front: in a table yes, in an array no.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Yes,
    No,
}

fn is_well_formed(bytes: &[u8], names: Names, depth: u8) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    let mut reader = Reader::new(bytes);
    while !reader.rest().is_empty() {
        if names == Names::Yes && reader.short_string().is_none() {
            return false;
        }
        let inner_is = match field(&mut reader) {
            None => false,
            Some(Field::Plain(Value::Table(table))) => is_well_formed(table.bytes, Names::Yes, depth + 1),
            Some(Field::Array(items)) => is_well_formed(items, Names::No, depth + 1),
            Some(Field::Plain(_)) => true,
        };
        if !inner_is {
            return false;
        }
    }
    true
}

/// What stands behind a name.
enum Field<'a> {
    Plain(Value<'a>),
    /// The items of an array.
    Array(&'a [u8]),
}

impl<'a> Field<'a> {
    const fn value(self) -> Value<'a> {
        match self {
            Self::Plain(value) => value,
            Self::Array(_) => Value::Other,
        }
    }
}

fn field<'a>(reader: &mut Reader<'a>) -> Option<Field<'a>> {
    Some(Field::Plain(match reader.u8()? {
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::Int(i64::from(reader.u8()?.cast_signed())),
        b'B' => Value::Int(i64::from(reader.u8()?)),
        b's' | b'U' => Value::Int(i64::from(reader.u16()?.cast_signed())),
        b'u' => Value::Int(i64::from(reader.u16()?)),
        b'I' => Value::Int(i64::from(reader.u32()?.cast_signed())),
        b'i' => Value::Int(i64::from(reader.u32()?)),
        b'l' | b'L' | b'T' => Value::Int(reader.u64()?.cast_signed()),
        b'f' => reader.take(4).map(|_| Value::Other)?,
        b'd' => reader.take(8).map(|_| Value::Other)?,
        b'D' => reader.take(5).map(|_| Value::Other)?,
        b'S' | b'x' => Value::Bytes(reader.long_string()?),
        b'F' => Value::Table(reader.table()?),
        b'A' => return reader.long_string().map(Field::Array),
        b'V' => Value::Other,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        [&[name.len() as u8], name.as_bytes(), &[kind], value].concat()
    }

    /// `depth` tables (or arrays) in one another.
    fn nested(kind: u8, depth: usize) -> Vec<u8> {
        (0..depth).fold(Vec::new(), |inner, _| match kind {
            b'F' => entry("", kind, &long(&inner)),
            _ => [&[kind], &*long(&inner)].concat(),
        })
    }

    #[test]
    fn every_type_is_read_with_its_sign_and_passed_over_at_its_length() {
        let longest = [0xFF; 8];
        let cases: [(u8, &[u8], Value<'_>); 18] = [
            (b't', &[0], Value::Bool(false)),
            (b't', &[2], Value::Bool(true)),
            (b'b', &[0xFF], Value::Int(-1)),
            (b'B', &[0xFF], Value::Int(255)),
            (b's', &[0xFF, 0xFE], Value::Int(-2)),
            (b'U', &[0xFF, 0xFE], Value::Int(-2)),
            (b'u', &[0xFF, 0xFE], Value::Int(0xFFFE)),
            (b'I', &[0xFF; 4], Value::Int(-1)),
            (b'i', &[0xFF; 4], Value::Int(0xFFFF_FFFF)),
            (b'l', &longest, Value::Int(-1)),
            (b'L', &longest, Value::Int(-1)),
            (b'T', &[0, 0, 0, 0, 0, 0, 1, 0], Value::Int(256)),
            (b'f', &[0; 4], Value::Other),
            (b'd', &[0; 8], Value::Other),
            (b'D', &[0; 5], Value::Other),
            (b'S', &[0, 0, 0, 2, b'h', b'i'], Value::Bytes(b"hi")),
            (b'x', &[0, 0, 0, 1, 0], Value::Bytes(&[0])),
            (b'V', &[], Value::Other),
        ];
        for (kind, bytes, value) in cases {
            let whole = [entry("k", kind, bytes), entry("next", b'B', &[7])].concat();
            let table = Table::new(&whole);
            assert_eq!((table.find("k"), table.find("next")), (Some(value), Some(Value::Int(7))), "{kind}");
            assert!(table.is_well_formed());
            let cut = &whole[..2 + 1 + bytes.len()];
            for len in 1..cut.len() {
                assert!(!Table::new(&cut[..len]).is_well_formed(), "{kind} cut at {len}");
            }
        }
    }

    #[test]
    fn the_first_of_two_equal_names_counts_as_it_does_for_the_broker() {
        let bytes = [entry("a", b'B', &[1]), entry("a", b'B', &[2])].concat();
        assert_eq!(Table::new(&bytes).find("a"), Some(Value::Int(1)));
    }

    #[test]
    fn what_stands_behind_a_malformed_entry_is_not_found() {
        let bytes = [entry("a", b'B', &[1]), entry("b", b'?', &[]), entry("c", b'B', &[3])].concat();
        let table = Table::new(&bytes);
        assert_eq!((table.find("a"), table.find("c")), (Some(Value::Int(1)), None));
        assert!(!table.is_well_formed());
    }

    #[test]
    fn nesting_is_legal_to_its_limit_and_malformed_beyond() {
        for kind in [b'F', b'A'] {
            for (depth, is) in [(15, true), (16, true), (17, false)] {
                let inner = nested(kind, depth - 1);
                let bytes = entry("k", kind, &long(&inner));
                assert_eq!(Table::new(&bytes).is_well_formed(), is, "{kind} {depth}");
            }
        }
    }

    #[test]
    fn a_table_in_an_array_is_looked_into_as_well() {
        let bad = [b"F", &*long(&entry("x", b'?', &[]))].concat();
        assert!(!Table::new(&entry("k", b'A', &long(&bad))).is_well_formed());
        assert!(Table::new(&entry("k", b'A', &long(&nested(b'F', 1)[1..]))).is_well_formed());
    }

    #[test]
    fn a_hundred_thousand_levels_take_neither_stack_nor_time() {
        // One level is a type and a length, and the whole is written from the outside: building it inside out is quadratic.
        let levels = 100_000u32;
        let mut bytes = entry("k", b'A', &(levels * 5).to_be_bytes());
        for level in (0..levels).rev() {
            bytes.push(b'A');
            bytes.extend_from_slice(&(level * 5).to_be_bytes());
        }
        let table = Table::new(&bytes);
        assert_eq!(table.find("k"), Some(Value::Other));
        assert!(!table.is_well_formed());
        let thread = std::thread::Builder::new().stack_size(128 * 1024);
        let judged = thread.spawn(move || Table::new(&bytes).is_well_formed()).expect("a thread").join();
        assert!(!judged.expect("no overflow"));
    }

    #[test]
    fn an_empty_table_is_well_formed_and_has_nothing() {
        assert!(Table::default().is_well_formed());
        assert_eq!(Table::default().find(""), None);
    }
}
