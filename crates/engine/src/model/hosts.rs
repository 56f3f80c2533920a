//! Virtual hosts by name: exact ones first, then `*.suffix`, the longest first, then `*`.
//!
//! One table per filter chain of a gateway, so that what one server's clients may ask for never reaches the hosts of
//! another server on the same port.

use super::VirtualHost;
use std::collections::HashMap;
use std::sync::Arc;

/// The table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hosts {
    all: Vec<Arc<VirtualHost>>,
    exact: HashMap<Box<str>, Arc<VirtualHost>>,
    /// `.suffix` (or empty for `*`), longest first.
    wildcards: Vec<(Box<str>, Arc<VirtualHost>)>,
}

impl Hosts {
    /// Indexes them; the first of several that claim a name keeps it. Ports in domains do not count: whoever reached
    /// the listener reached its port.
    #[must_use]
    pub fn new(all: Vec<Arc<VirtualHost>>) -> Self {
        let mut exact: HashMap<Box<str>, Arc<VirtualHost>> = HashMap::new();
        let mut wildcards: Vec<(Box<str>, Arc<VirtualHost>)> = Vec::new();
        for vhost in &all {
            for domain in &vhost.domains {
                let host = without_port(domain);
                if let Some(suffix) = host.strip_prefix('*') {
                    if wildcards.iter().all(|(known, _)| **known != *suffix) {
                        wildcards.push((suffix.into(), Arc::clone(vhost)));
                    }
                } else {
                    let host = host.to_ascii_lowercase().into_boxed_str();
                    exact.entry(host).or_insert_with(|| Arc::clone(vhost));
                }
            }
        }
        wildcards.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Self {
            all,
            exact,
            wildcards,
        }
    }

    /// The virtual host of a lower-case name.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        self.exact.get(host).or_else(|| {
            self.wildcards
                .iter()
                .find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
                .map(|(_, vhost)| vhost)
        })
    }

    /// All of them, in the order given.
    pub fn all(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        self.all.iter()
    }
}

fn without_port(domain: &str) -> &str {
    match domain.rsplit_once(':') {
        Some((host, digits))
            if !host.is_empty()
                && (digits == "*" || digits.bytes().all(|b| b.is_ascii_digit())) =>
        {
            host
        }
        _ => domain,
    }
}

#[cfg(test)]
mod tests {
    use super::{Hosts, VirtualHost};
    use std::sync::Arc;

    /// A virtual host named by its first domain.
    fn vhost(domains: &[&str]) -> Arc<VirtualHost> {
        Arc::new(VirtualHost {
            name: domains[0].into(),
            port: 80,
            domains: domains.iter().map(|domain| (*domain).into()).collect(),
            routes: Box::default(),
        })
    }

    #[test]
    fn the_name_itself_then_the_longest_suffix() {
        let rows = [
            &["*.shop"][..],
            &["*.eu.shop"],
            &["Pay.eu.shop"],
            &["pay.eu.shop", "*.eu.shop", "late"],
        ];
        let hosts = Hosts::new(rows.map(vhost).into());
        for (host, want) in [
            ("pay.eu.shop", Some("Pay.eu.shop")),
            ("cart.eu.shop", Some("*.eu.shop")),
            ("cart.shop", Some("*.shop")),
            ("a.b.shop", Some("*.shop")),
            ("late", Some("pay.eu.shop")),
            (".shop", None),
            ("shop", None),
            ("workshop", None),
            ("cart.shop.evil", None),
        ] {
            let found = hosts.find(host).map(|vhost| &*vhost.name);
            assert_eq!(found, want, "{host}");
        }
        let any = Hosts::new(vec![vhost(&["*"])]);
        assert!(any.find("x").is_some() && any.find("").is_none());
        assert_eq!(hosts.all().count(), 4);
    }

    #[test]
    fn only_a_port_is_cut_off() {
        for (domain, host) in [
            ("pay:80", "pay"),
            ("pay:*", "pay"),
            ("*:80", "x"),
            ("*.shop:*", "x.shop"),
            ("pay:http", "pay:http"),
            (":80", ":80"),
            ("pay", "pay"),
        ] {
            let hosts = Hosts::new(vec![vhost(&[domain])]);
            assert!(hosts.find(host).is_some(), "{domain}");
            let other = hosts.find("other");
            assert_eq!(other.is_some(), domain.starts_with("*:"), "{domain}");
        }
    }
}
