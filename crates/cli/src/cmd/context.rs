//! `naka context`: list contexts, or make one current.

use crate::args;
use crate::contexts::{Contexts, NO_MESH};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;

/// Runs `naka context`.
pub(crate) fn run(args: &args::Context) -> Outcome {
    let home = Home::from_env()?;
    let mut contexts = Contexts::open(&home)?;
    if let Some(name) = &args.name {
        contexts.choose(Some(name))?;
        contexts.make_current(name);
        contexts.save()?;
        out::line(format!("context {name} is current"));
        return Ok(());
    }
    let names = contexts.names();
    if names.is_empty() {
        return Err(Exit::failed(NO_MESH));
    }
    let mut table = out::Table::new(&["CURRENT", "NAME", "MESH", "API"]);
    for name in names {
        let context = contexts.choose(Some(&name))?;
        let mark = if name == contexts.current() { "*" } else { "" };
        table.row([mark, &name, &context.mesh, &context.server]);
    }
    table.print(NO_MESH);
    Ok(())
}
