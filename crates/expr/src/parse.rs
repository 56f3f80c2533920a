//! Tokens to a tree, by precedence as in CEL. Depth and size are bounded while it is read.

use crate::error::Error;
use crate::limits;
use crate::token::{Token, tokens};

/// A part of an expression and the character it begins at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ast {
    pub(crate) column: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Name(String),
    Member(Box<Ast>, String),
    Index(Box<Ast>, Box<Ast>),
    /// Function or method; the receiver first.
    Call(Option<Box<Ast>>, String, Vec<Ast>),
    List(Vec<Ast>),
    Not(Box<Ast>),
    Minus(Box<Ast>),
    Binary(&'static str, Box<Ast>, Box<Ast>),
    Choice(Box<Ast>, Box<Ast>, Box<Ast>),
}

/// Operators by precedence, the weakest first.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["==", "!=", "<=", ">=", "<", ">", "in"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// Reads an expression.
pub(crate) fn parse(source: &str) -> Result<Ast, Error> {
    if source.len() > limits::SOURCE_BYTES {
        let message = format!("longer than {} bytes", limits::SOURCE_BYTES);
        return Err(Error::new(1, message, "make it shorter"));
    }
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        depth: 0,
        nodes: 0,
        end: source.chars().count() + 1,
    };
    let ast = parser.whole()?;
    match parser.tokens.get(parser.at) {
        None => Ok(ast),
        Some((token, column)) => Err(Error::new(
            *column,
            format!("unexpected {}", shown(token)),
            "remove it, or join two conditions with && or ||",
        )),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Int(value) => value.to_string(),
        Token::Double(value) => value.to_string(),
        Token::Text(text) => format!("{text:?}"),
        Token::Mark(mark) => format!("{mark:?}"),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    nodes: usize,
    end: usize,
}

impl Parser {
    fn column(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.end, |(_, column)| *column)
    }

    fn takes(&mut self, mark: &str) -> bool {
        let is =
            matches!(self.tokens.get(self.at), Some((Token::Mark(found), _)) if *found == mark);
        self.at += usize::from(is);
        is
    }

    fn needs(&mut self, mark: &str) -> Result<(), Error> {
        if self.takes(mark) {
            return Ok(());
        }
        let found = match self.tokens.get(self.at) {
            None => "the end".to_owned(),
            Some((token, _)) => shown(token),
        };
        Err(Error::new(
            self.column(),
            format!("expected {mark:?}, found {found}"),
            format!("add {mark}"),
        ))
    }

    fn node(&mut self, column: usize, kind: Kind) -> Result<Ast, Error> {
        self.nodes += 1;
        if self.nodes > limits::NODES {
            return Err(Error::new(
                column,
                format!("more than {} parts", limits::NODES),
                "make it shorter",
            ));
        }
        Ok(Ast { column, kind })
    }

    fn whole(&mut self) -> Result<Ast, Error> {
        self.depth += 1;
        if self.depth > limits::DEPTH {
            let message = format!("nested more than {} deep", limits::DEPTH);
            return Err(Error::new(self.column(), message, "make it flatter"));
        }
        let condition = self.binary(0)?;
        let column = condition.column;
        let ast = if self.takes("?") {
            let yes = self.binary(0)?;
            self.needs(":")?;
            let no = self.whole()?;
            self.node(
                column,
                Kind::Choice(Box::new(condition), Box::new(yes), Box::new(no)),
            )?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(ast)
    }

    fn operator(&mut self, level: usize) -> Option<&'static str> {
        let found = match self.tokens.get(self.at)? {
            (Token::Mark(mark), _) => mark,
            (Token::Name(name), _) if name == "in" => "in",
            _ => return None,
        };
        let operator = LEVELS[level].iter().find(|known| **known == found)?;
        self.at += 1;
        Some(operator)
    }

    fn binary(&mut self, level: usize) -> Result<Ast, Error> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        loop {
            let column = self.column();
            let Some(operator) = self.operator(level) else {
                return Ok(left);
            };
            let right = self.binary(level + 1)?;
            left = self.node(
                column,
                Kind::Binary(operator, Box::new(left), Box::new(right)),
            )?;
        }
    }

    fn unary(&mut self) -> Result<Ast, Error> {
        let column = self.column();
        let mut signs = Vec::new();
        loop {
            if self.takes("!") {
                signs.push('!');
            } else if self.takes("-") {
                signs.push('-');
            } else {
                break;
            }
        }
        let mut ast = self.postfix()?;
        for sign in signs.into_iter().rev() {
            let inner = Box::new(ast);
            let kind = match sign {
                '!' => Kind::Not(inner),
                _ => Kind::Minus(inner),
            };
            ast = self.node(column, kind)?;
        }
        Ok(ast)
    }

    fn postfix(&mut self) -> Result<Ast, Error> {
        let mut ast = self.primary()?;
        let start = ast.column;
        loop {
            if self.takes(".") {
                let column = self.column();
                let Some((Token::Name(name), _)) = self.tokens.get(self.at).cloned() else {
                    return Err(Error::new(
                        column,
                        "expected a name after \".\"",
                        "write for example request.path",
                    ));
                };
                self.at += 1;
                ast = if self.takes("(") {
                    let arguments = self.list(")")?;
                    self.node(column, Kind::Call(Some(Box::new(ast)), name, arguments))?
                } else {
                    self.node(start, Kind::Member(Box::new(ast), name))?
                };
            } else if self.takes("[") {
                let index = self.whole()?;
                self.needs("]")?;
                ast = self.node(start, Kind::Index(Box::new(ast), Box::new(index)))?;
            } else {
                return Ok(ast);
            }
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Ast>, Error> {
        let mut out = Vec::new();
        if self.takes(end) {
            return Ok(out);
        }
        loop {
            out.push(self.whole()?);
            if self.takes(end) {
                return Ok(out);
            }
            self.needs(",")?;
        }
    }

    fn primary(&mut self) -> Result<Ast, Error> {
        let column = self.column();
        let Some((token, _)) = self.tokens.get(self.at).cloned() else {
            return Err(Error::new(
                column,
                "the expression ends too early",
                "write the missing part",
            ));
        };
        self.at += 1;
        let kind = match token {
            Token::Int(value) => Kind::Int(value),
            Token::Double(value) => Kind::Double(value),
            Token::Text(text) => Kind::Text(text),
            Token::Mark("(") => {
                let inner = self.whole()?;
                self.needs(")")?;
                return Ok(inner);
            }
            Token::Mark("[") => Kind::List(self.list("]")?),
            Token::Name(name) => match name.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                _ if self.takes("(") => Kind::Call(None, name, self.list(")")?),
                _ => Kind::Name(name),
            },
            Token::Mark(mark) => {
                return Err(Error::new(
                    column,
                    format!("unexpected {mark:?}"),
                    "write a value or an attribute",
                ));
            }
        };
        self.node(column, kind)
    }
}
