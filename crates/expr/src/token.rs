//! Text to tokens, as CEL's grammar has them.

use crate::error::Error;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// `request`, `in`, `true`.
    Name(String),
    /// Whole number.
    Int(i64),
    /// Number with a point or an exponent.
    Double(f64),
    /// Text.
    Text(String),
    /// `&&`, `(`, `<=` …
    Mark(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const MARKS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",",
    "(", ")", "[", "]",
];

/// All tokens with the character each begins at, from 1.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Error> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let column = at + 1;
        if c.is_ascii_whitespace() {
            at += 1;
        } else if c == '/' && chars.get(at + 1) == Some(&'/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if let Some(raw) = quoted(&chars, at) {
            let (text, next) = string(&chars, at + usize::from(raw), raw, column)?;
            out.push((Token::Text(text), column));
            at = next;
        } else if c.is_ascii_digit()
            || (c == '.' && chars.get(at + 1).is_some_and(char::is_ascii_digit))
        {
            let (token, next) = number(&chars, at)?;
            out.push((token, column));
            at = next;
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = (at..chars.len())
                .find(|i| !(chars[*i].is_ascii_alphanumeric() || chars[*i] == '_'))
                .unwrap_or(chars.len());
            out.push((Token::Name(chars[at..end].iter().collect()), column));
            at = end;
        } else {
            let mark = MARKS.iter().find(|mark| {
                mark.chars()
                    .enumerate()
                    .all(|(offset, want)| chars.get(at + offset) == Some(&want))
            });
            let Some(mark) = mark else {
                let fix = match c {
                    '&' | '|' | '=' => format!("write {c}{c}"),
                    _ => "remove it".to_owned(),
                };
                return Err(Error::new(column, format!("unexpected {c:?}"), fix));
            };
            out.push((Token::Mark(mark), column));
            at += mark.len();
        }
    }
    Ok(out)
}

/// Whether a text begins here, and whether it is a raw one.
fn quoted(chars: &[char], at: usize) -> Option<bool> {
    let quote = |c: Option<&char>| matches!(c, Some('\'' | '"'));
    match chars[at] {
        '\'' | '"' => Some(false),
        'r' | 'R' if quote(chars.get(at + 1)) => Some(true),
        _ => None,
    }
}

fn string(chars: &[char], open: usize, raw: bool, column: usize) -> Result<(String, usize), Error> {
    let quote = chars[open];
    let mut out = String::new();
    let mut at = open + 1;
    loop {
        let Some(c) = chars.get(at) else {
            return Err(Error::new(
                column,
                "the text does not end",
                format!("close it with {quote}"),
            ));
        };
        at += 1;
        if *c == quote {
            return Ok((out, at));
        }
        if *c != '\\' || raw {
            out.push(*c);
            continue;
        }
        let escaped = chars.get(at).copied();
        at += 1;
        out.push(match escaped {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(same @ ('\\' | '\'' | '"' | '`' | '?')) => same,
            Some('u') => {
                let digits: String = chars.get(at..at + 4).unwrap_or_default().iter().collect();
                at += 4;
                u32::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 4)
                    .and_then(char::from_u32)
                    .ok_or_else(|| {
                        Error::new(
                            at,
                            "not a character",
                            "write \\u and four hexadecimal digits",
                        )
                    })?
            }
            _ => {
                let fix = "write \\\\ for a backslash, or r'…' for a text without escapes";
                return Err(Error::new(at - 1, "unknown escape", fix));
            }
        });
    }
}

fn number(chars: &[char], start: usize) -> Result<(Token, usize), Error> {
    let wrong = || Error::new(start + 1, "not a number", "write for example 100000 or 0.5");
    if chars[start] == '0' && matches!(chars.get(start + 1), Some('x' | 'X')) {
        let end = (start + 2..chars.len())
            .find(|i| !chars[*i].is_ascii_hexdigit())
            .unwrap_or(chars.len());
        let digits: String = chars[start + 2..end].iter().collect();
        let value = i64::from_str_radix(&digits, 16).map_err(|_| wrong())?;
        return Ok((Token::Int(value), end));
    }
    let mut end = start;
    let mut whole = true;
    while let Some(c) = chars.get(end) {
        let exponent = |c: &char| matches!(c, 'e' | 'E');
        let signs = end > start && exponent(&chars[end - 1]) && matches!(c, '+' | '-');
        match c {
            '0'..='9' => {}
            '.' if whole && chars.get(end + 1).is_some_and(char::is_ascii_digit) => whole = false,
            'e' | 'E' => whole = false,
            _ if signs => {}
            _ => break,
        }
        end += 1;
    }
    let text: String = chars[start..end].iter().collect();
    if chars.get(end).is_some_and(|c| c.is_ascii_alphabetic()) {
        return Err(wrong());
    }
    let token = if whole {
        text.parse().map(Token::Int).map_err(|_| wrong())?
    } else {
        text.parse().map(Token::Double).map_err(|_| wrong())?
    };
    Ok((token, end))
}
