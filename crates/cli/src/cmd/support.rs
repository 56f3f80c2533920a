//! `naka support`: one file for a bug report, without anybody's secrets.
//!
//! Collected: versions, contexts, what the control plane says, metrics, each proxy's admin pages, ends of logs, facts
//! about the machine. The file is 0600 and stays here: it is the user who sends it, after a look inside.

mod collect;
mod redact;

use crate::args;
use crate::exit::{Exit, Outcome};
use crate::home::{Home, write_secret};
use crate::out;
use collect::Bundle;
use redact::Redactor;
use std::path::PathBuf;

/// Runs `naka support`.
pub(crate) async fn run(args: &args::Support, context: Option<&str>) -> Outcome {
    let home = Home::from_env()?;
    let mut redact = Redactor::new(args.no_redaction)?;
    collect::learn(&home, &mut redact);
    let mut bundle = Bundle::default();
    collect::machine(&mut bundle, &redact);
    collect::mesh(&mut bundle, &redact, &home, context).await;
    collect::proxies(&mut bundle, &redact, &home, args.lines).await;
    let now = naka_identity::now_s();
    let name = format!("naka-support-{now}");
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let count = bundle.files.len();
    let missing: Vec<String> = bundle
        .missing
        .iter()
        .map(|text| redact.text(text))
        .collect();
    write_secret(&path, &pack(&name, bundle, &missing, now)?)?;
    let word = if args.no_redaction {
        "NOT redacted: it holds secrets"
    } else {
        "redacted"
    };
    out::line(format!("{}: {count} files, {word}", path.display()));
    for text in missing {
        out::line(format!("  not there: {text}"));
    }
    out::line("look inside before you send it: tar tzf, then tar xzf");
    Ok(())
}

/// The archive, everything below one directory.
fn pack(name: &str, bundle: Bundle, missing: &[String], now: u64) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| Exit::failed(format!("the archive: {error}"));
    let mut readme = String::from(
        "A bundle of `naka support`. Values of secrets are [redacted]; private keys, the authority and the log of events are not in it.\n",
    );
    for text in missing {
        readme.push_str(&format!("not there: {text}\n"));
    }
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    let files = std::iter::once(("README.txt".to_owned(), readme.into_bytes())).chain(bundle.files);
    for (file, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive
            .append_data(&mut header, format!("{name}/{file}"), content.as_slice())
            .map_err(failed)?;
    }
    archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(failed)
}
