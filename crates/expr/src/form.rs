//! The evaluated form: everything that configuration time can decide is decided.

use crate::attribute::{Text, Type};
use crate::body::Step;
use http::HeaderName;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use regex_automata::meta::Regex;

/// A part.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    Bool(bool),
    Int(i64),
    Double(f64),
    Str(Box<str>),
    Moment(Timestamp),
    Span(SignedDuration),
    Text(Text),
    Header(HeaderName),
    HasHeader(HeaderName),
    Query(Box<str>),
    HasQuery(Box<str>),
    Body(Box<[Step]>),
    HasBody(Box<[Step]>),
    Port,
    Time,
    Not(Box<Form>),
    Minus(Box<Form>),
    And(Box<Form>, Box<Form>),
    Or(Box<Form>, Box<Form>),
    Compare(Compare, Box<Form>, Box<Form>),
    Arithmetic(Arithmetic, Box<Form>, Box<Form>),
    Choice(Box<Form>, Box<Form>, Box<Form>),
    OneOf(Box<Form>, Box<[Form]>),
    Test(Test, Box<Form>, Box<Form>),
    Matches(Box<Form>, Box<Regex>),
    Lower(Box<Form>),
    Convert(Type, Box<Form>),
    Size(Box<Form>),
    Part(TimePart, Box<Form>, TimeZone),
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Differs,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Times,
    Divide,
    Rest,
}

/// Tests of one text by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Contains,
    StartsWith,
    EndsWith,
}

/// Parts of a moment, by CEL's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimePart {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

impl TimePart {
    /// The method's name.
    pub(crate) const ALL: &[(&'static str, Self)] = &[
        ("getFullYear", Self::FullYear),
        ("getMonth", Self::Month),
        ("getDate", Self::Date),
        ("getDayOfMonth", Self::DayOfMonth),
        ("getDayOfWeek", Self::DayOfWeek),
        ("getDayOfYear", Self::DayOfYear),
        ("getHours", Self::Hours),
        ("getMinutes", Self::Minutes),
        ("getSeconds", Self::Seconds),
        ("getMilliseconds", Self::Milliseconds),
    ];
}
