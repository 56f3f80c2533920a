//! Codes about certificates and trust domains.

use super::{Case, Compat};

pub(super) const CASES: &[Case] = &[
    (
        "L381",
        Compat,
        "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {name: c}\nspec:\n  duration: 24h\n  approval: Manual\n",
        "spec.approval",
        6,
        "must be approved within 12.0 h",
    ),
    (
        "L382",
        Compat,
        "apiVersion: naka.dev/v1alpha1\nkind: CertificatePolicy\nmetadata: {name: c}\nspec:\n  tier: high\n  selector: {matchLabels: {tier: high}}\n",
        "spec.selector",
        6,
        "one that leaves them out",
    ),
];
