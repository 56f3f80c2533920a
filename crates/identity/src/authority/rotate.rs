//! Another root in a running mesh, in steps that each leave every certificate believed: the next root is **prepared**
//! (trusted, does not sign), then it **signs** and the one before is **retired** (still trusted), then the retired one is
//! **dropped**. Until then each step can be taken back.
//!
//! Beside the files of what signs lie `next-root.pem` and `next-intermediate.pem` of what is prepared, and `old-…` of
//! what is retired. The one step that touches several files, the switch, leaves a mark (`switch.pem`) first: a start that
//! finds it completes the switch. `replaced.pem` keeps the certificates of dropped roots, which are never taken up again.
//!
//! Who knows the old root alone (a join token, a kubeconfig) must still be able to verify the control plane. So the old
//! root also signs the new intermediate (`cross.pem`), where its key is here and nobody else has it; the control plane's
//! own chain then leads to either root, after the old one was dropped, too. Where it cannot, the control plane shows a
//! certificate of the retired root until that is dropped.
//!
//! Not here: when a step may be taken.

use super::files::{self, FORMAT, WORD, damaged};
use super::{Authority, Held, INTERMEDIATE_TTL, Pair, ROOT_TTL, Signer, TrustedRoot, chain};
use crate::bundle::{Bundle, certificates, to_pem};
use crate::{Error, disk, sha256_hex};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const NEXT: &str = "next";
const OLD: &str = "old";

/// The signing intermediate once more, signed by the root before.
#[derive(Clone)]
pub(super) struct Crossed {
    certificate: CertificateDer<'static>,
    root: CertificateDer<'static>,
}

/// Where the next root comes from.
#[derive(Clone)]
pub enum Next {
    /// It is made here, with its key.
    Made,
    /// It is made elsewhere: what Istio's `cacerts` has.
    Given {
        /// `root-cert.pem`.
        root_pem: String,
        /// `ca-cert.pem`, then `cert-chain.pem`.
        chain_pem: String,
        /// `ca-key.pem`.
        key_pem: String,
    },
}

impl std::fmt::Debug for Next {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Made => "Made",
            Self::Given { .. } => "Given",
        })
    }
}

/// How far the change of the root is: SHA-256 of each root, lower-case hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// The root that signs.
    pub signs: String,
    /// The one that is trusted and does not sign yet.
    pub prepared: Option<String>,
    /// The one that is still trusted and signs no more.
    pub retired: Option<String>,
}

impl Authority {
    /// How far the change of the root is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let held = self.held();
        let name = |pair: &Pair| sha256_hex(&pair.root.certificate);
        Stage {
            signs: name(&held.signs),
            prepared: held.prepared.as_ref().map(name),
            retired: held.retired.as_ref().map(name),
        }
    }

    /// Takes up another root with an intermediate below it: trusted from now on. `compromised`: somebody else may have
    /// the key of the root that signs now, so that it vouches for nothing more.
    ///
    /// # Errors
    /// [`Error::Authority`] says why it may not be the next root; nothing changes then.
    pub fn prepare(&self, next: &Next, compromised: bool, now: u64) -> Result<(), Error> {
        let _files = self.writing();
        let held = self.held();
        if held.prepared.is_some() || held.retired.is_some() {
            return Err(no("the root is being changed already"));
        }
        if compromised {
            remove(&self.dir.join("cross.pem"))?;
        }
        match next {
            Next::Made => make(&self.dir, &self.trust_domain, &held.signs, compromised, now)?,
            Next::Given {
                root_pem,
                chain_pem,
                key_pem,
            } => {
                let given = [root_pem.as_str(), chain_pem, key_pem];
                take(&self.dir, &self.trust_domain, &held.signs, given, now)?;
            }
        }
        self.reload()
    }

    /// Forgets what was prepared.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn withdraw(&self) -> Result<(), Error> {
        let _files = self.writing();
        remove_pair(&self.dir, NEXT)?;
        self.reload()
    }

    /// What is prepared signs from now on; what signed is retired.
    ///
    /// # Errors
    /// [`Error::Authority`] when nothing is prepared, [`Error::File`].
    pub fn switch(&self) -> Result<(), Error> {
        let _files = self.writing();
        if self.held().prepared.is_none() {
            return Err(no("no other root is prepared"));
        }
        self.turn()
    }

    /// What is retired signs again; what signed is retired.
    ///
    /// # Errors
    /// [`Error::Authority`] when nothing is retired, [`Error::File`].
    pub fn switch_back(&self) -> Result<(), Error> {
        let _files = self.writing();
        if self.held().retired.is_none() {
            return Err(no("no root is retired"));
        }
        for (from, to) in names(OLD).iter().zip(names(NEXT)) {
            copy(&self.dir.join(from), &self.dir.join(to))?;
        }
        self.turn()
    }

    /// The retired root is trusted no more. Its key, if it is here, is removed.
    ///
    /// # Errors
    /// [`Error::Authority`] when nothing is retired, [`Error::File`].
    pub fn drop_retired(&self) -> Result<(), Error> {
        let _files = self.writing();
        let held = self.held();
        let Some(retired) = &held.retired else {
            return Err(no("no root is retired"));
        };
        let path = self.dir.join("replaced.pem");
        let mut all = replaced(&self.dir)?;
        if !all.contains(&retired.root.certificate) {
            all.push(retired.root.certificate.clone());
        }
        let text = format!("{WORD} {FORMAT}\n{}", to_pem(&all));
        disk::write_private(&path, text.as_bytes())?;
        remove_pair(&self.dir, OLD)?;
        self.reload()
    }

    fn turn(&self) -> Result<(), Error> {
        for (from, to) in SIGNS.iter().zip(names(OLD)) {
            copy(&self.dir.join(from), &self.dir.join(to))?;
        }
        let mark = format!("{WORD} {FORMAT}\n");
        disk::write_private(&mark_path(&self.dir), mark.as_bytes())?;
        complete(&self.dir)?;
        self.reload()
    }

    fn reload(&self) -> Result<(), Error> {
        let missing = |path: PathBuf| damaged(&path, "it is gone; restore it from a backup");
        let (root, intermediate) = (
            files::root_path(&self.dir),
            files::intermediate_path(&self.dir),
        );
        let pair = load_pair(&root, &intermediate, &self.trust_domain)?;
        let signs = pair.ok_or_else(|| missing(root))?;
        self.hold(load(&self.dir, &self.trust_domain, signs)?);
        Ok(())
    }
}

impl Pair {
    pub(super) fn new(root: files::Root, signer: Signer) -> Self {
        Self {
            root: Arc::new(TrustedRoot {
                certificate: root.certificate,
                not_after: root.not_after,
                key_here: root.key.is_some(),
            }),
            signer: Arc::new(signer),
        }
    }
}

impl Held {
    /// The root that the control plane's own certificate leads to.
    pub(super) fn shown(&self) -> &TrustedRoot {
        match (&self.retired, &self.crossed) {
            (Some(retired), None) => &retired.root,
            _ => &self.signs.root,
        }
    }

    /// What signs the control plane's own certificate, and what its chain has above the intermediates.
    pub(super) fn server(&self) -> (&Signer, Vec<CertificateDer<'static>>) {
        match (&self.retired, &self.crossed) {
            (Some(retired), None) => (&retired.signer, vec![retired.root.certificate.clone()]),
            (_, Some(crossed)) => {
                let root = self.signs.root.certificate.clone();
                let above = vec![crossed.certificate.clone(), root, crossed.root.clone()];
                (&self.signs.signer, above)
            }
            (None, None) => (
                &self.signs.signer,
                vec![self.signs.root.certificate.clone()],
            ),
        }
    }

    /// Roots that go along with a workload's certificate, the one it leads to last. The one before is only shown, so that
    /// a newcomer finds the root of its token.
    pub(super) fn roots_along(&self) -> Vec<CertificateDer<'static>> {
        let before = match (&self.retired, &self.crossed) {
            (Some(retired), _) => Some(&retired.root.certificate),
            (None, Some(crossed)) => Some(&crossed.root),
            (None, None) => None,
        };
        let mut roots: Vec<_> = before.cloned().into_iter().collect();
        roots.push(self.signs.root.certificate.clone());
        roots
    }
}

/// What is there besides the pair that signs.
pub(super) fn load(dir: &Path, trust_domain: &str, signs: Pair) -> Result<Held, Error> {
    let beside = |word: &str| {
        let [root, intermediate] = names(word).map(|name| dir.join(name));
        let pair = load_pair(&root, &intermediate, trust_domain)?;
        // Left by a step that was cut off.
        Ok::<_, Error>(pair.filter(|pair| pair.root.certificate != signs.root.certificate))
    };
    let retired = beside(OLD)?;
    let prepared = match &retired {
        Some(_) => None,
        None => beside(NEXT)?,
    };
    let mut roots = vec![signs.root.certificate.clone()];
    let others = prepared.iter().chain(&retired);
    roots.extend(others.map(|pair| pair.root.certificate.clone()));
    Ok(Held {
        crossed: crossed(dir, &signs.signer)?,
        bundle: Bundle::new(trust_domain, roots)?,
        signs,
        prepared,
        retired,
    })
}

/// Completes a switch that was begun.
pub(super) fn complete(dir: &Path) -> Result<(), Error> {
    if disk::read(&mark_path(dir))?.is_none() {
        return Ok(());
    }
    for (from, to) in names(NEXT).iter().zip(SIGNS) {
        copy(&dir.join(from), &dir.join(to))?;
    }
    remove(&mark_path(dir))?;
    remove_pair(dir, NEXT)
}

/// Roots that were dropped.
pub(super) fn replaced(dir: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let path = dir.join("replaced.pem");
    match disk::read(&path)? {
        Some(text) => certificates(disk::after_format_line(&path, &text, WORD, FORMAT)?),
        None => Ok(Vec::new()),
    }
}

/// A new root, its intermediate and, where the root before may still vouch, that intermediate signed by it.
fn make(
    dir: &Path,
    trust_domain: &str,
    signs: &Pair,
    compromised: bool,
    now: u64,
) -> Result<(), Error> {
    if !signs.root.key_here {
        return Err(no(
            "the root's key is kept elsewhere; make the next root there, too, and give its directory (--from DIR)",
        ));
    }
    let (root, root_key) = files::new_root(trust_domain, ROOT_TTL, now)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let name = files::intermediate_name();
    let issuer = Issuer::from_ca_cert_der(&root, &root_key)?;
    let ttl = INTERMEDIATE_TTL;
    let own = files::named_intermediate(&name, trust_domain, &issuer, &key, ttl, now)?;
    if !compromised {
        cross(dir, trust_domain, &name, &key, now)?;
    }
    let [root_path, intermediate_path] = names(NEXT).map(|name| dir.join(name));
    files::write_root(&root_path, &root, Some(&root_key))?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    files::write_intermediate(&intermediate_path, &[own], &key)
}

/// The next intermediate, signed by the root that signs now.
fn cross(dir: &Path, trust_domain: &str, name: &str, key: &KeyPair, now: u64) -> Result<(), Error> {
    let path = files::root_path(dir);
    let Some(mut root) = files::load_root(&path, trust_domain)? else {
        return Ok(());
    };
    let Some(old_key) = root.key.take() else {
        return Ok(());
    };
    let issuer = Issuer::from_ca_cert_der(&root.certificate, &old_key)?;
    let rest = Duration::from_secs(root.not_after.saturating_sub(now));
    let ttl = INTERMEDIATE_TTL.min(rest);
    let crossed = files::named_intermediate(name, trust_domain, &issuer, key, ttl, now)?;
    let text = format!(
        "{WORD} {FORMAT}\n{}",
        to_pem(&[crossed, root.certificate.clone()])
    );
    disk::write_private(&dir.join("cross.pem"), text.as_bytes())
}

/// Takes what was made elsewhere as the next root.
fn take(
    dir: &Path,
    trust_domain: &str,
    signs: &Pair,
    [root_pem, chain_pem, key_pem]: [&str; 3],
    now: u64,
) -> Result<(), Error> {
    let root = match certificates(root_pem)?.as_slice() {
        [root] => root.clone(),
        several => {
            let count = several.len();
            return Err(no(&format!(
                "root-cert.pem holds {count} certificates; one root follows one root"
            )));
        }
    };
    if root == signs.root.certificate {
        return Err(no("this root signs already"));
    }
    if replaced(dir)?.contains(&root) {
        return Err(no("this root was replaced before; it does not come back"));
    }
    let named = Path::new("ca-key.pem");
    let key = files::private_key(named, key_pem)?;
    chain::root(&root, trust_domain, now)?;
    let pair = files::pair(named, &key)?;
    let checked = chain::below(&root, chain_pem, &pair, trust_domain, now)?;
    let [root_path, intermediate_path] = names(NEXT).map(|name| dir.join(name));
    files::write_root(&root_path, &root, None)?;
    files::write_intermediate(&intermediate_path, &checked.chain, &key)
}

/// The certificate by which the root before vouches for what signs, if there is one for just this key.
fn crossed(dir: &Path, signer: &Signer) -> Result<Option<Crossed>, Error> {
    let path = dir.join("cross.pem");
    let Some(text) = disk::read(&path)? else {
        return Ok(None);
    };
    let found = certificates(disk::after_format_line(&path, &text, WORD, FORMAT)?)?;
    let [certificate, root] = found.as_slice() else {
        return Err(damaged(&path, "it does not hold two certificates"));
    };
    let key = |der: &CertificateDer<'_>| {
        let parsed = chain::parse(der)?;
        Some(parsed.public_key().raw.to_vec())
    };
    let same = signer.chain.first().and_then(key) == key(certificate);
    Ok(same.then(|| Crossed {
        certificate: certificate.clone(),
        root: root.clone(),
    }))
}

fn load_pair(root: &Path, intermediate: &Path, trust_domain: &str) -> Result<Option<Pair>, Error> {
    let root = files::load_root(root, trust_domain)?;
    let signer = files::load_intermediate(intermediate, trust_domain)?;
    Ok(root
        .zip(signer)
        .map(|(root, signer)| Pair::new(root, signer)))
}

const SIGNS: [&str; 2] = ["root.pem", "intermediate.pem"];

fn names(word: &str) -> [String; 2] {
    SIGNS.map(|name| format!("{word}-{name}"))
}

fn mark_path(dir: &Path) -> PathBuf {
    dir.join("switch.pem")
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let text = disk::read(from)?.ok_or_else(|| damaged(from, "it is gone"))?;
    disk::write_private(to, text.as_bytes())
}

/// The intermediate first: a root alone counts for nothing.
fn remove_pair(dir: &Path, word: &str) -> Result<(), Error> {
    let [root, intermediate] = names(word).map(|name| dir.join(name));
    remove(&intermediate)?;
    remove(&root)
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn no(what: &str) -> Error {
    Error::Authority(what.to_owned())
}
