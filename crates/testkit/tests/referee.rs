//! The referee over all cases, as `make referee` runs it.

use std::path::Path;
use std::process::Command;

#[test]
fn explain_naka_and_envoy_agree_on_every_case() {
    let venv =
        std::env::var_os("NAKA_VENV").expect("NAKA_VENV names the directory of the test peers");
    let output = Command::new(env!("CARGO_BIN_EXE_naka-referee"))
        .env("NAKA_ENVOY", Path::new(&venv).join("bin/envoy"))
        .output()
        .expect("the referee starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.lines().any(|line| line.starts_with("cases ")),
        "{said}"
    );
}
