//! `naka explain -f` for a caller inside the process: the referee of the tests asks thousands of requests.
//!
//! The request is read by the same parser as on the command line, so what is asked here can be typed there. Answers are
//! the JSON of `-o json`. Not here: judging them.

use super::{request, world};
use crate::args::{Args, Command};
use clap::Parser;
use naka_api::Object;
use naka_types::host::Host;
use naka_types::labels::Labels;
use serde_json::Value;
use std::collections::BTreeMap;

/// A request, as it would be typed.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// `GET http://payment/pay`
    pub request: String,
    /// Headers.
    pub headers: BTreeMap<String, String>,
    /// How the tries end: a status, `connect-failed`, `reset`.
    pub answers: Vec<String>,
    /// Namespace of the caller.
    pub namespace: String,
    /// More options of `naka explain`.
    pub options: Vec<String>,
}

impl Question {
    fn read(&self) -> Result<request::Asked, String> {
        let mut line = vec!["naka".to_owned(), "explain".to_owned()];
        line.extend(self.request.split(' ').map(str::to_owned));
        for (name, value) in &self.headers {
            line.extend(["-H".to_owned(), format!("{name}: {value}")]);
        }
        for answer in &self.answers {
            line.extend(["--answer".to_owned(), answer.clone()]);
        }
        line.extend(["-n".to_owned(), self.namespace.clone()]);
        line.extend(self.options.iter().cloned());
        let args = Args::try_parse_from(&line).map_err(|error| error.to_string())?;
        let Command::Explain(args) = args.command else {
            return Err(format!("{line:?} is no question"));
        };
        request::Asked::read(&args).map_err(|error| error.to_string())
    }

    /// Services that the objects and this request speak of: the ports they are called at and the labels of their
    /// subsets.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub fn services(&self, objects: &[Object]) -> Result<BTreeMap<Host, Implied>, String> {
        let asked = self.read()?;
        Ok(world::implied(objects, &self.namespace, &asked.host))
    }

    /// Asks `times` over (what depends on chance is drawn anew) and returns what came of it each time.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub fn ask(&self, objects: &[Object], times: usize) -> Result<Vec<Value>, String> {
        let asked = self.read()?;
        let world = world::of_objects(objects.to_vec(), &self.namespace, &asked.host);
        let explained = (0..times).map(|_| request::explain(&world, &asked, &[]).to_json(&[]));
        Ok(explained.collect())
    }
}

/// What objects say of a service without declaring it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Implied {
    /// Ports it is called at.
    pub ports: std::collections::BTreeSet<u16>,
    /// Labels of its subsets.
    pub subsets: Vec<Labels>,
}
