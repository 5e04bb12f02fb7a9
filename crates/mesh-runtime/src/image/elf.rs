//! What a program or a library says of itself to the dynamic linker: pure but for the reading.
//!
//! Source: `elf(5)`, and the generic ABI's chapter "Dynamic Linking".

use std::io;
use std::path::PathBuf;

/// What the dynamic linker is told by a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Linked {
    /// The processor, as ELF numbers it.
    pub machine: u16,
    /// The dynamic linker; absent in libraries and in static programs.
    pub interpreter: Option<PathBuf>,
    /// The libraries that it needs itself, by name.
    pub needed: Vec<String>,
    /// Where to look first, for it and for what it needs.
    pub rpath: Vec<String>,
    /// Where to look first, for it alone; with it, `rpath` does not count.
    pub runpath: Vec<String>,
}

/// What is wrong with a file in the ELF format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// It cannot be read, or ends too early.
    #[error("failed to read {what}")]
    Read {
        /// Which part.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part of it is bigger than any that makes sense.
    #[error("{what} has {size} bytes, and at most {most} make sense")]
    Size {
        /// Which part.
        what: &'static str,
        /// How big it claims to be.
        size: u64,
        /// How big it may be.
        most: u64,
    },
    /// An address is in no part that is loaded.
    #[error("{what} is at address {address:#x}, where nothing is loaded")]
    Address {
        /// Which part.
        what: &'static str,
        /// Where it claims to be.
        address: u64,
    },
    /// A name is not text.
    #[error("{what} is no text that ends")]
    Text {
        /// Which part.
        what: &'static str,
    },
}

/// Reads that many bytes at that place of a file.
pub(super) type ReadAt<'a> = dyn FnMut(u64, usize) -> io::Result<Vec<u8>> + 'a;

/// A program header: a part of the file, and where it is loaded.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// What a file says; nothing if it is not of 64 bits and little endian.
pub(super) fn read(read: &mut ReadAt<'_>) -> Result<Option<Linked>, ElfError> {
    let head = match read(0, HEADER) {
        Ok(head) => head,
        // Too short to be one.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(source) => {
            return Err(ElfError::Read {
                what: "the header",
                source,
            });
        }
    };
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    let mut linked = Linked {
        machine: u16_at(&head, 18),
        ..Linked::default()
    };
    let segments = segments(read, &head)?;
    if let Some(segment) = segments.iter().find(|it| it.kind == PT_INTERP) {
        let what = "the name of the dynamic linker";
        let text = part(read, what, segment.offset, segment.size, MOST_NAME)?;
        linked.interpreter = Some(text_of(&text, what)?.into());
    }
    if let Some(segment) = segments.iter().find(|it| it.kind == PT_DYNAMIC) {
        dynamic(read, &segments, segment, &mut linked)?;
    }
    Ok(Some(linked))
}

fn segments(read: &mut ReadAt<'_>, head: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let (offset, size, count) = (u64_at(head, 32), u16_at(head, 54), u16_at(head, 56));
    let what = "the table of program headers";
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(size) != SEGMENT {
        return Err(ElfError::Size {
            what: "a program header",
            size: size.into(),
            most: SEGMENT as u64,
        });
    }
    let table = part(
        read,
        what,
        offset,
        u64::from(size) * u64::from(count),
        u64::MAX,
    )?;
    let segments = table.chunks_exact(SEGMENT).map(|entry| Segment {
        kind: u32_at(entry, 0),
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        size: u64_at(entry, 32),
    });
    Ok(segments.collect())
}

fn dynamic(
    read: &mut ReadAt<'_>,
    segments: &[Segment],
    table: &Segment,
    linked: &mut Linked,
) -> Result<(), ElfError> {
    let what = "the dynamic table";
    let table = part(read, what, table.offset, table.size, MOST_DYNAMIC)?;
    let entries: Vec<_> = table
        .chunks_exact(16)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    let value = |wanted| {
        let entry = entries.iter().find(|(tag, _)| *tag == wanted);
        entry.map(|(_, value)| *value)
    };
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
        return Ok(());
    };
    let what = "the table of names";
    let names = place(segments, address).ok_or(ElfError::Address { what, address })?;
    for (tag, at) in entries {
        if !matches!(tag, DT_NEEDED | DT_RPATH | DT_RUNPATH) {
            continue;
        }
        // As much as there is, since nothing says how long the name is.
        let rest = size.saturating_sub(at).min(MOST_NAME);
        let text = part(read, what, names.saturating_add(at), rest, MOST_NAME)?;
        let text = text_of(&text, "a name of a library")?;
        let paths = || text.split(':').filter(|it| !it.is_empty());
        match tag {
            DT_NEEDED => linked.needed.push(text.clone()),
            DT_RPATH => linked.rpath.extend(paths().map(str::to_owned)),
            _ => linked.runpath.extend(paths().map(str::to_owned)),
        }
    }
    Ok(())
}

/// Where in the file an address is.
fn place(segments: &[Segment], address: u64) -> Option<u64> {
    segments.iter().find_map(|it| {
        let within = address.checked_sub(it.address)?;
        (it.kind == PT_LOAD && within < it.size).then(|| it.offset.saturating_add(within))
    })
}

fn part(
    read: &mut ReadAt<'_>,
    what: &'static str,
    offset: u64,
    size: u64,
    most: u64,
) -> Result<Vec<u8>, ElfError> {
    let fits = usize::try_from(size).ok().filter(|_| size <= most);
    let size = fits.ok_or(ElfError::Size { what, size, most })?;
    read(offset, size).map_err(|source| ElfError::Read { what, source })
}

/// A text up to its NUL.
fn text_of(bytes: &[u8], what: &'static str) -> Result<String, ElfError> {
    let text = std::ffi::CStr::from_bytes_until_nul(bytes).ok();
    let text = text.and_then(|text| text.to_str().ok());
    text.map(str::to_owned).ok_or(ElfError::Text { what })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes_at(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes_at(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes_at(bytes, at).map_or(0, u64::from_le_bytes)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Sizes of the file's header and of a program header, for 64 bits.
const HEADER: usize = 64;
const SEGMENT: usize = 56;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// As long as a path may be (`PATH_MAX`); some search paths are that long.
const MOST_NAME: u64 = 4096;
/// A hundred times of what big programs have.
const MOST_DYNAMIC: u64 = 1 << 20;
