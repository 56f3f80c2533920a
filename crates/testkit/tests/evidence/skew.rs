//! Files of a newer Naka: each stops the start with a plain word and is left as it was.

use naka_testkit::mesh::Mesh;
use std::path::Path;

/// CRC-32C, bit by bit: the log's head carries it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let bit = crc & 1;
            (crc >> 1) ^ (bit * 0x82f6_3b78)
        })
    })
}

/// The file as a version of the future would have begun it.
fn newer(name: &str, old: &[u8]) -> Vec<u8> {
    let mut bytes = old.to_vec();
    match name {
        "log" => {
            bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
            let crc = crc32c(&bytes[..12]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        "snapshot" => bytes = [&b"NAKASNP\n"[..], &9_u32.to_le_bytes(), &[0; 8]].concat(),
        "seal.key" => bytes[7] = 9,
        "ports.json" => bytes = br#"{"format":2,"ports":["another shape"]}"#.to_vec(),
        _ => {
            let text = String::from_utf8_lossy(old);
            bytes = text
                .replacen("naka-authority 1", "naka-authority 2", 1)
                .into_bytes();
        }
    }
    assert_ne!(bytes, old, "{name}");
    bytes
}

/// Each file of a mesh directory has a format number. A newer one ends the start with code 2 and the file's name, and
/// stays as it is; the twin, the file as it was, starts.
#[test]
fn a_file_of_a_newer_format_stops_the_start_and_is_left_alone() {
    let mut mesh = Mesh::up();
    mesh.kill_control();
    let dir = mesh.home().join("mesh/local");
    for name in [
        "log",
        "snapshot",
        "seal.key",
        "ports.json",
        "ca/root.pem",
        "ca/intermediate.pem",
    ] {
        let path = dir.join(name);
        let old = std::fs::read(&path).ok();
        let bytes = newer(name, old.as_deref().unwrap_or_default());
        std::fs::write(&path, &bytes).expect("write");
        let output = mesh.naka(["control"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {told}");
        let file = Path::new(name)
            .file_name()
            .expect("a name")
            .to_string_lossy();
        assert!(
            told.contains("format") && told.contains(&*file),
            "{name}: {told}"
        );
        assert_eq!(
            std::fs::read(&path).expect("read"),
            bytes,
            "{name} is left alone"
        );
        match old {
            Some(old) => std::fs::write(&path, old).expect("write"),
            None => std::fs::remove_file(&path).expect("remove"),
        }
    }
    mesh.start_control();
}
