//! A refusal on its way to becoming a status.

use naka_identity::Refused;
use naka_wire::v1::CertificateTerms;
use tonic::Code;

/// Why no certificate is issued.
#[derive(Debug)]
pub struct Denied {
    pub(super) code: Code,
    /// Short word for logs, metrics and programs.
    pub(super) word: &'static str,
    pub(super) text: String,
    /// What the workload must know to ask again.
    pub(super) terms: Option<CertificateTerms>,
}

impl Denied {
    /// A refusal in a word and in words for people.
    pub fn new(code: Code, word: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            word,
            text: text.into(),
            terms: None,
        }
    }

    /// The same with what the workload must know to ask again.
    pub(super) fn with(self, terms: CertificateTerms) -> Self {
        Self {
            terms: Some(terms),
            ..self
        }
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::NotCovered { .. } => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        };
        Self::new(code, refused.code(), refused.to_string())
    }
}

impl From<naka_store::Error> for Denied {
    fn from(error: naka_store::Error) -> Self {
        Self::new(
            Code::Unavailable,
            "store",
            format!("nothing can be stored: {error}"),
        )
    }
}

impl From<naka_identity::Error> for Denied {
    fn from(error: naka_identity::Error) -> Self {
        match error {
            naka_identity::Error::Request(_) => {
                Self::new(Code::InvalidArgument, "signing-request", error.to_string())
            }
            _ => Self::new(Code::Internal, "internal", error.to_string()),
        }
    }
}
