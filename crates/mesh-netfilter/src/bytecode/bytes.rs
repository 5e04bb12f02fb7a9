//! Bytes of keys and constants: short ones without a place of their own in memory.

use std::fmt;
use std::ops::Deref;

/// A constant of a rule, or the key of an element.
///
/// None of ours is longer than an IPv6 address, and a list may have tens of thousands; what is
/// read from the kernel may be longer.
#[derive(Clone)]
pub(crate) struct Bytes(Place);

#[derive(Clone)]
enum Place {
    Here([u8; HERE], u8),
    Heap(Box<[u8]>),
}

const HERE: usize = 16;

// === impl Bytes ===

impl Bytes {
    /// So many zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        match [0; HERE].get(..length) {
            Some(zeros) => zeros.into(),
            None => vec![0; length].as_slice().into(),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Here(bytes, length) => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Place::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        let mut here = [0; HERE];
        match (here.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(to), Ok(length)) => {
                to.copy_from_slice(bytes);
                Self(Place::Here(here, length))
            }
            _ => Self(Place::Heap(bytes.into())),
        }
    }
}

impl<const N: usize> From<[u8; N]> for Bytes {
    fn from(bytes: [u8; N]) -> Self {
        bytes.as_slice().into()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back_and_keep_their_order() {
        let long: Vec<u8> = (0..40).collect();
        for length in 0..long.len() {
            let bytes = Bytes::from(&long[..length]);
            assert_eq!(*bytes, long[..length]);
            assert!(bytes < Bytes::from(&long[..=length]));
            assert_eq!(*Bytes::zeros(length), vec![0; length]);
        }
    }
}
