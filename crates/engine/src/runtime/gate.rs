//! Limits of a gateway's port: connections at a time and new ones per second, in all and by address.
//!
//! One gate per port, shared by all workers and kept over configuration swaps, so limits are exact. It is asked once per
//! connection and only where a limit is set. Addresses are remembered while they have a connection or owe tokens; a
//! gate that can remember no more refuses, so that many addresses are no way around it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Addresses remembered at a time.
const ADDRESSES: usize = 65_536;

/// Limits; `None` = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortLimits {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Connections of one address at a time.
    pub connections_per_address: Option<u32>,
    /// New connections per second.
    pub rate: Option<u32>,
    /// New connections of one address per second.
    pub rate_per_address: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    since: Duration,
}

impl Bucket {
    fn full(rate: u32, now: Duration) -> Self {
        Self {
            tokens: f64::from(rate),
            since: now,
        }
    }

    fn fill(&mut self, rate: u32, now: Duration) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(rate)).min(f64::from(rate));
        self.since = self.since.max(now);
    }
}

#[derive(Debug, Default)]
struct Address {
    open: u32,
    bucket: Option<Bucket>,
}

#[derive(Debug, Default)]
struct State {
    open: u32,
    bucket: Option<Bucket>,
    addresses: HashMap<IpAddr, Address>,
}

/// The gate of a port.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

impl PartialEq for Gate {
    /// State is no part of the model that holds it.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// A connection that was let in; lets go when it is dropped.
#[derive(Debug)]
pub struct Entered {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = state.open.saturating_sub(1);
        if let Some(address) = state.addresses.get_mut(&self.address) {
            address.open = address.open.saturating_sub(1);
            if address.open == 0 && address.bucket.is_none() {
                state.addresses.remove(&self.address);
            }
        }
    }
}

impl Gate {
    /// Lets a connection in, or says which limit it meets. `now` is monotonic and the same for all workers.
    ///
    /// # Errors
    /// The limit, in words for the log.
    pub fn enter(
        self: &Arc<Self>,
        limits: &PortLimits,
        address: IpAddr,
        now: Duration,
    ) -> Result<Entered, &'static str> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        if limits.connections.is_some_and(|most| state.open >= most) {
            return Err("the port is at its limit of connections");
        }
        let by_address =
            limits.connections_per_address.is_some() || limits.rate_per_address.is_some();
        if by_address && !state.addresses.contains_key(&address) {
            make_room(&mut state.addresses, limits.rate_per_address, now);
            if state.addresses.len() >= ADDRESSES {
                return Err("too many addresses call this port at once");
            }
        }
        let mut fresh = Address::default();
        let one = match by_address {
            true => state.addresses.entry(address).or_default(),
            false => &mut fresh,
        };
        if limits
            .connections_per_address
            .is_some_and(|most| one.open >= most)
        {
            return Err("the address is at its limit of connections");
        }
        let has = |bucket: &mut Option<Bucket>, rate: Option<u32>| match rate {
            None => {
                *bucket = None;
                true
            }
            Some(rate) => {
                let bucket = bucket.get_or_insert_with(|| Bucket::full(rate, now));
                bucket.fill(rate, now);
                bucket.tokens >= 1.0
            }
        };
        if !has(&mut one.bucket, limits.rate_per_address) {
            return Err("the address is at its limit of new connections");
        }
        if !has(&mut state.bucket, limits.rate) {
            return Err("the port is at its limit of new connections");
        }
        for bucket in [&mut one.bucket, &mut state.bucket].into_iter().flatten() {
            bucket.tokens -= 1.0;
        }
        one.open += 1;
        state.open += 1;
        Ok(Entered {
            gate: Arc::clone(self),
            address,
        })
    }
}

/// Forgets addresses that have no connection and owe nothing any more, when there are very many.
fn make_room(addresses: &mut HashMap<IpAddr, Address>, rate: Option<u32>, now: Duration) {
    if addresses.len() < ADDRESSES {
        return;
    }
    addresses.retain(|_, one| {
        if let (Some(rate), Some(bucket)) = (rate, &mut one.bucket) {
            bucket.fill(rate, now);
        }
        let owes = one
            .bucket
            .is_some_and(|bucket| bucket.tokens < f64::from(rate.unwrap_or(0)));
        one.open > 0 || owes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn connections_are_limited_in_all_and_by_address() {
        let gate = Arc::new(Gate::default());
        let limits = PortLimits {
            connections: Some(3),
            connections_per_address: Some(2),
            ..PortLimits::default()
        };
        let now = Duration::ZERO;
        let enter = |last| gate.enter(&limits, address(last), now);
        let first = enter(1).unwrap();
        let _second = enter(1).unwrap();
        assert!(enter(1).is_err(), "the address has two");
        let _third = enter(2).unwrap();
        assert!(enter(3).is_err(), "the port has three");
        drop(first);
        let _again = enter(1).unwrap();
        let none = PortLimits::default();
        assert!(
            gate.enter(&none, address(9), now).is_ok(),
            "no limit, nobody is refused"
        );
    }

    #[test]
    fn who_has_gone_and_owes_nothing_is_forgotten() {
        let gate = Arc::new(Gate::default());
        let known = || gate.0.lock().unwrap().addresses.len();
        let limits = PortLimits {
            connections_per_address: Some(2),
            ..PortLimits::default()
        };
        let enter = || gate.enter(&limits, address(1), Duration::ZERO);
        let (first, second) = (enter().unwrap(), enter().unwrap());
        drop(first);
        assert_eq!(known(), 1);
        drop(second);
        assert_eq!(known(), 0);
        assert_eq!(Gate::default(), Gate::default());
    }

    /// So many addresses with a connection each.
    fn crowd(addresses: usize) -> HashMap<IpAddr, Address> {
        let numbers = 0_u32..;
        let busy = || Address {
            open: 1,
            bucket: None,
        };
        let numbers = numbers
            .take(addresses)
            .map(|n| IpAddr::from(n.to_be_bytes()));
        numbers.map(|address| (address, busy())).collect()
    }

    #[test]
    fn a_gate_that_can_remember_no_more_refuses_strangers() {
        let gate = Arc::new(Gate::default());
        gate.0.lock().unwrap().addresses = crowd(ADDRESSES);
        let limits = PortLimits {
            connections_per_address: Some(2),
            ..PortLimits::default()
        };
        let enter = |limits, address| gate.enter(limits, address, Duration::ZERO).is_ok();
        assert!(!enter(&limits, address(1)), "a stranger");
        assert!(enter(&limits, IpAddr::from([0, 0, 0, 1])), "a known one");
        let none = PortLimits::default();
        assert!(enter(&none, address(1)), "addresses do not matter");
    }

    #[test]
    fn room_is_made_only_when_there_is_none() {
        let second = Duration::from_secs(1);
        let bucket = |tokens| {
            Some(Bucket {
                tokens,
                since: second,
            })
        };
        let mut addresses = crowd(ADDRESSES - 4);
        for (last, bucket) in [(1, None), (2, bucket(1.5)), (3, bucket(0.0))] {
            addresses.insert(address(last), Address { open: 0, bucket });
        }
        make_room(&mut addresses, Some(2), second * 3 / 2);
        assert_eq!(addresses.len(), ADDRESSES - 1);
        addresses.insert(
            address(4),
            Address {
                open: 1,
                bucket: None,
            },
        );
        make_room(&mut addresses, Some(2), second * 3 / 2);
        let kept = [1, 2, 3, 4].map(|last| addresses.contains_key(&address(last)));
        assert_eq!(kept, [false, false, true, true]);
        assert_eq!(addresses.len(), ADDRESSES - 2);
    }

    #[test]
    fn new_connections_are_limited_by_time() {
        let gate = Arc::new(Gate::default());
        let limits = PortLimits {
            rate: Some(3),
            rate_per_address: Some(2),
            ..PortLimits::default()
        };
        let enter = |last, ms| {
            gate.enter(&limits, address(last), Duration::from_millis(ms))
                .is_ok()
        };
        assert!(
            enter(1, 0) && enter(1, 0) && !enter(1, 0),
            "two of an address"
        );
        assert!(enter(2, 0) && !enter(3, 0), "three in all");
        assert!(
            enter(3, 400) && !enter(3, 400),
            "a third of a second later one more"
        );
        assert!(
            enter(1, 2_000) && enter(1, 2_000) && !enter(1, 2_000),
            "no more than were waiting"
        );
    }
}
