//! A range of IP addresses: `10.0.0.0/8`, or one address.
//!
//! Host bits below the prefix are cut, so equal ranges are equal values. An IPv4 address that came mapped into IPv6
//! (`::ffff:10.0.0.1`, as a socket of both families shows it) is looked at as the IPv4 address it is.

use std::fmt;
use std::net::IpAddr;

/// A range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of addresses: write 10.0.0.0/8 or one address")]
pub struct Invalid(String);

impl Cidr {
    /// From an address and the length of its prefix; `None` when the prefix is too long.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let (bits, width) = bits(address);
        if length > width {
            return None;
        }
        let kept = bits & mask(length, width);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(kept).unwrap_or_default().into()),
            IpAddr::V6(_) => IpAddr::V6(kept.into()),
        };
        Some(Self { address, length })
    }

    /// One address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let length = bits(address).1;
        Self { address, length }
    }

    /// Reads `10.0.0.0/8` or `10.1.2.3`.
    ///
    /// # Errors
    /// [`Invalid`] when it is neither.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid(text.chars().take(64).collect());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        match length {
            None => Ok(Self::of(address)),
            Some(length) => {
                let length = length.parse().map_err(|_| invalid())?;
                Self::new(address, length).ok_or_else(invalid)
            }
        }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((own, width), (other, others)) = (bits(self.address), bits(address.to_canonical()));
        width == others && own == other & mask(self.length, width)
    }

    /// First address of the range.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix: the longer, the narrower.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(four) => (u128::from(u32::from(four)), 32),
        IpAddr::V6(six) => (u128::from(six), 128),
    }
}

fn mask(length: u8, width: u8) -> u128 {
    let all = if width == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    match u32::from(width - length) {
        128 => 0,
        low => all >> low << low,
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn a_range_holds_what_shares_its_prefix() {
        for (range, address, expect) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            let got = Cidr::parse(range)
                .unwrap()
                .contains(address.parse().unwrap());
            assert_eq!(got, expect, "{range} {address}");
        }
        assert_eq!(
            Cidr::parse("10.1.2.3/16").unwrap().to_string(),
            "10.1.0.0/16"
        );
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "a",
            "10.0.0.0/",
            "::/129",
            "10.0.0.0/-1",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }
}
