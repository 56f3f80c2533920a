//! A sealed stream: bytes of any length under a passphrase, in pieces that cannot be changed, moved or cut off.
//!
//! A file is `NAKABAK\n`, format number, Argon2id cost (KiB, passes), salt, then pieces of 1 MiB under AES-256-GCM. The
//! key is of this file alone (its salt is of chance), so a counter is a sound nonce; the last byte of the nonce marks
//! the last piece, so a file that ends early does not open. The head is bound to every piece. This is the STREAM
//! construction, as age uses it.
//!
//! Why pieces: a log may be larger than memory, and a wrong passphrase is known after the first one.

use crate::Error;
use crate::log::fill;
use crate::passphrase::{self, Cost, Passphrase, SALT};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"NAKABAK\n";
/// Format written by this version.
pub(crate) const FORMAT: u32 = 1;
const HEAD: usize = 8 + 4 + 8 + SALT;
const PIECE: usize = 1 << 20;
const TAG: usize = 16;

/// What a file that does not open says. Wrong passphrase and damage look the same on purpose: authentication fails.
const CLOSED: &str = "it does not open: the passphrase is wrong, or the file is damaged or cut off";

fn aead(passphrase: &Passphrase, head: &[u8; HEAD]) -> Result<LessSafeKey, Error> {
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let cost = Cost {
        memory_kib: word(12),
        passes: word(16),
    };
    let key = passphrase::key(passphrase, &head[20..], cost)?;
    UnboundKey::new(&AES_256_GCM, key.as_slice())
        .map(LessSafeKey::new)
        .map_err(|_| Error::Invalid("the derived key is not usable".to_owned()))
}

fn nonce(piece: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&piece.to_le_bytes());
    bytes[NONCE_LEN - 1] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written to it. Without [`Sealed::finish`] the result does not open.
pub(crate) struct Sealed<W> {
    out: W,
    key: LessSafeKey,
    head: [u8; HEAD],
    piece: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Sealed<W> {
    pub(crate) fn new(mut out: W, passphrase: &Passphrase, cost: Cost) -> Result<Self, Error> {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        head[12..16].copy_from_slice(&cost.memory_kib.to_le_bytes());
        head[16..20].copy_from_slice(&cost.passes.to_le_bytes());
        head[20..].copy_from_slice(&passphrase::salt()?);
        out.write_all(&head)
            .map_err(|error| Error::io("writing the backup", error))?;
        Ok(Self {
            out,
            key: aead(passphrase, &head)?,
            head,
            piece: 0,
            buffer: Vec::with_capacity(PIECE + TAG),
        })
    }

    fn put(&mut self, last: bool) -> io::Result<()> {
        let nonce = nonce(self.piece, last);
        self.piece += 1;
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(self.head), &mut self.buffer)
            .map_err(|_| io::Error::other("sealing failed"))?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the last piece and hands the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full piece waits until more comes: only then it is known not to be the last.
        if self.buffer.len() == PIECE {
            self.put(false)?;
        }
        let taken = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what [`Sealed`] wrote. Nothing is handed out that was not authenticated; the end is handed out only if it is
/// the true one.
pub(crate) struct Opened<R> {
    input: R,
    key: LessSafeKey,
    head: [u8; HEAD],
    piece: u64,
    plain: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Opened<R> {
    /// Reads the head. `name` stands in messages.
    pub(crate) fn new(mut input: R, name: &str, passphrase: &Passphrase) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Invalid(format!("{name}: {why}"));
        let mut head = [0; HEAD];
        let got = fill(&mut input, &mut head)
            .map_err(|error| Error::io(format!("reading {name}"), error))?;
        if got < 12 || head[..8] != *MAGIC {
            return Err(refuse("it is no backup of a Naka mesh"));
        }
        let format = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if format > FORMAT {
            return Err(Error::NewerFormat {
                file: name.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        if got < HEAD || format != FORMAT {
            return Err(refuse("its head is damaged"));
        }
        let key = aead(passphrase, &head).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self {
            input,
            key,
            head,
            piece: 0,
            plain: Vec::new(),
            at: 0,
            ended: false,
        })
    }

    fn next(&mut self) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::InvalidData, CLOSED);
        self.plain.resize(PIECE + TAG, 0);
        let got = fill(&mut self.input, &mut self.plain)?;
        self.plain.truncate(got);
        // A full piece may be the last one too, when nothing follows.
        let turns: &[bool] = if got == PIECE + TAG {
            &[false, true]
        } else {
            &[true]
        };
        for last in turns {
            let mut body = self.plain.clone();
            let nonce = nonce(self.piece, *last);
            let opened = self
                .key
                .open_in_place(nonce, Aad::from(self.head), &mut body);
            let Ok(length) = opened.map(|plain| plain.len()) else {
                continue;
            };
            if *last && fill(&mut self.input, &mut [0])? > 0 {
                return Err(closed());
            }
            body.truncate(length);
            self.plain = body;
            (self.at, self.ended) = (0, *last);
            self.piece += 1;
            return Ok(());
        }
        Err(closed())
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if self.ended {
                return Ok(0);
            }
            self.next()?;
        }
        let given = out.len().min(self.plain.len() - self.at);
        out[..given].copy_from_slice(&self.plain[self.at..self.at + given]);
        self.at += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::{HEAD, Opened, PIECE, Sealed, TAG};
    use crate::passphrase::{Cost, Passphrase};
    use std::io::{Read, Write};

    const CHEAP: Cost = Cost {
        memory_kib: 64,
        passes: 1,
    };

    fn word(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec()).unwrap()
    }

    fn seal(plain: &[u8]) -> Vec<u8> {
        let mut sealed = Sealed::new(Vec::new(), &word("right"), CHEAP).unwrap();
        sealed.write_all(plain).unwrap();
        sealed.finish().unwrap()
    }

    fn open(file: &[u8], passphrase: &str) -> Result<Vec<u8>, String> {
        let mut opened = Opened::new(file, "file", &word(passphrase)).map_err(|e| e.to_string())?;
        let mut plain = Vec::new();
        opened
            .read_to_end(&mut plain)
            .map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn every_length_comes_back() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7] {
            let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            assert!(open(&seal(&plain), "right").unwrap() == plain, "{length}");
        }
    }

    #[test]
    fn a_byte_flipped_anywhere_a_cut_and_a_swap_are_refused() {
        let file = seal(b"the log, the keys of the authority, the tokens");
        assert!(open(&file, "right").is_ok());
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 0x01;
            assert!(open(&flipped, "right").is_err(), "flipped at {at}");
            assert!(open(&file[..at], "right").is_err(), "cut at {at}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert!(open(&longer, "right").is_err());
        let large = seal(&vec![7; 3 * PIECE]);
        let (one, two) = (HEAD, HEAD + PIECE + TAG);
        let mut swapped = large.clone();
        swapped.copy_within(two..two + PIECE + TAG, one);
        assert!(open(&swapped, "right").is_err());
        assert!(open(&large[..two], "right").is_err(), "cut between pieces");
    }

    #[test]
    fn foreign_newer_and_locked_files_are_told_apart() {
        assert!(
            open(b"PK\x03\x04 something else", "right")
                .unwrap_err()
                .contains("no backup")
        );
        let mut newer = seal(b"x");
        newer[8] = 9;
        assert!(
            open(&newer, "right")
                .unwrap_err()
                .contains("use a newer naka")
        );
        assert!(
            open(&seal(b"x"), "wrong")
                .unwrap_err()
                .contains("passphrase is wrong")
        );
    }
}
