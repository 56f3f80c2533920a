//! The common request costs the heap nothing but the values of the headers that every hop adds.
//!
//! One test in a process of its own, because it counts the allocations of its thread with the global allocator.
#![expect(
    unsafe_code,
    reason = "a counting allocator cannot be written without it"
)]

use naka_engine::canonical::{Canonical, Origin};
use naka_engine::exchange::{Around, Cx, Effect, Exchange, Input, Outcome, Tried};
use naka_engine::model::{
    Action, Cluster, ClusterSpec, Endpoint, Forward, Health, Match, PathCondition, Route,
    SnapshotBuilder, VirtualHost, WeightedCluster,
};
use naka_engine::pick::Cursors;
use naka_engine::runtime::Registry;
use naka_types::protocol::Protocol;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a const thread local.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.get();
    let value = run();
    (value, COUNT.get() - before)
}

#[test]
fn the_common_request_allocates_only_header_values() {
    let registry = Registry::default();
    let name: Arc<str> = "outbound|80||payment.shop.svc.cluster.local".into();
    let endpoint = |port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Arc::new(Endpoint {
            address,
            weight: 1,
            health: Health::Healthy,
            mtls: true,
            workload: Arc::default(),
            state: registry.endpoint(&name, address),
        })
    };
    let id = registry.id(&name);
    let spec = Arc::new(ClusterSpec::new(&name, Protocol::Http));
    let runtime = registry.cluster(&name);
    let cluster = Cluster::new(id, spec, vec![endpoint(1), endpoint(2)], runtime);
    let destinations = vec![
        WeightedCluster::new(id, &name, 9),
        WeightedCluster::new(id, &name, 1),
    ];
    let route = |path| {
        Arc::new(Route {
            name: "r".into(),
            config: None,
            matches: Match {
                path,
                ..Match::default()
            },
            action: Action::Forward(Forward::new(destinations.clone()).unwrap()),
            request_headers: Default::default(),
            response_headers: Default::default(),
            limit: None,
            extras: Default::default(),
        })
    };
    let mut builder = SnapshotBuilder::new("shop");
    builder.put_cluster(Arc::new(cluster));
    builder.put_virtual_host(Arc::new(VirtualHost {
        name: "80/payment.shop.svc.cluster.local:80".into(),
        port: 80,
        domains: Box::new(["payment.shop.svc.cluster.local".into()]),
        routes: Box::new([
            route(PathCondition::Exact("/never".into())),
            route(PathCondition::Prefix("/".into())),
        ]),
    }));
    let snapshot = builder.build();
    let (origin, mut cursors) = (Origin::outbound(80), Cursors::new());
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..3 {
        let mut request = http::Request::builder()
            .uri("/pay/1?x=y")
            .header("host", "payment.shop.svc.cluster.local")
            .header("user-agent", "test")
            .header("accept", "*/*");
        // Room for what the hop adds, so that the map's growth is not counted as ours.
        request.headers_mut().unwrap().reserve(16);
        let parts = request.body(()).unwrap().into_parts().0;
        let (request, canonical) = allocations(|| Canonical::from_parts(parts, &origin));
        let mut request = request.unwrap();
        let mut exchange = Exchange::new();
        let mut cx = Cx {
            snapshot: &snapshot,
            origin: &origin,
            now: Duration::ZERO,
            around: &Around::default(),
            rng: &mut rng,
            cursors: &mut cursors,
            why: None,
        };
        let (effect, step) = allocations(|| exchange.step(&mut request, Input::Begin, &mut cx));
        let Effect::Try(tried) = effect else {
            panic!("{effect:?}")
        };
        let mut answer = http::Response::new(()).into_parts().0;
        let outcome = Outcome::Response(&mut answer);
        let input = Input::Tried(Tried {
            outcome,
            replayable: true,
        });
        let (effect, relay) = allocations(|| exchange.step(&mut request, input, &mut cx));
        assert!(matches!(effect, Effect::Relay));
        drop(tried);
        assert_eq!((canonical, relay), (0, 0), "round {round}");
        // x-request-id and traceparent: one value each.
        assert!(step <= 2, "round {round}: {step} allocations");
    }
}
