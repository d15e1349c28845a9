//! Field tables (section 4.2.5.5), with the types that RabbitMQ and its clients write.
//!
//! A table is looked into for a few keys and otherwise passes as bytes.

use crate::reader::Reader;

/// Tables in tables beyond this depth are taken for malformed.
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

    /// Name after name with its value, as far as the table is well-formed.
    pub fn entries(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || {
            let name = reader.short_string()?;
            Some((name, value(&mut reader, 0)?))
        })
    }

    /// True when every entry can be read to the end.
    pub fn is_well_formed(&self) -> bool {
        let mut reader = Reader::new(self.bytes);
        while !reader.rest().is_empty() {
            let entry = reader.short_string().and_then(|_| value(&mut reader, 0));
            match entry {
                None => return false,
                Some(Value::Table(inner)) if !inner.is_well_formed() => return false,
                Some(_) => {}
            }
        }
        true
    }
}

fn value<'a>(reader: &mut Reader<'a>, depth: u8) -> Option<Value<'a>> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match reader.u8()? {
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
        b'A' => {
            let mut items = Reader::new(reader.long_string()?);
            while !items.rest().is_empty() {
                value(&mut items, depth + 1)?;
            }
            Value::Other
        }
        b'V' => Value::Other,
        _ => return None,
    })
}
