//! The shape that all of Nomad's objects share: known fields, and the rest kept.

use serde_json::{Map, Value};

/// An object of Nomad's API with the fields that this crate does not know kept in `extra`.
pub trait Object {
    /// The keys that it knows, as Nomad spells them.
    const KEYS: &'static [&'static str];

    /// What came with keys that it does not know.
    fn extra(&self) -> &Map<String, Value>;

    /// Keys that Nomad would take for ones it knows, for it reads keys in any case, but that are
    /// spelt otherwise and so were not read here: pairs of found and meant.
    fn misspelt(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.extra().keys().filter_map(|found| {
            let meant = Self::KEYS
                .iter()
                .find(|key| key.eq_ignore_ascii_case(found))?;
            Some((found.as_str(), *meant))
        })
    }
}

/// Defines an object: each known field is a `Field`, unknown ones survive in `extra`.
///
/// Written out instead of derived, since `#[serde(flatten)]` copies every nested value once per
/// level, and since an error then names the field that it is about.
macro_rules! object {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty = $key:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $crate::model::Field<$type>, )*
            /// Fields that this type does not know, as they came.
            pub extra: serde_json::Map<String, serde_json::Value>,
        }

        impl $crate::model::Object for $name {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn extra(&self) -> &serde_json::Map<String, serde_json::Value> {
                &self.extra
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;

                let mut map = serializer.serialize_map(None)?;
                $( if !self.$field.is_absent() {
                    map.serialize_entry($key, &self.$field)?;
                } )*
                for (key, value) in &self.extra {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("an object, a ", stringify!($name)))
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$name, A::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $( $key => {
                                    object.$field = map
                                        .next_value()
                                        .map_err(|error| crate::model::object::within($key, error))?;
                                } )*
                                _ => {
                                    let value = map.next_value()?;
                                    object.extra.insert(key, value);
                                }
                            }
                        }
                        Ok(object)
                    }
                }

                deserializer.deserialize_map(Visitor)
            }
        }
    };
}

/// The error with the key that it is about in front.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn within<E: serde::de::Error>(key: &str, error: E) -> E {
    E::custom(format_args!("{key}: {error}"))
}
