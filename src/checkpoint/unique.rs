//! JSON objects in which no name stands twice. Maps of serde keep the last of two without a word, and a checkpoint whose
//! header names a tensor twice has been damaged, or made to say different things to different readers.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::names::shown;

/// Hands each name of `map` to `value`, which takes the value that belongs to it.
pub(super) fn for_each<'de, M: MapAccess<'de>>(
    mut map: M,
    mut value: impl FnMut(String, &mut M) -> Result<(), M::Error>,
) -> Result<(), M::Error> {
    let mut seen = HashSet::new();
    while let Some(name) = map.next_key::<String>()? {
        if !seen.insert(name.clone()) {
            return Err(M::Error::custom(format_args!("the name `{}` stands twice", shown(&name))));
        }
        value(name, &mut map)?;
    }
    Ok(())
}

/// The pairs of an object, in their order.
#[derive(Debug)]
pub(super) struct Unique<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                for_each(map, |name, map| {
                    pairs.push((name, map.next_value()?));
                    Ok(())
                })?;
                Ok(Unique(pairs))
            }
        }
        deserializer.deserialize_map(Pairs(PhantomData))
    }
}
