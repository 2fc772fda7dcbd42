//! The JSON footer of every pack (spec chapter 7).
//!
//! ```text
//! v3       {"format":"flashpack_v3","target_dtype":...,"align_bytes":...,"total_elems":...,"index":[...]}
//! v4       {"format":"flashpack_v4","align_bytes":...,"total_payload_bytes":...,"total_elems":...,"macroblocks":[...],"index":[...]}
//! sealed   the same as v4, then "flashpack_seal":{"version":1}
//! ```
//!
//! [`Footer`] renders, byte for byte as the Python package does. The other half reads JSON one level at a time and keeps every value
//! as the text it is, so that a number is judged by how it is written and each fault has its place in the file.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use serde_json::value::RawValue;
use zerocopy::little_endian::U64;

use super::MAX_INTEGER;

/// The `format` of a v3 footer.
pub const FORMAT_V3: &str = "flashpack_v3";
/// The `format` of a v4 and of a sealed footer.
pub const FORMAT_V4: &str = "flashpack_v4";
/// The key that only sealed files have.
pub const SEAL_KEY: &str = "flashpack_seal";

/// A footer to be rendered.
#[derive(Debug)]
pub struct Footer<'a> {
    /// Which of the three forms.
    pub form: Form,
    /// Alignment of tensors in bytes.
    pub align_bytes: u64,
    /// The offset of the footer itself.
    pub total_payload_bytes: u64,
    /// Elements of all blocks, padding counted.
    pub total_elems: u64,
    /// The blocks. v3 renders only the dtype of the first.
    pub macroblocks: Vec<BlockEntry>,
    /// The tensors.
    pub index: Vec<IndexEntry<'a>>,
}

/// The three forms of a footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// v3: one block, named only by its dtype.
    V3,
    /// v4.
    V4,
    /// v4 and the seal.
    Sealed,
}

/// A block in a v4 footer.
#[derive(Debug, serde::Serialize)]
pub struct BlockEntry {
    /// Name of the dtype.
    pub dtype: &'static str,
    /// Bytes from the start of the file.
    pub offset_bytes: u64,
    /// Bytes.
    pub length_bytes: u64,
    /// Elements, padding counted.
    pub length_elems: u64,
}

/// A tensor in the index.
#[derive(Debug)]
pub struct IndexEntry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dims.
    pub shape: &'a [U64],
    /// Elements from the start of the block.
    pub offset: u64,
    /// Elements.
    pub length: u64,
    /// The number of its block; v3 does not render it.
    pub macroblock: u16,
}

impl Footer<'_> {
    /// The footer's bytes: compact JSON, keys in the spec's order, everything but control characters, quotes and backslashes as it is.
    ///
    /// # Errors
    /// None: writing to memory does not fail.
    #[expect(clippy::expect_used, reason = "numbers, texts and lists always have a JSON form")]
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a footer has a JSON form")
    }
}

impl Serialize for Footer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.form {
            Form::V3 => {
                map.serialize_entry("format", FORMAT_V3)?;
                map.serialize_entry("target_dtype", self.macroblocks.first().map_or("", |block| block.dtype))?;
                map.serialize_entry("align_bytes", &self.align_bytes)?;
                map.serialize_entry("total_elems", &self.total_elems)?;
            }
            Form::V4 | Form::Sealed => {
                map.serialize_entry("format", FORMAT_V4)?;
                map.serialize_entry("align_bytes", &self.align_bytes)?;
                map.serialize_entry("total_payload_bytes", &self.total_payload_bytes)?;
                map.serialize_entry("total_elems", &self.total_elems)?;
                map.serialize_entry("macroblocks", &self.macroblocks)?;
            }
        }
        let with_block = self.form != Form::V3;
        map.serialize_entry("index", &Index { entries: &self.index, with_block })?;
        if self.form == Form::Sealed {
            map.serialize_entry(SEAL_KEY, &Seal { version: 1 })?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
struct Seal {
    version: u32,
}

struct Index<'a> {
    entries: &'a [IndexEntry<'a>],
    with_block: bool,
}

impl Serialize for Index<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries.iter().map(|entry| WithBlock(entry, self.with_block)))
    }
}

struct WithBlock<'a>(&'a IndexEntry<'a>, bool);

impl Serialize for WithBlock<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let WithBlock(entry, with_block) = self;
        let mut record = serializer.serialize_struct("IndexEntry", 5)?;
        record.serialize_field("name", entry.name)?;
        record.serialize_field("shape", &Shape(entry.shape))?;
        record.serialize_field("offset", &entry.offset)?;
        record.serialize_field("length", &entry.length)?;
        if *with_block {
            record.serialize_field("macroblock", &entry.macroblock)?;
        }
        record.end()
    }
}

struct Shape<'a>(&'a [U64]);

impl Serialize for Shape<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|dim| dim.get()))
    }
}

/// A JSON value as the text it is.
pub type Raw<'a> = &'a RawValue;

/// The members of an object, in the order of the text.
#[derive(Debug)]
pub struct Members<'a> {
    /// Keys, unescaped, and values.
    pub members: Vec<(Cow<'a, str>, Raw<'a>)>,
    /// A key that occurs twice, if one does.
    pub repeated: Option<Cow<'a, str>>,
}

impl<'a> Members<'a> {
    /// The value of a key; of the first, should it be repeated.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Raw<'a>> {
        self.members.iter().find(|(name, _)| name == key).map(|&(_, value)| value)
    }
}

/// The one JSON value that a text holds.
///
/// # Errors
/// What is wrong with the text.
pub fn document(text: &str) -> serde_json::Result<Raw<'_>> {
    serde_json::from_str(text)
}

/// The members of an object; `None` for a value of another type.
///
/// # Errors
/// A key that is no Unicode text (a lone surrogate).
pub fn members(raw: Raw<'_>) -> serde_json::Result<Option<Members<'_>>> {
    if !raw.get().starts_with('{') {
        return Ok(None);
    }
    serde_json::Deserializer::from_str(raw.get()).deserialize_map(MembersVisitor).map(Some)
}

/// Calls `each` with the first `most` elements of a list, and returns how many there are in all; `None` for a value of another type.
///
/// # Errors
/// None for a value from [`document`]: its elements have been read once.
pub fn for_each_element<'a>(raw: Raw<'a>, most: u64, each: impl FnMut(Raw<'a>)) -> serde_json::Result<Option<u64>> {
    if !raw.get().starts_with('[') {
        return Ok(None);
    }
    serde_json::Deserializer::from_str(raw.get()).deserialize_seq(ElementsVisitor { most, each }).map(Some)
}

/// The text of a string; `None` for a value of another type.
///
/// # Errors
/// A string that is no Unicode text (a lone surrogate).
pub fn text(raw: Raw<'_>) -> serde_json::Result<Option<Cow<'_, str>>> {
    if !raw.get().starts_with('"') {
        return Ok(None);
    }
    serde_json::from_str::<Text<'_>>(raw.get()).map(|text| Some(text.0))
}

/// What a value that should be a whole number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integer {
    /// One from 0 to 2^53 - 1, in digits alone.
    Whole(u64),
    /// Some other number.
    OtherNumber,
    /// A value of another type.
    NotNumber,
}

/// Reads a whole number as the spec wants it written: `0`, or digits that do not begin with 0 (`1.0`, `1e3` and `-0` are none).
#[must_use]
pub fn integer(raw: Raw<'_>) -> Integer {
    let text = raw.get();
    // The text is valid JSON already, so digits alone have no leading zero.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(value) if value <= MAX_INTEGER => Integer::Whole(value),
            _ => Integer::OtherNumber,
        };
    }
    let number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if number { Integer::OtherNumber } else { Integer::NotNumber }
}

/// What is wrong inside a value that the reader otherwise passes over.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// A string is no Unicode text.
    Text(String),
    /// An object has this key twice.
    RepeatedKey(String),
}

/// Looks for faults of text at any depth of a value that is otherwise passed over. The depth is bounded by [`depth`] beforehand. Nothing is
/// kept of what was passed but a hash of each key of the objects around: a hostile footer may have millions.
///
/// # Errors
/// The first fault.
pub fn check_passed_over(raw: Raw<'_>) -> Result<(), Fault> {
    let mut fault = None;
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let passed = match raw.get().as_bytes().first() {
        Some(b'"') => Text::deserialize(&mut deserializer).map(drop),
        Some(b'{') => deserializer.deserialize_map(PassedObject { raw, fault: &mut fault }),
        Some(b'[') => {
            let check = |element| {
                if fault.is_none() {
                    fault = check_passed_over(element).err();
                }
            };
            for_each_element(raw, u64::MAX, check).map(drop)
        }
        _ => Ok(()),
    };
    match (fault, passed) {
        (Some(fault), _) => Err(fault),
        (None, Err(error)) => Err(Fault::Text(error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

struct PassedObject<'a> {
    raw: Raw<'a>,
    fault: &'a mut Option<Fault>,
}

impl<'de> Visitor<'de> for PassedObject<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let hasher = std::collections::hash_map::RandomState::new();
        let mut seen = HashSet::new();
        while let Some((key, value)) = map.next_entry::<Text<'de>, Raw<'de>>()? {
            if self.fault.is_some() {
                continue;
            }
            // Two keys of one hash are looked at themselves, which happens once in a very long while for keys that differ.
            if !seen.insert(std::hash::BuildHasher::hash_one(&hasher, key.0.as_ref())) && occurs_twice(self.raw, &key.0) {
                *self.fault = Some(Fault::RepeatedKey(key.0.into_owned()));
                continue;
            }
            *self.fault = check_passed_over(value).err();
        }
        Ok(())
    }
}

fn occurs_twice(object: Raw<'_>, wanted: &str) -> bool {
    struct Count<'a>(&'a str);

    impl<'de> Visitor<'de> for Count<'_> {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
            let mut count = 0_u64;
            while let Some((key, _)) = map.next_entry::<Text<'de>, de::IgnoredAny>()? {
                count = count.saturating_add(u64::from(key.0 == self.0));
            }
            Ok(count)
        }
    }

    serde_json::Deserializer::from_str(object.get()).deserialize_map(Count(wanted)).is_ok_and(|count| count > 1)
}

/// How deeply lists and objects are nested in a text, and where the deepest begins. Works on any text, JSON or not.
#[must_use]
pub fn depth(text: &str) -> (u64, usize) {
    let (mut depth, mut deepest) = (0_u64, (0, 0));
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let at = text.len().saturating_sub(rest.len());
        rest = after;
        match byte {
            b'"' => rest = after_string(after),
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                if depth > deepest.0 {
                    deepest = (depth, at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What follows a string whose opening quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let escape = rest.get(at) == Some(&b'\\');
        rest = rest.get(at.saturating_add(if escape { 2 } else { 1 })..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<Text<'de>, Raw<'de>>()? {
            members.push((key.0, value));
        }
        let repeated = repeated_key(&members);
        Ok(Members { members, repeated })
    }
}

/// The second of two equal keys. Few keys are compared with each other, many through a set: a hostile footer may have millions.
fn repeated_key<'a>(members: &[(Cow<'a, str>, Raw<'a>)]) -> Option<Cow<'a, str>> {
    const FEW: usize = 12;
    if members.len() <= FEW {
        let earlier = |at: usize| members.iter().take(at);
        let mut numbered = members.iter().enumerate();
        return numbered.find(|(at, (key, _))| earlier(*at).any(|(other, _)| other == key)).map(|(_, (key, _))| key.clone());
    }
    let mut seen = HashSet::with_capacity(members.len());
    members.iter().find(|(key, _)| !seen.insert(key.as_ref())).map(|(key, _)| key.clone())
}

struct ElementsVisitor<F> {
    most: u64,
    each: F,
}

impl<'de, F: FnMut(Raw<'de>)> Visitor<'de> for ElementsVisitor<F> {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<u64, A::Error> {
        let mut count = 0_u64;
        while let Some(element) = list.next_element::<Raw<'de>>()? {
            count = count.saturating_add(1);
            if count <= self.most {
                (self.each)(element);
            }
        }
        Ok(count)
    }
}

/// A string, borrowed from the text where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'de>, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_digits_are_integers() {
        let whole = |text: &str| integer(document(text).unwrap());
        assert_eq!(whole("0"), Integer::Whole(0));
        assert_eq!(whole("9007199254740991"), Integer::Whole(MAX_INTEGER));
        for other in ["9007199254740992", "18446744073709551616", "1.0", "1e3", "-0", "-1", "1E0", "1e999"] {
            assert_eq!(whole(other), Integer::OtherNumber, "{other}");
        }
        for not in ["\"5\"", "null", "true", "[]", "{}"] {
            assert_eq!(whole(not), Integer::NotNumber, "{not}");
        }
    }

    #[test]
    fn depth_counts_outside_strings() {
        assert_eq!(depth(r#"{"a]{\"":[1,[2]]}"#).0, 3);
        assert_eq!(depth("[".repeat(5000).as_str()).0, 5000);
    }

    #[test]
    fn faults_are_found_at_any_depth() {
        let fault = |text: &str| check_passed_over(document(text).unwrap());
        assert_eq!(fault(r#"[{"a":{"b":1,"c":[]}},"x"]"#), Ok(()));
        assert_eq!(fault(r#"[{"a":{"b":1,"\u0062":2}}]"#), Err(Fault::RepeatedKey("b".into())));
        assert!(matches!(fault(r#"[["\ud800"]]"#), Err(Fault::Text(_))));
    }
}
