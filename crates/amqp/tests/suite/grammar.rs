//! The fields of every method and content header, one letter each, as the XML definition has them.
//!
//! `B` octet, `H` short, `I` long, `Q` long long, `s` short string, `S` long string, `T` table, `b` an octet of bits.

/// Class, method, fields.
pub const METHODS: [(u16, u16, &str); 66] = [
    (10, 10, "BBTSS"),
    (10, 11, "TsSs"),
    (10, 20, "S"),
    (10, 21, "S"),
    (10, 30, "HIH"),
    (10, 31, "HIH"),
    (10, 40, "ssb"),
    (10, 41, "s"),
    (10, 50, "HsHH"),
    (10, 51, ""),
    (10, 60, "s"),
    (10, 61, ""),
    (10, 70, "Ss"),
    (10, 71, ""),
    (20, 10, "s"),
    (20, 11, "S"),
    (20, 20, "b"),
    (20, 21, "b"),
    (20, 40, "HsHH"),
    (20, 41, ""),
    (30, 10, "sb"),
    (30, 11, "H"),
    (40, 10, "HssbT"),
    (40, 11, ""),
    (40, 20, "Hsb"),
    (40, 21, ""),
    (40, 30, "HsssbT"),
    (40, 31, ""),
    (40, 40, "HsssbT"),
    (40, 51, ""),
    (50, 10, "HsbT"),
    (50, 11, "sII"),
    (50, 20, "HsssbT"),
    (50, 21, ""),
    (50, 30, "Hsb"),
    (50, 31, "I"),
    (50, 40, "Hsb"),
    (50, 41, "I"),
    (50, 50, "HsssT"),
    (50, 51, ""),
    (60, 10, "IHb"),
    (60, 11, ""),
    (60, 20, "HssbT"),
    (60, 21, "s"),
    (60, 30, "sb"),
    (60, 31, "s"),
    (60, 40, "Hssb"),
    (60, 50, "Hsss"),
    (60, 60, "sQbss"),
    (60, 70, "Hsb"),
    (60, 71, "QbssI"),
    (60, 72, "s"),
    (60, 80, "Qb"),
    (60, 90, "Qb"),
    (60, 100, "b"),
    (60, 110, "b"),
    (60, 111, ""),
    (60, 120, "Qb"),
    (85, 10, "b"),
    (85, 11, ""),
    (90, 10, ""),
    (90, 11, ""),
    (90, 20, ""),
    (90, 21, ""),
    (90, 30, ""),
    (90, 31, ""),
];

/// The properties of a content, for the flags from the highest bit down.
const PROPERTIES: &str = "ssTBBssssQssss";

/// The fields of a method.
pub fn fields(class: u16, method: u16) -> Option<&'static str> {
    METHODS.iter().find(|(c, m, _)| (*c, *m) == (class, method)).map(|(_, _, fields)| *fields)
}

/// True when the payload is that method from its first to its last byte, with UTF-8 in every short string.
pub fn is_method(payload: &[u8]) -> bool {
    let mut rest = payload;
    let (Some(class), Some(method)) = (number(&mut rest, 2), number(&mut rest, 2)) else { return false };
    match fields(class as u16, method as u16) {
        Some(fields) => fields.chars().all(|field| skip(&mut rest, field)) && rest.is_empty(),
        None => false,
    }
}

/// True when the payload is a content header from its first to its last byte, of whatever class.
pub fn is_content_header(payload: &[u8]) -> bool {
    let mut rest = payload;
    let flags = skip(&mut rest, 'H') && skip(&mut rest, 'H') && skip(&mut rest, 'Q');
    let Some(flags) = number(&mut rest, 2).filter(|_| flags) else { return false };
    let mut properties = PROPERTIES.chars().enumerate().filter(|(at, _)| flags >> (15 - at) & 1 == 1);
    properties.all(|(_, field)| skip(&mut rest, field)) && rest.is_empty()
}

/// Takes one field off `rest`. False: it is not there.
fn skip(rest: &mut &[u8], field: char) -> bool {
    match field {
        'B' | 'b' => number(rest, 1).is_some(),
        'H' => number(rest, 2).is_some(),
        'I' => number(rest, 4).is_some(),
        'Q' => number(rest, 8).is_some(),
        's' => string(rest, 1).is_some_and(|text| std::str::from_utf8(text).is_ok()),
        'S' => string(rest, 4).is_some(),
        'T' => string(rest, 4).is_some_and(|entries| all_values(entries, true)),
        other => panic!("no field {other}"),
    }
}

/// True when `rest` is values to its end, with names or without.
fn all_values(mut rest: &[u8], names: bool) -> bool {
    while !rest.is_empty() {
        if names && !skip(&mut rest, 's') {
            return false;
        }
        let Some((kind, behind)) = rest.split_first() else { return false };
        rest = behind;
        let is = match kind {
            b't' | b'b' | b'B' => skip(&mut rest, 'B'),
            b's' | b'U' | b'u' => skip(&mut rest, 'H'),
            b'I' | b'i' | b'f' => skip(&mut rest, 'I'),
            b'l' | b'L' | b'T' | b'd' => skip(&mut rest, 'Q'),
            b'D' => skip(&mut rest, 'B') && skip(&mut rest, 'I'),
            b'S' | b'x' => skip(&mut rest, 'S'),
            b'F' => skip(&mut rest, 'T'),
            b'A' => string(&mut rest, 4).is_some_and(|items| all_values(items, false)),
            b'V' => true,
            _ => false,
        };
        if !is {
            return false;
        }
    }
    true
}

fn number(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    let (taken, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn string<'a>(rest: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let length = number(rest, length_bytes)?;
    let (taken, behind) = rest.split_at_checked(length as usize)?;
    *rest = behind;
    Some(taken)
}
