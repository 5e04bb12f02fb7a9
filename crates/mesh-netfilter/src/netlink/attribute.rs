//! Netlink attributes: type, length and value, padded to four bytes, nested.

/// Attributes being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

/// Bytes of length and kind.
const HEADER: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

// === impl Attributes ===

impl Attributes {
    /// Continues after what is in `buffer`.
    pub(crate) fn append_to(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins again, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.header(kind, value.len());
        self.0.extend_from_slice(value);
        self.pad(value.len());
    }

    /// A value in three parts.
    pub(crate) fn parts(&mut self, kind: u16, parts: [&[u8]; 3]) {
        let length = parts.iter().map(|part| part.len()).sum();
        self.header(kind, length);
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.pad(length);
    }

    /// Attributes that are written already.
    #[cfg(feature = "apply")]
    pub(crate) fn raw(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
    }

    /// A number in network byte order, as netfilter has them.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number in the byte order of this machine, as rtnetlink has them.
    #[cfg(feature = "apply")]
    pub(crate) fn host_number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A string with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.header(kind, value.len() + 1);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.pad(value.len() + 1);
    }

    /// Attributes in an attribute: how long they are is known when they are written.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.header(kind | NESTED, 0);
        content(self);
        let length = whole_length(self.0.len() - start - HEADER);
        if let Some(field) = self.0.get_mut(start..start + 2) {
            field.copy_from_slice(&length);
        }
        self.pad(self.0.len() - start);
    }

    /// What stands before a value of `length` bytes.
    fn header(&mut self, kind: u16, length: usize) {
        let [l0, l1] = whole_length(length);
        let [k0, k1] = kind.to_ne_bytes();
        self.0.extend_from_slice(&[l0, l1, k0, k1]);
    }

    /// What stands behind a value of `length` bytes.
    fn pad(&mut self, length: usize) {
        const ZEROES: [u8; 3] = [0; 3];
        let zeroes = length.next_multiple_of(4) - length;
        self.0
            .extend_from_slice(ZEROES.get(..zeroes).unwrap_or_default());
    }
}

/// The length of an attribute with a value of `length` bytes, as it is written.
fn whole_length(length: usize) -> [u8; 2] {
    let length = HEADER + length;
    // Who writes lists of unbounded length cuts them; see `batch::ELEMENTS_PER_MESSAGE`.
    debug_assert!(u16::try_from(length).is_ok(), "attribute of {length} bytes");
    u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes()
}

/// An attribute being read.
#[cfg(feature = "apply")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// The attributes in `bytes`; reading stops where they are malformed.
#[cfg(feature = "apply")]
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute {
            kind: u16::from_ne_bytes([k0, k1]) & 0x3fff,
            value,
        })
    })
}

#[cfg(feature = "apply")]
impl Attribute<'_> {
    /// A number in network byte order.
    pub(crate) fn number(&self) -> Option<u32> {
        self.value.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// A number in the byte order of this machine.
    pub(crate) fn host_number(&self) -> Option<u32> {
        self.value.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// A string, without its terminating zero.
    pub(crate) fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0);
        let text = end.and_then(|end| self.value.get(..end));
        String::from_utf8_lossy(text.unwrap_or(self.value)).into_owned()
    }
}

#[cfg(all(test, feature = "apply"))]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut written = Attributes::default();
        written.text(1, "abc");
        written.text(2, "abcd");
        written.nested(3, |inner| inner.number(1, 7));
        let bytes = written.into_bytes();
        assert_eq!(bytes.len(), 8 + 12 + 12);
        let read: Vec<Attribute<'_>> = attributes(&bytes).collect();
        assert_eq!(read[0].text(), "abc");
        assert_eq!(read[1].text(), "abcd");
        assert_eq!(read[2].kind, 3);
        assert_eq!(attributes(read[2].value).next().unwrap().number(), Some(7));
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        assert_eq!(attributes(&[]).count(), 0);
        assert_eq!(attributes(&[4, 0, 1]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
