//! Whether a program needs a loader or a library: its own ELF headers say so.
//!
//! 64 bits, little endian: what the targets of the image are.

use anyhow::{Context, bail};

/// The program header that names a loader.
const PT_INTERP: u32 = 3;
/// The program header of the dynamic section, which a position-independent static program has as well.
const PT_DYNAMIC: u32 = 2;
/// The entry of a library that is needed.
const DT_NEEDED: u64 = 1;

/// Nothing, when the program runs in an empty root.
///
/// # Errors
/// What it needs, or that it is no such program.
pub fn judge(program: &[u8]) -> anyhow::Result<()> {
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("it is no ELF program of 64 bits, little endian");
    }
    let table = number::<8>(program, 32)?;
    let (size, count) = (number::<2>(program, 54)?, number::<2>(program, 56)?);
    for header in (0..count).map(|at| table + at * size) {
        let kind = number::<4>(program, header)? as u32;
        if kind == PT_INTERP {
            bail!("it names a loader");
        }
        if kind == PT_DYNAMIC {
            dynamic(program, number::<8>(program, header + 8)?, number::<8>(program, header + 32)?)?;
        }
    }
    Ok(())
}

fn dynamic(program: &[u8], offset: u64, size: u64) -> anyhow::Result<()> {
    for entry in (offset..offset.saturating_add(size)).step_by(16) {
        if number::<8>(program, entry)? == DT_NEEDED {
            bail!("it needs a library");
        }
    }
    Ok(())
}

/// `N` bytes at an offset.
fn number<const N: usize>(program: &[u8], offset: u64) -> anyhow::Result<u64> {
    let from = usize::try_from(offset).context("the file ends before its headers do")?;
    let bytes = from.checked_add(N).and_then(|to| program.get(from..to));
    let bytes = bytes.context("the file ends before its headers do")?;
    Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with these program headers: kind, offset, size; and what follows them.
    fn program(headers: &[(u32, u64, u64)], rest: &[u64]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = headers.len() as u8;
        for (kind, offset, size) in headers {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            bytes.extend(header);
        }
        bytes.extend(rest.iter().flat_map(|number| number.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_program_without_loader_and_library_is_static() {
        judge(&program(&[(1, 0, 0)], &[])).unwrap();
        judge(&program(&[(1, 0, 0), (PT_DYNAMIC, 176, 32)], &[21, 0, 0, 0])).unwrap();
    }

    #[test]
    fn a_loader_or_a_library_is_found() {
        let said = |program: &[u8]| judge(program).unwrap_err().to_string();
        assert_eq!(said(&program(&[(PT_INTERP, 0, 0)], &[])), "it names a loader");
        assert_eq!(said(&program(&[(PT_DYNAMIC, 120, 32)], &[21, 0, DT_NEEDED, 7])), "it needs a library");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        if cfg!(target_env = "gnu") {
            assert_eq!(said(&own), "it names a loader");
        }
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_is_refused() {
        for bytes in [&b""[..], b"#!/bin/sh", b"\x7fELF\x02\x01", &program(&[(PT_DYNAMIC, 1 << 40, 16)], &[])]
        {
            judge(bytes).unwrap_err();
        }
    }
}
