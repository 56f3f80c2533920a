//! Options of `naka ca`.

use clap::{Args as Group, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Group)]
pub(crate) struct Ca {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

/// What to do with the certificate authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// What signs in the mesh, until when, and whether the root's key is there
    Status,
    /// Let another root follow the present one while the mesh works (a rollout)
    Rotate {
        /// Directory with root-cert.pem, ca-cert.pem, ca-key.pem (and cert-chain.pem); else they are made in the mesh
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Each step waits for `naka rollout promote`
        #[arg(long)]
        manual: bool,
        /// Wait so long for its end
        #[arg(long, value_name = "TIME", value_parser = super::duration)]
        wait: Option<Duration>,
    },
    /// Replace at once a root whose key others may have: who is not there in time is left behind
    Replace {
        /// Say that this is meant
        #[arg(long, required = true)]
        compromised: bool,
        /// Directory with root-cert.pem, ca-cert.pem, ca-key.pem (and cert-chain.pem); else they are made in the mesh
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Time until the present root is believed by nobody, whoever still needs it
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = super::duration)]
        within: Duration,
    },
    /// A root whose key is kept away from the mesh
    Root {
        #[command(subcommand)]
        command: RootCommand,
    },
    /// The certificate that signs workloads, signed by the root
    Intermediate {
        #[command(subcommand)]
        command: IntermediateCommand,
    },
}

/// What to do with a root.
#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Make root-cert.pem and root-key.pem in a directory; no mesh is needed
    Create {
        /// Directory, best on a medium that is taken away again
        dir: PathBuf,
        /// Trust domain of the meshes it is for
        #[arg(long, value_name = "DOMAIN", default_value = naka_types::spiffe::DEFAULT_TRUST_DOMAIN)]
        trust_domain: String,
        /// How long it is valid
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Use a key in a PKCS#11 token, made there if it is not: an RFC 7512 URI with module-path and pin-source
        #[arg(long, value_name = "URI")]
        key: Option<String>,
    },
}

/// What to do with an intermediate.
#[derive(Debug, Subcommand)]
pub(crate) enum IntermediateCommand {
    /// Make a key and print the request to sign it: in the running mesh, or in a directory for a mesh not made yet
    Request {
        /// Directory for a mesh that is not made yet: ca-key.pem is written there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Trust domain of that mesh
        #[arg(long, value_name = "DOMAIN", requires = "out", default_value = naka_types::spiffe::DEFAULT_TRUST_DOMAIN)]
        trust_domain: String,
    },
    /// Sign a request where the root's key is, and print the certificate; no mesh is needed
    Sign {
        /// File with the request, or - for standard input
        request: PathBuf,
        /// Directory with root-cert.pem, and root-key.pem or root-key.uri
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// How long it is valid; never longer than the root
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Let the signed certificate sign in the running mesh from now on
    Install {
        /// File with the certificate and those between it and the root, or - for standard input
        chain: PathBuf,
    },
}
