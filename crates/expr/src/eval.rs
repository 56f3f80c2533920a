//! What an expression is for one request.
//!
//! Nothing here can fail in any other way than by not knowing: overflow, division by zero, a text that is no number
//! and a value that is absent are all [`Missing::Unknown`]. A body that was not read yet is [`Missing::Body`], unless
//! the rest decides without it.

use crate::attribute::{Text, Type};
use crate::body::{self, Field};
use crate::form::{Arithmetic, Compare, Form, Test, TimePart};
use http::HeaderName;
use jiff::{SignedDuration, Timestamp};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Where values come from.
pub trait Values {
    /// A text attribute; `None` when it is not known.
    fn text(&self, which: Text) -> Option<Cow<'_, str>>;
    /// A header, several values joined by commas; `None` when absent or no text.
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, str>>;
    /// Whether the header is there.
    fn has_header(&self, name: &HeaderName) -> bool;
    /// First query parameter of that name, decoded.
    fn query(&self, name: &str) -> Option<Cow<'_, str>>;
    /// Body.
    fn body(&self) -> Body<'_>;
    /// `destination.port`.
    fn port(&self) -> Option<u16>;
    /// `request.time`, since 1970.
    fn time(&self) -> std::time::Duration;
}

/// What is known of a body.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// It was not read yet.
    NotRead,
    /// All of it.
    Read(&'a [u8]),
    /// It is too long, broke off, or is none.
    Unknown,
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It cannot be known.
    Unknown,
    /// It can, once the body was read.
    Body,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// null, of a JSON document.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// A text.
    Str(Cow<'a, str>),
    /// A moment.
    Moment(Timestamp),
    /// A length of time.
    Span(SignedDuration),
    /// Inner document of this many members.
    Inner(usize),
}

type Answer<'a> = Result<Value<'a>, Missing>;

/// The value of a form.
pub(crate) fn value<'a>(form: &'a Form, of: &'a dyn Values) -> Answer<'a> {
    Ok(match form {
        Form::Bool(value) => Value::Bool(*value),
        Form::Int(value) => Value::Int(*value),
        Form::Double(value) => Value::Double(*value),
        Form::Str(text) => Value::Str(Cow::Borrowed(text)),
        Form::Moment(moment) => Value::Moment(*moment),
        Form::Span(span) => Value::Span(*span),
        Form::Text(which) => text_of(of.text(*which))?,
        Form::Header(name) => text_of(of.header(name))?,
        Form::HasHeader(name) => Value::Bool(of.has_header(name)),
        Form::Query(name) => text_of(of.query(name))?,
        Form::HasQuery(name) => Value::Bool(of.query(name).is_some()),
        Form::Body(path) => match of.body() {
            Body::NotRead => return Err(Missing::Body),
            Body::Unknown => return Err(Missing::Unknown),
            Body::Read(bytes) => from_field(body::field(bytes, path).ok_or(Missing::Unknown)?),
        },
        Form::HasBody(path) => match of.body() {
            Body::NotRead => return Err(Missing::Body),
            Body::Unknown => return Err(Missing::Unknown),
            // Whether a field is absent can only be said of a document.
            Body::Read(bytes) => {
                body::field(bytes, &[]).ok_or(Missing::Unknown)?;
                Value::Bool(body::field(bytes, path).is_some())
            }
        },
        Form::Port => Value::Int(i64::from(of.port().ok_or(Missing::Unknown)?)),
        Form::Time => Value::Moment(moment(of.time())?),
        Form::Not(inner) => Value::Bool(!truth(inner, of)?),
        Form::Minus(inner) => match value(inner, of)? {
            Value::Int(number) => Value::Int(number.checked_neg().ok_or(Missing::Unknown)?),
            Value::Double(number) => Value::Double(-number),
            _ => return Err(Missing::Unknown),
        },
        Form::And(left, right) => Value::Bool(both(left, right, false, of)?),
        Form::Or(left, right) => Value::Bool(both(left, right, true, of)?),
        Form::Compare(how, left, right) => {
            let (left, right) = (value(left, of)?, value(right, of)?);
            Value::Bool(compare(*how, &left, &right)?)
        }
        Form::Arithmetic(how, left, right) => {
            arithmetic(*how, &value(left, of)?, &value(right, of)?)?
        }
        Form::Choice(condition, yes, no) => {
            value(if truth(condition, of)? { yes } else { no }, of)?
        }
        Form::OneOf(wanted, list) => {
            let wanted = value(wanted, of)?;
            let mut unknown = None;
            for item in list {
                match value(item, of).and_then(|item| compare(Compare::Equal, &wanted, &item)) {
                    Ok(true) => return Ok(Value::Bool(true)),
                    Ok(false) => {}
                    Err(missing) => unknown = Some(missing),
                }
            }
            match unknown {
                Some(missing) => return Err(missing),
                None => Value::Bool(false),
            }
        }
        Form::Test(test, text, part) => {
            let (text, part) = (string(text, of)?, string(part, of)?);
            Value::Bool(match test {
                Test::Contains => text.contains(&*part),
                Test::StartsWith => text.starts_with(&*part),
                Test::EndsWith => text.ends_with(&*part),
            })
        }
        Form::Matches(text, regex) => Value::Bool(regex.is_match(string(text, of)?.as_bytes())),
        Form::Lower(text) => {
            let text = string(text, of)?;
            Value::Str(if text.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(text.to_ascii_lowercase())
            } else {
                text
            })
        }
        Form::Convert(to, inner) => convert(*to, value(inner, of)?)?,
        Form::Size(inner) => match value(inner, of)? {
            Value::Str(text) => Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX)),
            Value::Inner(count) => Value::Int(i64::try_from(count).unwrap_or(i64::MAX)),
            _ => return Err(Missing::Unknown),
        },
        Form::Part(part, inner, zone) => match value(inner, of)? {
            Value::Moment(at) => Value::Int(time_part(*part, at, zone)),
            _ => return Err(Missing::Unknown),
        },
    })
}

fn text_of(text: Option<Cow<'_, str>>) -> Answer<'_> {
    text.map(Value::Str).ok_or(Missing::Unknown)
}

fn from_field(field: Field<'_>) -> Value<'_> {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(value),
        Field::Int(value) => Value::Int(value),
        Field::Double(value) => Value::Double(value),
        Field::Text(text) => Value::Str(text),
        Field::Inner(count) => Value::Inner(count),
    }
}

fn moment(since_1970: std::time::Duration) -> Result<Timestamp, Missing> {
    let seconds = i64::try_from(since_1970.as_secs()).map_err(|_| Missing::Unknown)?;
    let nanos = i32::try_from(since_1970.subsec_nanos()).map_err(|_| Missing::Unknown)?;
    Timestamp::new(seconds, nanos).map_err(|_| Missing::Unknown)
}

/// A condition.
pub(crate) fn truth(form: &Form, of: &dyn Values) -> Result<bool, Missing> {
    match value(form, of)? {
        Value::Bool(value) => Ok(value),
        _ => Err(Missing::Unknown),
    }
}

fn string<'a>(form: &'a Form, of: &'a dyn Values) -> Result<Cow<'a, str>, Missing> {
    match value(form, of)? {
        Value::Str(text) => Ok(text),
        _ => Err(Missing::Unknown),
    }
}

/// `||` with `decides` true, `&&` with false: either side decides whatever the other is.
fn both(left: &Form, right: &Form, decides: bool, of: &dyn Values) -> Result<bool, Missing> {
    let first = truth(left, of);
    if first == Ok(decides) {
        return Ok(decides);
    }
    match (first, truth(right, of)) {
        (_, Ok(second)) if second == decides => Ok(decides),
        (Ok(_), Ok(second)) => Ok(second),
        (Err(Missing::Body), _) | (_, Err(Missing::Body)) => Err(Missing::Body),
        (Err(missing), _) | (_, Err(missing)) => Err(missing),
    }
}

fn compare(how: Compare, left: &Value<'_>, right: &Value<'_>) -> Result<bool, Missing> {
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "CEL compares numbers of different types by value; beyond 2^53 doubles are coarse"
        )]
        (Value::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        (Value::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Str(a), Value::Str(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Moment(a), Value::Moment(b)) => Some(a.cmp(b)),
        (Value::Span(a), Value::Span(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        // Values of different kinds are different, and neither is less.
        _ => {
            return match how {
                Compare::Equal => Ok(false),
                Compare::Differs => Ok(true),
                _ => Err(Missing::Unknown),
            };
        }
    };
    // NaN.
    let Some(order) = order else {
        return Ok(how == Compare::Differs);
    };
    Ok(match how {
        Compare::Equal => order.is_eq(),
        Compare::Differs => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::AtMost => order.is_le(),
        Compare::More => order.is_gt(),
        Compare::AtLeast => order.is_ge(),
    })
}

fn arithmetic<'a>(how: Arithmetic, left: &Value<'_>, right: &Value<'_>) -> Answer<'a> {
    let known = |number: Option<i64>| number.map(Value::Int).ok_or(Missing::Unknown);
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => known(match how {
            Arithmetic::Add => a.checked_add(*b),
            Arithmetic::Subtract => a.checked_sub(*b),
            Arithmetic::Times => a.checked_mul(*b),
            Arithmetic::Divide => a.checked_div(*b),
            Arithmetic::Rest => a.checked_rem(*b),
        }),
        (Value::Moment(a), Value::Span(b)) => match how {
            Arithmetic::Add => a.checked_add(*b),
            Arithmetic::Subtract => a.checked_sub(*b),
            _ => return Err(Missing::Unknown),
        }
        .map(Value::Moment)
        .map_err(|_| Missing::Unknown),
        (Value::Moment(a), Value::Moment(b)) if how == Arithmetic::Subtract => {
            Ok(Value::Span(a.duration_since(*b)))
        }
        _ => {
            let (a, b) = (number(left)?, number(right)?);
            Ok(Value::Double(match how {
                Arithmetic::Add => a + b,
                Arithmetic::Subtract => a - b,
                Arithmetic::Times => a * b,
                Arithmetic::Divide => a / b,
                Arithmetic::Rest => return Err(Missing::Unknown),
            }))
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "mixed arithmetic is that of doubles"
)]
fn number(value: &Value<'_>) -> Result<f64, Missing> {
    match value {
        Value::Int(number) => Ok(*number as f64),
        Value::Double(number) => Ok(*number),
        _ => Err(Missing::Unknown),
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "bounds are checked before the cast"
)]
fn convert<'a>(to: Type, value: Value<'a>) -> Answer<'a> {
    Ok(match (to, value) {
        (Type::Int, Value::Int(number)) => Value::Int(number),
        (Type::Int, Value::Double(number)) if number.abs() < 9.2e18 => Value::Int(number as i64),
        (Type::Int, Value::Str(text)) => {
            Value::Int(text.trim().parse().map_err(|_| Missing::Unknown)?)
        }
        (Type::Int, Value::Moment(at)) => Value::Int(at.as_second()),
        (Type::Double, Value::Int(number)) => Value::Double(number as f64),
        (Type::Double, Value::Double(number)) => Value::Double(number),
        (Type::Double, Value::Str(text)) => {
            let number: f64 = text.trim().parse().map_err(|_| Missing::Unknown)?;
            // "nan" and "inf" are no amounts; they would satisfy conditions that no number does.
            if !number.is_finite() {
                return Err(Missing::Unknown);
            }
            Value::Double(number)
        }
        (Type::String, Value::Str(text)) => Value::Str(text),
        (Type::String, Value::Int(number)) => Value::Str(Cow::Owned(number.to_string())),
        (Type::String, Value::Double(number)) => Value::Str(Cow::Owned(number.to_string())),
        (Type::String, Value::Bool(truth)) => {
            Value::Str(Cow::Borrowed(if truth { "true" } else { "false" }))
        }
        (Type::String, Value::Moment(at)) => Value::Str(Cow::Owned(at.to_string())),
        _ => return Err(Missing::Unknown),
    })
}

/// As CEL counts: months and days of the month and year from 0 (`getDate` from 1), Sunday is 0.
fn time_part(part: TimePart, at: Timestamp, zone: &jiff::tz::TimeZone) -> i64 {
    let local = zone.to_datetime(at);
    i64::from(match part {
        TimePart::FullYear => local.year(),
        TimePart::Month => i16::from(local.month()) - 1,
        TimePart::Date => i16::from(local.day()),
        TimePart::DayOfMonth => i16::from(local.day()) - 1,
        TimePart::DayOfWeek => i16::from(local.weekday().to_sunday_zero_offset()),
        TimePart::DayOfYear => local.day_of_year() - 1,
        TimePart::Hours => i16::from(local.hour()),
        TimePart::Minutes => i16::from(local.minute()),
        TimePart::Seconds => i16::from(local.second()),
        TimePart::Milliseconds => local.millisecond(),
    })
}
