//! Options of `naka cert`.

use clap::{Args as Group, Subcommand, ValueEnum};
use std::time::Duration;

#[derive(Debug, Group)]
pub(crate) struct Cert {
    #[command(subcommand)]
    pub(crate) command: CertCommand,
}

/// What to do with certificates of workloads.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// From now on nobody in the mesh believes a workload; `naka get certs` lists them
    Revoke {
        /// Workload id, or NAME.NAMESPACE of the workload
        workload: String,
        /// Why; key-compromise also ends the connections that the workload has open
        #[arg(long, value_enum, default_value_t = Reason::Unspecified)]
        reason: Reason,
        /// How long to wait until every proxy has it
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
        timeout: Duration,
    },
    /// Let a workload have the certificate that a CertificatePolicy with `approval: Manual` holds back
    Approve {
        /// Id of the request, workload id, or NAME.NAMESPACE of the workload; `naka get certs` lists those that wait
        workload: String,
    },
}

/// Why a certificate is taken back (RFC 5280 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reason {
    /// No word for it
    Unspecified,
    /// Somebody else may have the key
    KeyCompromise,
    /// Another workload took its place
    Superseded,
    /// It is not needed any more
    CessationOfOperation,
    /// It may not do any more what it did
    PrivilegeWithdrawn,
}
