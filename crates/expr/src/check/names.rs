//! Names of an expression resolved: attributes, headers, time zones; and what is said of names that are none.

use crate::attribute::{self, Attribute, Type};
use crate::body::Step;
use crate::error::Error;
use crate::parse::{Ast, Kind};
use http::HeaderName;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::sync::OnceLock;

/// `request.headers['x'].y` as its first name and the steps after it.
pub(super) fn chain(ast: &Ast) -> Option<(String, Vec<Step>)> {
    match &ast.kind {
        Kind::Name(name) => Some((name.clone(), Vec::new())),
        Kind::Member(on, name) => {
            let (root, mut steps) = chain(on)?;
            steps.push(Step::Key(name.as_str().into()));
            Some((root, steps))
        }
        Kind::Index(on, index) => {
            let (root, mut steps) = chain(on)?;
            steps.push(match &index.kind {
                Kind::Text(text) => Step::Key(text.as_str().into()),
                Kind::Int(number) => Step::Index(usize::try_from(*number).ok()?),
                _ => return None,
            });
            Some((root, steps))
        }
        _ => None,
    }
}

/// The attribute at the front of a chain, and what is left.
pub(super) fn split<'s>(root: &str, steps: &'s [Step]) -> Option<(&'static Attribute, &'s [Step])> {
    let (Step::Key(second), rest) = steps.split_first()? else {
        return None;
    };
    Some((attribute::of(&format!("{root}.{second}"))?, rest))
}

pub(super) fn written(row: &Attribute, rest: &[Step]) -> String {
    let mut name = row.name.to_owned();
    for step in rest {
        match step {
            Step::Key(key)
                if row.ty == Type::Json
                    && !key.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') =>
            {
                name.push('.');
                name.push_str(key);
            }
            Step::Key(key) => name.push_str(&format!("['{key}']")),
            Step::Index(index) => name.push_str(&format!("[{index}]")),
        }
    }
    name
}

pub(super) fn header(name: &str, column: usize) -> Result<HeaderName, Error> {
    HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).map_err(|_| {
        Error::new(
            column,
            format!("{name:?} is not a header name"),
            "use letters, digits and '-'",
        )
    })
}

pub(super) fn literal(ast: &Ast) -> Result<&str, Error> {
    match &ast.kind {
        Kind::Text(text) => Ok(text),
        _ => Err(Error::new(
            ast.column,
            "a fixed text is needed here",
            "write it in quotes",
        )),
    }
}

pub(super) fn zone_of(ast: &Ast) -> Result<TimeZone, Error> {
    let name = literal(ast)?;
    zone(name).ok_or_else(|| {
        Error::new(
            ast.column,
            format!("{name:?} is not a time zone"),
            "write a name such as 'Asia/Kolkata', or '+05:30'",
        )
    })
}

/// A time zone by its name (`Asia/Kolkata`) or its distance from UTC (`+05:30`).
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    let fixed = |sign: i32, rest: &str| {
        let (hours, minutes) = rest.split_once(':')?;
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
        if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
            return None;
        }
        let offset = jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
        Some(TimeZone::fixed(offset))
    };
    match (name.strip_prefix('+'), name.strip_prefix('-')) {
        (Some(rest), _) => fixed(1, rest),
        (_, Some(rest)) => fixed(-1, rest),
        _ => {
            let zones = ZONES.get_or_init(TimeZoneDatabase::bundled);
            zones.get(name).ok()
        }
    }
}

pub(super) fn is_number(ty: Type) -> bool {
    matches!(ty, Type::Int | Type::Double | Type::Json)
}

pub(super) fn comparable(one: Type, other: Type) -> bool {
    one == other || one == Type::Json || other == Type::Json || (is_number(one) && is_number(other))
}

pub(super) fn mismatch(column: usize, wanted: &str, found: Type) -> Error {
    Error::new(
        column,
        format!("wants {wanted}, this is a {found}"),
        format!("write {wanted}"),
    )
}

pub(super) fn unknown(column: usize, name: &str, known: &[&str]) -> Error {
    Error::new(
        column,
        format!("there is no function {name}"),
        format!("known are {}", known.join(", ")),
    )
}

pub(super) fn unknown_name(ast: &Ast) -> Error {
    let name = match chain(ast) {
        Some((root, steps)) => {
            let keys = steps.iter().map(|step| match step {
                Step::Key(key) => format!(".{key}"),
                Step::Index(index) => format!("[{index}]"),
            });
            format!("{root}{}", keys.collect::<String>())
        }
        None => {
            return Error::new(
                ast.column,
                "the name in brackets must be fixed",
                "write request.headers['name']",
            );
        }
    };
    let known: Vec<&str> = attribute::TABLE.iter().map(|row| row.name).collect();
    let maps = known.iter().any(|row| *row == name);
    let message = if maps {
        format!("{name} is a map")
    } else {
        format!("there is no attribute {name}")
    };
    Error::new(
        ast.column,
        message,
        format!("known are {}", known.join(", ")),
    )
}
