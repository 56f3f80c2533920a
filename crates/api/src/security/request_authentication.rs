//! RequestAuthentication: which tokens are taken.
//!
//! Read and checked; not enforced yet, and every use says so (W900).

pub(crate) mod fields {
    //! Fields of a RequestAuthentication, as in Istio's CRD.

    use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
    use crate::schema::{Field, TEXTS, Ty, later, yes};

    const JWT: &[Field] = &[
        yes("issuer", Ty::Str, "Issuer."),
        yes("audiences", TEXTS, "Audiences accepted."),
        yes("jwksUri", Ty::Str, "Where the keys are."),
        yes("jwks_uri", Ty::Str, "Where the keys are, old spelling."),
        yes("jwks", Ty::Str, "The keys."),
        yes(
            "presence",
            Ty::Enum(&["OPTIONAL", "REQUIRED"]),
            "Whether a request must have a token.",
        ),
        yes(
            "fromHeaders",
            Ty::List(&Ty::Object(&[
                yes("name", Ty::Str, "Header.").required(),
                yes("prefix", Ty::Str, "Before the token."),
            ])),
            "Headers with the token.",
        ),
        yes("fromParams", TEXTS, "Query parameters with the token."),
        yes("fromCookies", TEXTS, "Cookies with the token."),
        yes(
            "outputPayloadToHeader",
            Ty::Str,
            "Header that gets the payload.",
        ),
        yes(
            "outputClaimToHeaders",
            Ty::List(&Ty::Object(&[
                yes("header", Ty::Str, "Header.").required(),
                yes("claim", Ty::Str, "Claim.").required(),
            ])),
            "Headers that get a claim.",
        ),
        yes(
            "spaceDelimitedClaims",
            TEXTS,
            "Claims that are lists of words.",
        ),
        yes(
            "forwardOriginalToken",
            Ty::Bool,
            "Keeps the token in the request.",
        ),
        yes("timeout", Ty::Duration, "Limit for fetching the keys."),
    ];

    const SPEC: &[Field] = &[
        later(
            "selector",
            SELECTOR,
            "Workloads it holds for; without: all of the namespace.",
        ),
        later(
            "targetRef",
            TARGET_REF,
            "What it is attached to, old spelling.",
        ),
        later("targetRefs", TARGET_REFS, "What it is attached to."),
        later("jwtRules", Ty::List(&Ty::Object(JWT)), "Issuers."),
    ];

    /// Below the object itself.
    pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Rules.")];
}
