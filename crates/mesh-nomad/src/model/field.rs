//! A field that may be absent, null or set, and Nomad's durations.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A field of an object: absent, `null`, or a value. Nomad takes the first two alike, but a job
/// that is to come out as it went in must not.
///
/// ```
/// use mesh_nomad::model::{Field, Task};
///
/// let task: Task = serde_json::from_str(r#"{"Name":"app","Env":null}"#)?;
/// assert_eq!(task.name.text(), "app");
/// assert_eq!(task.env, Field::Null);
/// assert_eq!(task.user, Field::Absent);
/// assert_eq!(serde_json::to_string(&task)?, r#"{"Name":"app","Env":null}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "JSON has no fourth case")]
pub enum Field<T> {
    /// The object has no such key.
    #[default]
    Absent,
    /// The key is there, with `null`.
    Null,
    /// The key is there, with a value.
    Set(T),
}

/// A length of time in nanoseconds, as Nomad's JSON has it.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct Nanoseconds(pub i64);

// === impl Field ===

impl<T> Field<T> {
    /// Whether the key is missing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The value to change, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The value itself, if there is one.
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The value to change; the type's default is put there first if there is none.
    pub fn or_default(&mut self) -> &mut T
    where
        T: Default,
    {
        if self.get().is_none() {
            *self = Self::Set(T::default());
        }
        match self {
            Self::Set(value) => value,
            #[expect(clippy::unreachable, reason = "the field was set above")]
            Self::Absent | Self::Null => unreachable!("the field was set"),
        }
    }
}

impl<T: Copy> Field<T> {
    /// The value, or the type's default.
    pub fn value(&self) -> T
    where
        T: Default,
    {
        self.get().copied().unwrap_or_default()
    }
}

impl Field<String> {
    /// The text, empty where there is none: Nomad makes no difference.
    pub fn text(&self) -> &str {
        self.get().map_or("", String::as_str)
    }
}

impl<T> Field<Vec<T>> {
    /// The elements, none where there is no list.
    pub fn items(&self) -> &[T] {
        self.get().map_or(&[], Vec::as_slice)
    }

    /// The elements to change, none where there is no list.
    pub fn items_mut(&mut self) -> &mut [T] {
        self.get_mut().map_or(&mut [], Vec::as_mut_slice)
    }
}

impl<T> From<T> for Field<T> {
    fn from(value: T) -> Self {
        Self::Set(value)
    }
}

impl From<&str> for Field<String> {
    fn from(value: &str) -> Self {
        Self::Set(value.to_owned())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Set))
    }
}

impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

// === impl Nanoseconds ===

impl Nanoseconds {
    /// So many seconds.
    pub const fn seconds(seconds: u32) -> Self {
        // A u32 of seconds is far below what an i64 of nanoseconds holds.
        Self(seconds as i64 * 1_000_000_000)
    }

    /// The same as the standard library has it; nothing below zero.
    pub fn to_duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_duration())
    }
}
