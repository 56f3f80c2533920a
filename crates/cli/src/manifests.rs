//! Reading the files named by `-f`: files, directories, standard input.

use crate::exit::{Exit, Outcome};
use naka_api::{Decoded, Mode};
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file of manifests is larger.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// One file's name and content.
#[derive(Debug)]
pub(crate) struct Source {
    /// As the user named it; `-` for standard input.
    pub(crate) name: String,
    /// Content.
    pub(crate) bytes: Vec<u8>,
}

/// Reads everything the user named. A directory stands for its `.yaml`, `.yml` and `.json` files, sorted.
pub(crate) fn read(files: &[PathBuf]) -> Outcome<Vec<Source>> {
    let mut sources = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            sources.push(from(&mut std::io::stdin().lock(), "-")?);
        } else if file.is_dir() {
            for inner in in_directory(file)? {
                sources.push(open(&inner)?);
            }
        } else {
            sources.push(open(file)?);
        }
    }
    Ok(sources)
}

/// Reads and decodes everything the user named; objects without a namespace get `namespace`.
pub(crate) fn decode(files: &[PathBuf], namespace: &str, mode: Mode) -> Outcome<Decoded> {
    let mut all = Decoded::default();
    for source in read(files)? {
        all.append(naka_api::decode_yaml_in(
            &source.name,
            &source.bytes,
            mode,
            namespace,
        ));
    }
    Ok(all)
}

fn in_directory(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let named = |error: std::io::Error| Exit::failed(format!("{}: {error}", dir.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let manifest = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Exit::failed(format!(
            "{}: no .yaml, .yml or .json file",
            dir.display()
        )));
    }
    Ok(files)
}

fn open(path: &Path) -> Outcome<Source> {
    let name = path.display().to_string();
    let mut file =
        std::fs::File::open(path).map_err(|error| Exit::failed(format!("{name}: {error}")))?;
    from(&mut file, &name)
}

fn from(reader: &mut dyn Read, name: &str) -> Outcome<Source> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Exit::failed(format!("{name}: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Exit::failed(format!("{name}: larger than 64 MiB")));
    }
    Ok(Source {
        name: name.to_owned(),
        bytes,
    })
}
