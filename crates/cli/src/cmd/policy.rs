//! `naka policy generate`: a service-call matrix in, policies out.
//!
//! Pure from the file to the text, so that the same file always makes the same objects. A file with an error makes
//! none: half a matrix, applied by the pipe that is waiting, would let something through that the whole does not.

mod document;
mod jurisdiction;
mod matrix;
mod names;
mod objects;
mod posture;
mod traits;

use crate::args::{self, Output, PolicyCommand};
use crate::exit::{BAD, Exit, Outcome};
use crate::{manifests, out};
use document::Document;
use names::Names;
use serde_json::{Value, json};

/// An object with the lines of the file that it comes from.
#[derive(Debug)]
pub(crate) struct Made {
    /// Comments above it, without `# `.
    comments: Vec<String>,
    object: Value,
}

/// Runs `naka policy`.
pub(crate) fn run(args: &args::Policy) -> Outcome {
    match &args.command {
        PolicyCommand::Generate(generate) => generated(generate),
    }
}

fn generated(args: &args::Generate) -> Outcome {
    let sources = manifests::read(std::slice::from_ref(&args.file))?;
    let [source] = sources.as_slice() else {
        let file = args.file.display();
        return Err(Exit::usage(format!("{file}: write the name of one file")));
    };
    let mut document = Document::read(&source.name, &source.bytes);
    let made = make(&mut document, &args.namespace);
    document.sort();
    for finding in &document.findings {
        out::note(finding.to_string());
    }
    if document.findings.iter().any(|finding| finding.is_error()) {
        out::note("naka: nothing was made: correct the errors first");
        return Err(Exit::silent(BAD));
    }
    match args.output {
        Output::Json => {
            let items: Vec<&Value> = made.iter().map(|one| &one.object).collect();
            out::json(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
        }
        Output::Yaml | Output::Wide => out::raw(text(&made)),
    }
    Ok(())
}

/// Everything that a document asks for, in the order it is printed.
fn make(document: &mut Document, namespace: &str) -> Vec<Made> {
    let names = Names::read(document, namespace);
    let mut made = posture::make(document, &names);
    made.extend(traits::make(document, &names));
    made.extend(matrix::make(document, &names));
    made.extend(jurisdiction::make(document, &names));
    made
}

fn text(made: &[Made]) -> String {
    let documents: Vec<String> = made
        .iter()
        .map(|one| {
            let comments: String = one
                .comments
                .iter()
                .map(|line| format!("# {line}\n"))
                .collect();
            comments + &out::yaml(&one.object)
        })
        .collect();
    documents.join("---\n")
}

#[cfg(test)]
mod tests;
