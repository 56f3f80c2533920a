//! One field of a JSON body, found without building the document.
//!
//! The text is walked once per field and must be whole and well-formed, or the field is unknown. A key that stands
//! twice on the way makes the field unknown too: two readers would take different ones.

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A step into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Member of an object.
    Key(Box<str>),
    /// Place in an array.
    Index(usize),
}

/// What a document holds somewhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Field<'a> {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// An object or an array with this many members.
    Inner(usize),
}

/// The field at a path; `None` when it is not there or the bytes are no JSON.
pub(crate) fn field<'a>(bytes: &'a [u8], path: &[Step]) -> Option<Field<'a>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let found = Seek(path).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found
}

struct Seek<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<Field<'de>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Seek<'_> {
    /// A value without members.
    fn leaf(&self, field: Field<'de>) -> Option<Field<'de>> {
        self.0.is_empty().then_some(field)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<Field<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Int(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a number beyond i64 is compared as a double, as in JSON itself"
        )]
        let field = i64::try_from(value).map_or(Field::Double(value as f64), Field::Int);
        Ok(self.leaf(field))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Double(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Text(Cow::Owned(value.to_owned()))))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.leaf(Field::Text(Cow::Borrowed(value))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut count = 0;
        loop {
            match self.0.split_first() {
                Some((Step::Index(wanted), rest)) if *wanted == count => {
                    match items.next_element_seed(Seek(rest))? {
                        Some(inner) => found = inner,
                        None => break,
                    }
                }
                _ => {
                    if items.next_element::<IgnoredAny>()?.is_none() {
                        break;
                    }
                }
            }
            count += 1;
        }
        Ok(match self.0 {
            [] => Some(Field::Inner(count)),
            _ => found,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut seen = false;
        let mut count = 0;
        while let Some(key) = members.next_key_seed(Key)? {
            count += 1;
            match self.0.split_first() {
                Some((Step::Key(wanted), rest)) if **wanted == *key => {
                    if std::mem::replace(&mut seen, true) {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                    found = members.next_value_seed(Seek(rest))?;
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(match self.0 {
            [] => Some(Field::Inner(count)),
            _ => found,
        })
    }
}

/// A key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Step, field};

    fn at(json: &str, path: &[Step]) -> Option<Field<'static>> {
        field(json.as_bytes(), path).map(|found| match found {
            Field::Text(text) => Field::Text(text.into_owned().into()),
            Field::Null => Field::Null,
            Field::Bool(value) => Field::Bool(value),
            Field::Int(value) => Field::Int(value),
            Field::Double(value) => Field::Double(value),
            Field::Inner(count) => Field::Inner(count),
        })
    }

    #[test]
    fn a_field_is_found_or_unknown() {
        let key = |name: &str| Step::Key(name.into());
        let json =
            r#"{"amount": 7, "a": {"b": [1, {"c": "x\ny"}]}, "n": null, "f": 0.5, "t": true}"#;
        for (path, want) in [
            (vec![key("amount")], Some(Field::Int(7))),
            (
                vec![key("a"), key("b"), Step::Index(1), key("c")],
                Some(Field::Text("x\ny".into())),
            ),
            (vec![key("a"), key("b")], Some(Field::Inner(2))),
            (vec![key("a"), key("b"), Step::Index(2)], None),
            (vec![key("n")], Some(Field::Null)),
            (vec![key("f")], Some(Field::Double(0.5))),
            (vec![key("t")], Some(Field::Bool(true))),
            (vec![key("amount"), key("x")], None),
            (vec![key("missing")], None),
            (vec![], Some(Field::Inner(5))),
        ] {
            assert_eq!(at(json, &path), want, "{path:?}");
        }
        for bad in [
            "",
            "{",
            r#"{"amount": 7"#,
            r#"{"amount": 7} x"#,
            r#"{"amount": 7, "amount": 8}"#,
            "amount=7",
            "\u{feff}{}",
        ] {
            assert_eq!(at(bad, &[key("amount")]), None, "{bad}");
        }
        // A key that stands twice elsewhere is nobody's business.
        assert_eq!(
            at(r#"{"x":1,"x":2,"amount":3}"#, &[key("amount")]),
            Some(Field::Int(3))
        );
    }
}
