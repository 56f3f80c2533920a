//! TLS settings towards servers outside the mesh, made once per destination, name and kind of use.
//!
//! Files are read when settings are made, and again after [`LOOK`] if one of them has changed: a renewed certificate
//! counts for the next connections without a word. A file that cannot be read means no connection, never one without
//! the check it was for.

use super::connect::Secured;
use crate::hash::QuickMap;
use crate::tls::Carry;
use naka_engine::model::{OutsideTls, Source};
use naka_identity::{OutsidePems, outside_tls};
use naka_types::reason::Reason;
use rustls_pki_types::ServerName;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Files are looked at no more often.
const LOOK: Duration = Duration::from_secs(5);
/// Settings kept before they start afresh.
const KEPT: usize = 1_024;

#[derive(Debug)]
struct Made {
    of: Arc<OutsideTls>,
    files: Vec<Option<SystemTime>>,
    looked: Instant,
    number: u64,
    secured: Secured,
}

/// Where the settings' wishes are, what they are for, and the name that is called.
type Key = (usize, Carry, Box<str>);

/// Settings of one worker.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    made: RefCell<QuickMap<Key, Made>>,
}

impl Foreign {
    /// The settings and their number towards a host that is called by this name.
    pub(crate) fn towards(
        &self,
        wanted: &Arc<OutsideTls>,
        called: &str,
        carry: Carry,
        number: impl FnOnce() -> u64,
    ) -> Result<(u64, Secured), Reason> {
        if wanted.nobody {
            return Err(Reason::TlsFailed);
        }
        let name = wanted.sni.as_deref().unwrap_or(called);
        let key = (Arc::as_ptr(wanted).addr(), carry, Box::from(name));
        let mut made = self.made.borrow_mut();
        if let Some(known) = made.get_mut(&key)
            && Arc::ptr_eq(&known.of, wanted)
        {
            if known.looked.elapsed() < LOOK || files(wanted) == known.files {
                known.looked = Instant::now();
                return Ok((known.number, known.secured.clone()));
            }
            made.remove(&key);
        }
        let fail = |error: naka_identity::Error| {
            tracing::warn!(%name, %error, "no TLS settings for a server outside the mesh");
            Reason::TlsFailed
        };
        let before = files(wanted);
        let pems = pems(wanted).map_err(fail)?;
        let config =
            outside_tls(&pems, &wanted.names, wanted.verify, carry.foreign_alpn()).map_err(fail)?;
        let server = ServerName::try_from(name.to_owned()).map_err(|_| Reason::TlsFailed)?;
        let secured = Secured {
            config,
            name: server,
        };
        let number = number();
        if made.len() >= KEPT {
            made.clear();
        }
        let one = Made {
            of: Arc::clone(wanted),
            files: before,
            looked: Instant::now(),
            number,
            secured: secured.clone(),
        };
        made.insert(key, one);
        Ok((number, secured))
    }
}

fn sources(wanted: &OutsideTls) -> impl Iterator<Item = &Source> {
    let pair = wanted.certificate.iter().flat_map(|(one, two)| [one, two]);
    wanted.roots.iter().chain(&wanted.revoked).chain(pair)
}

/// Whether something of it is in files.
pub(crate) fn has_files(wanted: &OutsideTls) -> bool {
    sources(wanted).any(|source| matches!(source, Source::File(_)))
}

/// Whether settings can be made of it now.
pub(crate) fn usable(wanted: &OutsideTls) -> Result<(), naka_identity::Error> {
    outside_tls(&pems(wanted)?, &wanted.names, wanted.verify, &[]).map(drop)
}

/// When the files were changed last.
fn files(wanted: &OutsideTls) -> Vec<Option<SystemTime>> {
    sources(wanted)
        .filter_map(|source| match source {
            Source::File(path) => Some(path),
            Source::Inline(_) => None,
        })
        .map(|path| std::fs::metadata(&**path).and_then(|m| m.modified()).ok())
        .collect()
}

fn pems(wanted: &OutsideTls) -> Result<OutsidePems, naka_identity::Error> {
    let read = |source: &Source| match source {
        Source::Inline(bytes) => Ok(bytes.to_vec()),
        Source::File(path) => std::fs::read(&**path).map_err(|source| naka_identity::Error::File {
            path: (&**path).into(),
            source,
        }),
    };
    Ok(OutsidePems {
        roots: wanted.roots.as_ref().map(read).transpose()?,
        revoked: wanted.revoked.as_ref().map(read).transpose()?,
        certificate: match &wanted.certificate {
            None => None,
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
        },
    })
}
