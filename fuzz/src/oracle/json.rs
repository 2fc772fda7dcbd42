//! JSON by recursion, numbers as they are written. The depth is checked before.

/// A value. Texts are UTF-16 units, as escapes may give halves of pairs.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Object(Vec<(Text, Json)>),
    List(Vec<Json>),
    Text(Text),
    Number(String),
    Other,
}

/// A string: `None` if it is no Unicode text.
pub type Text = Option<String>;

impl Json {
    /// The first member with this key, of an object whose keys are all texts.
    pub fn get(&self, wanted: &str) -> Option<&Json> {
        let Json::Object(members) = self else { return None };
        members.iter().find(|(key, _)| key.as_deref() == Some(wanted)).map(|(_, value)| value)
    }

    pub fn keys(&self) -> Vec<&str> {
        let Json::Object(members) = self else { return Vec::new() };
        members.iter().filter_map(|(key, _)| key.as_deref()).collect()
    }

    /// Whether a string anywhere in it is no text.
    pub fn has_undecodable(&self) -> bool {
        match self {
            Json::Object(members) => members.iter().any(|(key, value)| key.is_none() || value.has_undecodable()),
            Json::List(values) => values.iter().any(Json::has_undecodable),
            Json::Text(text) => text.is_none(),
            _ => false,
        }
    }

    /// Whether an object anywhere in it has a key twice.
    pub fn has_repeated(&self) -> bool {
        match self {
            Json::Object(members) => {
                let mut keys: Vec<&str> = self.keys();
                let count = keys.len();
                keys.sort_unstable();
                keys.dedup();
                keys.len() < count || members.iter().any(|(_, value)| value.has_repeated())
            }
            Json::List(values) => values.iter().any(Json::has_repeated),
            _ => false,
        }
    }

    pub fn has_undecodable_key(&self) -> bool {
        let Json::Object(members) = self else { return false };
        members.iter().any(|(key, _)| key.is_none())
    }
}

/// LIMIT-DEPTH-01: over the bytes, JSON or not.
pub fn depth(text: &[u8]) -> u64 {
    let (mut depth, mut deepest, mut at) = (0_u64, 0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// The one value that a text holds; `None` if it holds none, or more.
pub fn parse(text: &str) -> Option<Json> {
    let mut parser = Parser { text: text.as_bytes(), at: 0 };
    let value = parser.value()?;
    parser.space();
    (parser.at == parser.text.len()).then_some(value)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(wanted).then(|| self.at += wanted.len())
    }

    fn value(&mut self) -> Option<Json> {
        self.space();
        match self.peek()? {
            b'{' => {
                let mut members = Vec::new();
                self.list(b'{', b'}', |parser| {
                    parser.space();
                    let key = parser.string()?;
                    parser.space();
                    parser.take(b":")?;
                    members.push((key, parser.value()?));
                    Some(())
                })?;
                Some(Json::Object(members))
            }
            b'[' => {
                let mut values = Vec::new();
                self.list(b'[', b']', |parser| {
                    values.push(parser.value()?);
                    Some(())
                })?;
                Some(Json::List(values))
            }
            b'"' => self.string().map(Json::Text),
            b't' => self.take(b"true").map(|()| Json::Other),
            b'f' => self.take(b"false").map(|()| Json::Other),
            b'n' => self.take(b"null").map(|()| Json::Other),
            _ => self.number(),
        }
    }

    fn list(&mut self, open: u8, close: u8, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(&[open])?;
        self.space();
        if self.take(&[close]).is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            self.space();
            if self.take(&[close]).is_some() {
                return Some(());
            }
            self.take(b",")?;
        }
    }

    fn number(&mut self) -> Option<Json> {
        let start = self.at;
        let _ = self.take(b"-");
        if self.take(b"0").is_none() {
            self.digits()?;
        }
        if self.take(b".").is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        String::from_utf8(self.text[start..self.at].to_vec()).ok().map(Json::Number)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// The outer `None` is bad grammar, the inner one no text.
    fn string(&mut self) -> Option<Text> {
        self.take(b"\"")?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            units.extend(std::str::from_utf8(&self.text[start..self.at]).ok()?.encode_utf16());
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf16(&units).ok()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    units.push(match escape {
                        b'"' | b'\\' | b'/' => escape.into(),
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => 10,
                        b'r' => 13,
                        b't' => 9,
                        b'u' => {
                            let digits = self.text.get(self.at..self.at + 4)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 4;
                            u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
                        }
                        _ => return None,
                    });
                }
                _ => return None,
            }
        }
    }
}
