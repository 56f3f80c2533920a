//! Just enough PromQL to know which side of an operator is a scalar.
//!
//! Finds `on (…)` or `ignoring (…)` between a scalar and something else, which Prometheus refuses. What it cannot read
//! it passes over: a rule is refused only for what is certainly wrong.

/// Deepest nesting followed.
const MAX_DEPTH: usize = 64;

/// Character (from 1) and operator of the first vector matching with a scalar, if there is one.
pub(super) fn scalar_matching(text: &str) -> Option<(usize, String)> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        found: None,
    };
    let whole = parser.expression(0, 0);
    // An expression that was not read to its end was not understood.
    whole?;
    if parser.next < parser.tokens.len() {
        return None;
    }
    parser.found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Scalar,
    Other,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Number,
    Text,
    /// `[5m]`, `{…}` as one.
    Selector,
    Range,
    Sign(String),
}

/// Tokens with their places.
fn tokens(text: &str) -> Option<Vec<(usize, Token)>> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        let token = if c.is_whitespace() {
            at += 1;
            continue;
        } else if c == '#' {
            while chars.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
            continue;
        } else if c.is_ascii_alphabetic() || c == '_' || c == ':' {
            while chars
                .get(at)
                .is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == ':')
            {
                at += 1;
            }
            Token::Word(chars[start..at].iter().collect())
        } else if c.is_ascii_digit() || c == '.' {
            while chars
                .get(at)
                .is_some_and(|c| c.is_ascii_alphanumeric() || *c == '.')
            {
                at += 1;
            }
            Token::Number
        } else if c == '"' || c == '\'' || c == '`' {
            at = quoted(&chars, at)?;
            Token::Text
        } else if c == '{' || c == '[' {
            at = enclosed(&chars, at)?;
            if c == '{' {
                Token::Selector
            } else {
                Token::Range
            }
        } else {
            at += 1;
            if matches!((c, chars.get(at)), ('=' | '!' | '<' | '>', Some('='))) {
                at += 1;
            }
            Token::Sign(chars[start..at].iter().collect())
        };
        out.push((start + 1, token));
    }
    Some(out)
}

fn quoted(chars: &[char], start: usize) -> Option<usize> {
    let end = *chars.get(start)?;
    let mut at = start + 1;
    loop {
        match *chars.get(at)? {
            '\\' if end != '`' => at += 2,
            c if c == end => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Behind the bracket that closes the one at `start`.
fn enclosed(chars: &[char], start: usize) -> Option<usize> {
    let end = if *chars.get(start)? == '{' { '}' } else { ']' };
    let mut at = start + 1;
    loop {
        match *chars.get(at)? {
            '"' | '\'' | '`' => at = quoted(chars, at)?,
            c if c == end => return Some(at + 1),
            _ => at += 1,
        }
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    found: Option<(usize, String)>,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = self.peek() == Some(&Token::Sign(sign.to_owned()));
        self.next += usize::from(is);
        is
    }

    fn word(&mut self, words: &[&str]) -> bool {
        let is = matches!(self.peek(), Some(Token::Word(word)) if words.contains(&word.to_ascii_lowercase().as_str()));
        self.next += usize::from(is);
        is
    }

    /// The operator that comes next, with how tightly it binds.
    fn operator(&self) -> Option<(String, u8)> {
        let name = match self.peek()? {
            Token::Sign(sign) => sign.clone(),
            Token::Word(word) => word.to_ascii_lowercase(),
            _ => return None,
        };
        let binds = match name.as_str() {
            "or" => 1,
            "and" | "unless" => 2,
            "==" | "!=" | "<" | "<=" | ">" | ">=" => 3,
            "+" | "-" => 4,
            "*" | "/" | "%" | "atan2" => 5,
            "^" => 6,
            _ => return None,
        };
        Some((name, binds))
    }

    fn expression(&mut self, least: u8, depth: usize) -> Option<Type> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut left = self.unary(depth)?;
        while let Some((name, binds)) = self.operator() {
            if binds < least {
                break;
            }
            let at = self.tokens.get(self.next)?.0;
            self.next += 1;
            self.word(&["bool"]);
            let matching = self.word(&["on", "ignoring"]);
            if matching {
                self.skip_list()?;
                if self.word(&["group_left", "group_right"])
                    && self.peek() == Some(&Token::Sign("(".to_owned()))
                {
                    self.skip_list()?;
                }
            }
            let right = self.expression(if name == "^" { binds } else { binds + 1 }, depth + 1)?;
            if matching && (left == Type::Scalar || right == Type::Scalar) && self.found.is_none() {
                self.found = Some((at, name));
            }
            if right != Type::Scalar {
                left = Type::Other;
            }
        }
        Some(left)
    }

    fn unary(&mut self, depth: usize) -> Option<Type> {
        if self.sign("-") || self.sign("+") {
            return if depth > MAX_DEPTH {
                None
            } else {
                self.unary(depth + 1)
            };
        }
        let kind = self.primary(depth)?;
        loop {
            match self.peek() {
                Some(Token::Range) => self.next += 1,
                Some(Token::Word(word)) if word == "offset" => {
                    self.next += 1;
                    self.sign("-");
                    self.next += 1;
                }
                Some(Token::Sign(sign)) if sign == "@" => {
                    self.next += 2;
                    if self.peek() == Some(&Token::Sign("(".to_owned())) {
                        self.skip_list()?;
                    }
                }
                _ => return Some(kind),
            }
        }
    }

    fn primary(&mut self, depth: usize) -> Option<Type> {
        if self.sign("(") {
            let inner = self.expression(0, depth + 1)?;
            return self.sign(")").then_some(inner);
        }
        let token = self.peek()?.clone();
        self.next += 1;
        match token {
            Token::Number => Some(Type::Scalar),
            Token::Text | Token::Selector => Some(Type::Other),
            Token::Word(word) => self.named(&word, depth),
            Token::Range | Token::Sign(_) => None,
        }
    }

    /// A metric, a function or an aggregation.
    fn named(&mut self, word: &str, depth: usize) -> Option<Type> {
        let lower = word.to_ascii_lowercase();
        if lower == "inf" || lower == "nan" {
            return Some(Type::Scalar);
        }
        if self.word(&["by", "without"]) {
            self.skip_list()?;
        }
        if self.sign("(") {
            while !self.sign(")") {
                self.expression(0, depth + 1)?;
                self.sign(",");
            }
            if self.word(&["by", "without"]) {
                self.skip_list()?;
            }
            let scalar = ["time", "pi", "scalar"].contains(&lower.as_str());
            return Some(if scalar { Type::Scalar } else { Type::Other });
        }
        if self.peek() == Some(&Token::Selector) {
            self.next += 1;
        }
        Some(Type::Other)
    }

    /// `(a, b)` with nothing to look at inside.
    fn skip_list(&mut self) -> Option<()> {
        if !self.sign("(") {
            return None;
        }
        while !self.sign(")") {
            self.peek()?;
            self.next += 1;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::scalar_matching;

    #[test]
    fn scalars_cannot_be_matched() {
        for (text, operator) in [
            ("(time() - on(instance) expiry{job=\"a\"}) / 86400 < 7", "-"),
            ("up * ignoring(a) 2", "*"),
            ("-1 + on () (2 * 3)", "+"),
            ("sum by (a) (up) / on(a) group_left(b) scalar(up)", "/"),
        ] {
            assert_eq!(scalar_matching(text).expect(text).1, operator, "{text}");
        }
    }

    #[test]
    fn sound_and_unreadable_expressions_pass() {
        for text in [
            "(expiry - time()) / 86400 < 7",
            "sum(rate(a{code!~\"2..\"}[5m])) by (x, y) / sum(rate(a[5m])) by (x, y) > 0.05",
            "histogram_quantile(0.99, sum(rate(a_bucket[5m])) by (le)) > 1000",
            "a * on(x) group_left(y) b offset 5m",
            "a[5m:1m] @ end() unless ignoring(z) b",
            "{__name__=~\"a|}\"} or vector(1)",
            "up{a=\"1\"} == bool 0 and on() absent(b)",
            "2 ^ 3 ^ -1",
            "not ( promql",
            "a on(b) c",
            "(((",
            "\"open",
            "",
        ] {
            assert_eq!(scalar_matching(text), None, "{text}");
        }
        assert_eq!(scalar_matching(&"(".repeat(100_000)), None);
        assert_eq!(scalar_matching(&"-".repeat(100_000)), None);
    }
}
