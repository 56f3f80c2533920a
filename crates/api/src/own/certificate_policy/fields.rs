//! Fields of a CertificatePolicy.

use crate::schema::{Field, STRINGS, TEXTS, Ty, yes};

/// Algorithms as cert-manager writes them.
pub(super) const ALGORITHMS: &[&str] = &["ECDSA", "RSA", "Ed25519"];

const SPEC: &[Field] = &[
    yes(
        "priority",
        Ty::Int(-1_000_000, 1_000_000),
        "Of several objects for one workload the one with the largest number decides; 0 unless given.",
    ),
    yes(
        "serviceAccounts",
        TEXTS,
        "Service accounts it is for; all of the namespace (in `istio-system`: of the mesh) unless given.",
    ),
    yes(
        "selector",
        Ty::Object(&[yes("matchLabels", STRINGS, "Labels.")]),
        "Workloads it is for, by labels; all unless given.",
    ),
    yes(
        "tier",
        Ty::Enum(&["high", "medium", "low"]),
        "What the fields below are where they are not written, see the task page.",
    ),
    yes(
        "duration",
        Ty::Duration,
        "Lifetime, `1m` to `9528h`; the control plane's (`--leaf-ttl`, a day) unless given.",
    ),
    yes(
        "renewBefore",
        Ty::Duration,
        "How long before its end a certificate is renewed; at half to four fifths of the lifetime unless given.",
    ),
    yes(
        "renewBeforePercentage",
        Ty::Int(1, 99),
        "The same as percent of the lifetime. Not together with renewBefore.",
    ),
    yes(
        "privateKey",
        Ty::Object(&[
            yes("algorithm", Ty::Enum(ALGORITHMS), "ECDSA unless given."),
            yes(
                "size",
                Ty::Int(1, 65_536),
                "ECDSA: 256 or 384, 256 unless given; RSA: 2048 or 4096, 2048 unless given; Ed25519 has none.",
            ),
        ]),
        "The key that workloads make; a request with another one is refused, and our proxies make another.",
    ),
    yes(
        "maintenanceWindow",
        Ty::Object(&[
            yes("start", Ty::Str, "When it opens, `HH:MM`.").required(),
            yes(
                "end",
                Ty::Str,
                "When it closes, `HH:MM`; before `start`: on the next day.",
            )
            .required(),
            yes(
                "timeZone",
                Ty::Str,
                "Whose clock: a name such as `Asia/Kolkata`, or `+05:30`; UTC unless given.",
            ),
            yes(
                "maxDuration",
                Ty::Duration,
                "Renewals begin within so long after it opened; as long as it is open unless given.",
            ),
        ]),
        "Renewals wait for it, unless the certificate would end. Not for those that are approved by somebody.",
    ),
    yes(
        "approval",
        Ty::Enum(&["Automatic", "Manual"]),
        "Manual: each certificate, the first one too, waits for `naka cert approve`; Automatic unless given.",
    ),
    yes(
        "attestation",
        Ty::Object(&[
            yes(
                "uid",
                Ty::Int(0, u32::MAX as i64),
                "User that runs the program.",
            ),
            yes(
                "executables",
                TEXTS,
                "The program's file is one of these: `sha256:` and 64 hexadecimal digits, as `sha256sum` prints them.",
            ),
        ]),
        "What the program must be, beside its proof; asked by every policy that names the service account. Needs serviceAccounts and no selector.",
    ),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] =
    &[yes("spec", Ty::Object(SPEC), "What certificates are like.").required()];
