//! How Istio's messages are declared: one macro for what all of them have in common.

/// Declares messages of Istio's API as plain structs in camelCase JSON.
///
/// Protobuf's rules hold for every field: absent, null and the zero value are the same and are not
/// written; where presence means something, the field is an `Option`.
macro_rules! message {
    ($(
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $( $(#[$field_attribute:meta])* pub $field:ident: $type:ty, )*
        }
    )*) => { $(
        #[derive(Clone, Debug, Default, serde::Deserialize, PartialEq, serde::Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        $(#[$attribute])*
        #[serde(default, rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_attribute])*
                #[serde(skip_serializing_if = "crate::istio::message::is_default")]
                pub $field: $type,
            )*
        }
    )* };
}

/// Declares enumerations of Istio's API, written as its upper case strings.
macro_rules! choice {
    ($(
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $( $(#[$variant_attribute:meta])* $variant:ident, )*
        }
    )*) => { $(
        #[derive(Clone, Copy, Debug, Default, serde::Deserialize, Eq, PartialEq, serde::Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        $(#[$attribute])*
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$variant_attribute])* $variant, )*
        }
    )* };
}

pub(crate) use {choice, message};

/// Whether a field has its zero value and need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
