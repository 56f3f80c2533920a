//! Who called, as its certificate said, and what it showed besides.

use naka_types::spiffe::SpiffeId;
use naka_types::workload::Ulid;
use rustls_pki_types::CertificateDer;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// More intermediates than sign at once.
const KEPT: usize = 16;

/// A verified caller.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) spiffe: SpiffeId,
    pub(crate) text: Arc<str>,
    pub(crate) id: Option<Ulid>,
    /// The last certificate it showed, of one that was verified by the mesh's roots.
    pub(crate) top: Option<Rc<CertificateDer<'static>>>,
}

/// What callers showed last: the same few for all, so that a connection costs a pointer.
#[derive(Debug, Default)]
pub(crate) struct Tops(RefCell<Vec<Rc<CertificateDer<'static>>>>);

impl Tops {
    /// The one copy of what a caller showed last.
    pub(crate) fn of(&self, shown: &[CertificateDer<'_>]) -> Option<Rc<CertificateDer<'static>>> {
        let last = shown.last()?;
        let mut tops = self.0.borrow_mut();
        if let Some(known) = tops.iter().find(|known| ***known == *last) {
            return Some(Rc::clone(known));
        }
        if tops.len() >= KEPT {
            tops.clear();
        }
        let top = Rc::new(last.clone().into_owned());
        tops.push(Rc::clone(&top));
        Some(top)
    }
}
