//! From a tree to the evaluated form: names resolved, types checked, cost added up.

mod names;

use crate::attribute::{self, Attribute, Phase, Type, is_secret_header};
use crate::body::Step;
use crate::error::Error;
use crate::eval::{self, Missing, Value, Values};
use crate::form::{Arithmetic, Compare, Form, Test, TimePart};
use crate::limits;
use crate::parse::{Ast, Kind, parse};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use regex_automata::meta::Regex;
use std::fmt;

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A condition: true or false.
    Condition,
    /// A key: text, number or truth value.
    Key,
}

/// Where it is asked, which decides what is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Choosing a route: everything can be had, the body too.
    Route,
    /// Before a request is let in: what the head says.
    Limit,
}

impl Place {
    fn last_phase(self) -> Phase {
        match self {
            Self::Route => Phase::Body,
            Self::Limit => Phase::Head,
        }
    }
}

/// An attribute that an expression reads.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    attribute: &'static Attribute,
    name: String,
    form: Form,
    secret: bool,
}

/// A checked expression.
#[derive(Debug, Clone)]
pub struct Expression {
    source: Box<str>,
    form: Form,
    reads: Box<[Read]>,
    cost: u32,
}

/// Expressions are equal when their texts are.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Expression {
    /// Reads, checks and bounds an expression.
    ///
    /// # Errors
    /// [`Error`] with the character where it is wrong.
    pub fn compile(source: &str, purpose: Use, place: Place) -> Result<Self, Error> {
        let ast = parse(source)?;
        let mut checker = Checker {
            place,
            cost: 0,
            reads: Vec::new(),
        };
        let (form, ty) = checker.form(&ast)?;
        match (purpose, ty) {
            (Use::Condition, Type::Bool | Type::Json)
            | (Use::Key, Type::String | Type::Int | Type::Bool | Type::Json) => {}
            (Use::Condition, other) => {
                let fix = "compare it with something, for example: … == 'gold'";
                return Err(Error::new(
                    ast.column,
                    format!("a condition is true or false, this is a {other}"),
                    fix,
                ));
            }
            (Use::Key, other) => {
                let fix = "write an attribute, for example request.headers['x-merchant']";
                return Err(Error::new(
                    ast.column,
                    format!("a key is a text, a whole number or a truth value, this is a {other}"),
                    fix,
                ));
            }
        }
        if checker.cost > limits::COST {
            let message = format!("it costs {}, more than {}", checker.cost, limits::COST);
            return Err(Error::new(
                1,
                message,
                "look at fewer body fields, or at each once",
            ));
        }
        Ok(Self {
            source: source.into(),
            form,
            reads: checker.reads.into(),
            cost: checker.cost,
        })
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What one evaluation costs at most.
    #[must_use]
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Whether it is satisfied.
    ///
    /// # Errors
    /// [`Missing`] when that is not known.
    pub fn truth(&self, of: &dyn Values) -> Result<bool, Missing> {
        eval::truth(&self.form, of)
    }

    /// Its value.
    ///
    /// # Errors
    /// [`Missing`] when it is not known.
    pub fn value<'a>(&'a self, of: &'a dyn Values) -> Result<Value<'a>, Missing> {
        eval::value(&self.form, of)
    }

    /// Whether the body may be needed.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.reads
            .iter()
            .any(|read| read.attribute.phase == Phase::Body)
    }

    /// Attributes that it reads, as written.
    pub fn reads(&self) -> impl Iterator<Item = (&'static Attribute, &str)> {
        self.reads
            .iter()
            .map(|read| (read.attribute, read.name.as_str()))
    }

    /// What its attributes are for a request, for people: secrets are not shown.
    #[must_use]
    pub fn facts(&self, of: &dyn Values) -> Vec<(String, String)> {
        let shown = |read: &Read| match eval::value(&read.form, of) {
            Err(Missing::Body) => "not read yet".to_owned(),
            Err(Missing::Unknown) => "unknown".to_owned(),
            Ok(_) if read.secret => "(not shown)".to_owned(),
            Ok(Value::Null) => "null".to_owned(),
            Ok(Value::Bool(value)) => value.to_string(),
            Ok(Value::Int(value)) => value.to_string(),
            Ok(Value::Double(value)) => value.to_string(),
            Ok(Value::Str(text)) => format!("{text:?}"),
            Ok(Value::Moment(at)) => at.to_string(),
            Ok(Value::Span(span)) => format!("{span:#}"),
            Ok(Value::Inner(count)) => format!("{count} members"),
        };
        self.reads
            .iter()
            .map(|read| (read.name.clone(), shown(read)))
            .collect()
    }
}

pub use names::zone;
use names::{
    chain, comparable, header, is_number, literal, mismatch, split, unknown, unknown_name, written,
    zone_of,
};

struct Checker {
    place: Place,
    cost: u32,
    reads: Vec<Read>,
}

type Typed = Result<(Form, Type), Error>;

impl Checker {
    fn form(&mut self, ast: &Ast) -> Typed {
        if let Some(found) = self.attribute(ast)? {
            return Ok(found);
        }
        self.cost = self.cost.saturating_add(1);
        let at = ast.column;
        Ok(match &ast.kind {
            Kind::Bool(value) => (Form::Bool(*value), Type::Bool),
            Kind::Int(value) => (Form::Int(*value), Type::Int),
            Kind::Double(value) => (Form::Double(*value), Type::Double),
            Kind::Text(text) => (Form::Str(text.as_str().into()), Type::String),
            Kind::Not(inner) => (
                Form::Not(Box::new(self.wants(inner, Type::Bool)?)),
                Type::Bool,
            ),
            Kind::Minus(inner) => {
                let (form, ty) = self.form(inner)?;
                if !is_number(ty) {
                    return Err(mismatch(inner.column, "a number", ty));
                }
                (Form::Minus(Box::new(form)), ty)
            }
            Kind::Binary(operator, left, right) => self.binary(at, operator, left, right)?,
            Kind::Choice(condition, yes, no) => {
                let condition = self.wants(condition, Type::Bool)?;
                let ((yes, one), (no, other)) = (self.form(yes)?, self.form(no)?);
                if one != other {
                    return Err(Error::new(
                        at,
                        format!("one side is a {one}, the other a {other}"),
                        "make both the same type",
                    ));
                }
                (
                    Form::Choice(Box::new(condition), Box::new(yes), Box::new(no)),
                    one,
                )
            }
            Kind::Call(None, name, arguments) => self.function(at, name, arguments)?,
            Kind::Call(Some(on), name, arguments) => self.method(at, on, name, arguments)?,
            Kind::List(_) => {
                return Err(Error::new(
                    at,
                    "a list stands only to the right of \"in\"",
                    "write x in ['a', 'b']",
                ));
            }
            Kind::Name(_) | Kind::Member(..) | Kind::Index(..) => return Err(unknown_name(ast)),
        })
    }

    fn wants(&mut self, ast: &Ast, wanted: Type) -> Result<Form, Error> {
        let (form, ty) = self.form(ast)?;
        if ty == wanted || ty == Type::Json {
            Ok(form)
        } else {
            Err(mismatch(ast.column, &format!("a {wanted}"), ty))
        }
    }

    /// The attribute a chain of names is, if it is one.
    fn attribute(&mut self, ast: &Ast) -> Result<Option<(Form, Type)>, Error> {
        let Some((root, steps)) = chain(ast) else {
            return Ok(None);
        };
        let Some((row, rest)) = split(&root, &steps) else {
            return Ok(None);
        };
        if row.phase > self.place.last_phase() {
            let message = format!(
                "{} is not available here: it is known only after the request was let in",
                row.name
            );
            return Err(Error::new(
                ast.column,
                message,
                "use what the head says: request.headers, request.path, source.principal",
            ));
        }
        let key = |what: &str| match rest {
            [Step::Key(key)] => Ok(key.clone()),
            _ => Err(Error::new(
                ast.column,
                format!("{what} needs one name"),
                format!("write {}['name']", row.name),
            )),
        };
        let mut secret = false;
        let form = match row.name {
            "request.headers" => {
                let name = header(&key("a header")?, ast.column)?;
                secret = is_secret_header(name.as_str());
                Form::Header(name)
            }
            "request.query" => Form::Query(key("a query parameter")?),
            "request.body" => Form::Body(rest.into()),
            _ if !rest.is_empty() => {
                return Err(Error::new(
                    ast.column,
                    format!("{} has no members", row.name),
                    format!("write {}", row.name),
                ));
            }
            "request.time" => Form::Time,
            "destination.port" => Form::Port,
            name => match attribute::text(name) {
                Some(text) => Form::Text(text),
                None => return Ok(None),
            },
        };
        let ty = match row.ty {
            Type::Map => Type::String,
            other => other,
        };
        self.cost = self.cost.saturating_add(row.cost);
        let name = written(row, rest);
        if !self.reads.iter().any(|read| read.name == name) {
            self.reads.push(Read {
                attribute: row,
                name,
                form: form.clone(),
                secret,
            });
        }
        Ok(Some((form, ty)))
    }

    fn binary(&mut self, at: usize, operator: &str, left: &Ast, right: &Ast) -> Typed {
        let compare = match operator {
            "||" | "&&" => {
                let left = Box::new(self.wants(left, Type::Bool)?);
                let right = Box::new(self.wants(right, Type::Bool)?);
                let form = if operator == "||" {
                    Form::Or(left, right)
                } else {
                    Form::And(left, right)
                };
                return Ok((form, Type::Bool));
            }
            "in" => return self.one_of(at, left, right),
            "==" => Compare::Equal,
            "!=" => Compare::Differs,
            "<" => Compare::Less,
            "<=" => Compare::AtMost,
            ">" => Compare::More,
            ">=" => Compare::AtLeast,
            _ => return self.arithmetic(at, operator, left, right),
        };
        let ((left, one), (right, other)) = (self.form(left)?, self.form(right)?);
        if !comparable(one, other) {
            let fix = match (one, other) {
                (Type::String, Type::Int | Type::Double)
                | (Type::Int | Type::Double, Type::String) => {
                    "make a number of the text: int(…) or double(…)"
                }
                _ => "compare values of one type",
            };
            return Err(Error::new(
                at,
                format!("a {one} is compared with a {other}"),
                fix,
            ));
        }
        Ok((
            Form::Compare(compare, Box::new(left), Box::new(right)),
            Type::Bool,
        ))
    }

    /// `x in [...]`, `'name' in request.headers`, `'name' in request.query`.
    fn one_of(&mut self, at: usize, left: &Ast, right: &Ast) -> Typed {
        if let Kind::List(items) = &right.kind {
            let (wanted, ty) = self.form(left)?;
            let mut forms = Vec::with_capacity(items.len());
            for item in items {
                let (form, other) = self.form(item)?;
                if !comparable(ty, other) {
                    return Err(Error::new(
                        item.column,
                        format!("a {ty} is looked for, this is a {other}"),
                        "write values of one type",
                    ));
                }
                forms.push(form);
            }
            return Ok((Form::OneOf(Box::new(wanted), forms.into()), Type::Bool));
        }
        let map = chain(right).and_then(|(root, steps)| {
            split(&root, &steps)
                .filter(|(_, rest)| rest.is_empty())
                .map(|(row, _)| row.name)
        });
        let Kind::Text(name) = &left.kind else {
            return Err(Error::new(
                at,
                "\"in\" looks in a list, or for a fixed name in request.headers or request.query",
                "write x in ['a', 'b']",
            ));
        };
        self.cost = self.cost.saturating_add(3);
        match map {
            Some("request.headers") => {
                Ok((Form::HasHeader(header(name, left.column)?), Type::Bool))
            }
            Some("request.query") => Ok((Form::HasQuery(name.as_str().into()), Type::Bool)),
            _ => Err(Error::new(
                right.column,
                "\"in\" looks in a list, in request.headers or in request.query",
                "write x in ['a', 'b']",
            )),
        }
    }

    fn arithmetic(&mut self, at: usize, operator: &str, left: &Ast, right: &Ast) -> Typed {
        let how = match operator {
            "+" => Arithmetic::Add,
            "-" => Arithmetic::Subtract,
            "*" => Arithmetic::Times,
            "/" => Arithmetic::Divide,
            _ => Arithmetic::Rest,
        };
        let ((left, one), (right, other)) = (self.form(left)?, self.form(right)?);
        let ty = match (one, other, how) {
            (Type::Int, Type::Int, _) => Type::Int,
            (Type::Json, _, _) if is_number(other) => Type::Json,
            (_, Type::Json, _) if is_number(one) => Type::Json,
            (Type::Timestamp, Type::Duration, Arithmetic::Add | Arithmetic::Subtract) => {
                Type::Timestamp
            }
            (Type::Timestamp, Type::Timestamp, Arithmetic::Subtract) => Type::Duration,
            _ if is_number(one) && is_number(other) && how != Arithmetic::Rest => Type::Double,
            _ => {
                let message = format!("a {one} and a {other} have no {operator}");
                return Err(Error::new(at, message, "use numbers: int(…), double(…)"));
            }
        };
        Ok((Form::Arithmetic(how, Box::new(left), Box::new(right)), ty))
    }

    fn function(&mut self, at: usize, name: &str, arguments: &[Ast]) -> Typed {
        let [argument] = arguments else {
            return Err(Error::new(
                at,
                format!("{name}(…) takes one argument"),
                "write one argument",
            ));
        };
        let convert = |to: Type| move |form: Form| (Form::Convert(to, Box::new(form)), to);
        match name {
            "int" | "double" | "string" => {
                let (form, ty) = self.form(argument)?;
                if matches!(ty, Type::Duration)
                    || (name == "double" && matches!(ty, Type::Timestamp | Type::Bool))
                    || (name == "int" && ty == Type::Bool)
                {
                    return Err(mismatch(argument.column, "a text or a number", ty));
                }
                Ok(match name {
                    "int" => convert(Type::Int)(form),
                    "double" => convert(Type::Double)(form),
                    _ => convert(Type::String)(form),
                })
            }
            "size" => {
                let (form, ty) = self.form(argument)?;
                if !matches!(ty, Type::String | Type::Json) {
                    return Err(mismatch(argument.column, "a string", ty));
                }
                Ok((Form::Size(Box::new(form)), Type::Int))
            }
            "has" => match self.form(argument)?.0 {
                Form::Header(name) => Ok((Form::HasHeader(name), Type::Bool)),
                Form::Query(name) => Ok((Form::HasQuery(name), Type::Bool)),
                Form::Body(path) => Ok((Form::HasBody(path), Type::Bool)),
                _ => Err(Error::new(
                    argument.column,
                    "has(…) asks for a header, a query parameter or a body field",
                    "write has(request.body.amount)",
                )),
            },
            "timestamp" => {
                let text = literal(argument)?;
                let moment: Timestamp = text.parse().map_err(|_| {
                    Error::new(
                        argument.column,
                        format!("{text:?} is not a moment"),
                        "write timestamp('2026-11-01T18:30:00Z')",
                    )
                })?;
                Ok((Form::Moment(moment), Type::Timestamp))
            }
            "duration" => {
                let text = literal(argument)?;
                let span: SignedDuration = text.parse().map_err(|_| {
                    Error::new(
                        argument.column,
                        format!("{text:?} is not a length of time"),
                        "write duration('90s') or duration('1h30m')",
                    )
                })?;
                Ok((Form::Span(span), Type::Duration))
            }
            _ => Err(unknown(
                at,
                name,
                &[
                    "int",
                    "double",
                    "string",
                    "size",
                    "has",
                    "timestamp",
                    "duration",
                ],
            )),
        }
    }

    fn method(&mut self, at: usize, on: &Ast, name: &str, arguments: &[Ast]) -> Typed {
        if let Some((_, part)) = TimePart::ALL.iter().find(|(known, _)| *known == name) {
            let form = self.wants(on, Type::Timestamp)?;
            let zone = match arguments {
                [] => TimeZone::UTC,
                [zone] => zone_of(zone)?,
                _ => {
                    return Err(Error::new(
                        at,
                        format!("{name}(…) takes a time zone"),
                        format!("write {name}('Asia/Kolkata')"),
                    ));
                }
            };
            return Ok((Form::Part(*part, Box::new(form), zone), Type::Int));
        }
        let test = match name {
            "contains" => Test::Contains,
            "startsWith" => Test::StartsWith,
            "endsWith" => Test::EndsWith,
            "matches" => return self.matches(at, on, arguments),
            "lowerAscii" if arguments.is_empty() => {
                let form = self.wants(on, Type::String)?;
                return Ok((Form::Lower(Box::new(form)), Type::String));
            }
            "size" if arguments.is_empty() => {
                return self.function(at, "size", std::slice::from_ref(on));
            }
            _ => {
                return Err(unknown(
                    at,
                    name,
                    &[
                        "startsWith",
                        "endsWith",
                        "contains",
                        "matches",
                        "lowerAscii",
                        "size",
                        "getHours",
                        "getMinutes",
                        "getDayOfWeek",
                        "getDate",
                        "getMonth",
                        "getFullYear",
                    ],
                ));
            }
        };
        let [argument] = arguments else {
            return Err(Error::new(
                at,
                format!("{name}(…) takes one argument"),
                "write one text",
            ));
        };
        let text = self.wants(on, Type::String)?;
        let part = self.wants(argument, Type::String)?;
        self.cost = self.cost.saturating_add(4);
        Ok((Form::Test(test, Box::new(text), Box::new(part)), Type::Bool))
    }

    fn matches(&mut self, at: usize, on: &Ast, arguments: &[Ast]) -> Typed {
        let [argument] = arguments else {
            return Err(Error::new(
                at,
                "matches(…) takes one argument",
                "write one regular expression",
            ));
        };
        let text = self.wants(on, Type::String)?;
        let pattern = literal(argument)?;
        let wrong = |what: String| {
            Error::new(
                argument.column,
                what,
                "write a regular expression as RE2 reads them",
            )
        };
        if pattern.len() > limits::PATTERN_BYTES {
            return Err(wrong(format!(
                "a regular expression of more than {} bytes",
                limits::PATTERN_BYTES
            )));
        }
        let config = Regex::config()
            .nfa_size_limit(Some(limits::PATTERN_NFA_BYTES))
            .hybrid_cache_capacity(limits::PATTERN_CACHE_BYTES);
        let regex = Regex::builder()
            .configure(config)
            .build(pattern)
            .map_err(|error| wrong(format!("not a regular expression: {error}")))?;
        self.cost = self.cost.saturating_add(20);
        Ok((Form::Matches(Box::new(text), Box::new(regex)), Type::Bool))
    }
}

#[cfg(test)]
mod tests;
