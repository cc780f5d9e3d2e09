//! Links that come and go, queues that share one, and those that can't be opened.

use crate::world::*;
use drivers::packet::{PacketPlan, PacketQueue};
use drivers::{Fault, QueuePair};
use ringbuf::Burst;
use std::time::Instant;

#[test]
fn a_link_comes_back() {
    in_namespace("a_link_comes_back", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        let mut out = Burst::new();
        ip("link set left down");
        put(&pool, &mut out, &packet(60, 1), 1792);
        put(&pool, &mut out, &packet(1400, 2), 1792);
        for _ in 0..1000 {
            left.transmit(&mut out);
            left.tend();
            right.tend();
        }
        assert!(left.counters().link_down > 0);
        assert_eq!((left.fault(), right.fault()), (None, None));
        // The error that the kernel left at the socket was read: it keeps no sleeper awake.
        assert!(!is_readable(&left) && !is_readable(&right));
        ip("link set left up");
        // What waited in the ring goes out once the link is back.
        assert_same(&[packet(60, 1), packet(1400, 2)], &carry(&mut left, &mut right, &mut out, 2));
        put(&pool, &mut out, &packet(60, 3), 1792);
        right.transmit(&mut out);
        right.tend();
        assert!(is_readable(&left));
        assert_same(&[packet(60, 3)], &carry(&mut right, &mut left, &mut out, 1));
        assert!(!is_readable(&left));
    });
}

/// The sender notices, and so does an end that only listens.
#[test]
fn a_deleted_interface_is_gone() {
    in_namespace("a_deleted_interface_is_gone", || {
        veth(1500);
        let pool = pool(256, 2048);
        let (mut left, mut right) = pair(&pool);
        ip("link del left");
        let mut out = Burst::new();
        put(&pool, &mut out, &packet(60, 1), 1792);
        for _ in 0..1000 {
            left.transmit(&mut out);
            left.tend();
            right.receive(&mut Burst::new());
            right.tend();
        }
        assert_eq!((left.fault(), right.fault()), (Some(&Fault::Gone), Some(&Fault::Gone)));
        drop((left, right, out));
        assert_all_home(&pool);
    });
}

/// Two sockets share the flows of a port: nothing twice, nothing lost, each with a part.
#[test]
fn queues_share_the_flows() {
    in_namespace("queues_share_the_flows", || {
        veth(1500);
        let pool = pool(512, 2048);
        let mut left = open(&pool, "left");
        let plan = |queue| PacketPlan { queue, queues: 2, fanout_group: 77, ..PacketPlan::new("right") };
        let mut queues = [0, 1].map(|queue| PacketQueue::open(&pool, &plan(queue)).expect("opens"));
        let mut out = Burst::new();
        for port in 0..60 {
            let mut packet = packet(60, port);
            // IPv4 and UDP, as far as the flow's hash looks.
            packet[12..14].copy_from_slice(&[8, 0]);
            packet[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
            packet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            packet[34..38].copy_from_slice(&[1, port, 0, 9]);
            put(&pool, &mut out, &packet, 1792);
        }
        left.transmit(&mut out);
        left.tend();
        let mut shares = [0, 0];
        let (mut burst, deadline) = (Burst::new(), Instant::now() + PATIENCE);
        while shares[0] + shares[1] < 60 && Instant::now() < deadline {
            for (queue, share) in queues.iter_mut().zip(&mut shares) {
                *share += queue.receive(&mut burst);
                burst.clear();
            }
        }
        assert_eq!(shares[0] + shares[1], 60);
        assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
        // Nobody hears what the port itself sends.
        put(&pool, &mut out, &packet(60, 1), 1792);
        queues[0].transmit(&mut out);
        queues[0].tend();
        assert_eq!(carry(&mut queues[0], &mut left, &mut out, 1).len(), 1);
        assert_eq!(queues[0].receive(&mut burst) + queues[1].receive(&mut burst), 0);
        // The group is taken: another interface cannot join.
        let other = PacketPlan { interface: "left".to_owned(), ..plan(0) };
        let error = PacketQueue::open(&pool, &other).expect_err("the group is another's").to_string();
        assert!(error.contains("joining the fanout group 77") && error.contains("group=N"), "{error}");
    });
}

#[test]
fn opening_explains_itself() {
    in_namespace("opening_explains_itself", || {
        veth(1500);
        let pool = pool(64, 2048);
        let refusal = |interface: &str| {
            PacketQueue::open(&pool, &PacketPlan::new(interface)).expect_err("cannot open").to_string()
        };
        assert!(refusal("nosuch").contains("There is no interface \"nosuch\""), "{}", refusal("nosuch"));
        assert!(refusal("a-name-that-is-far-too-long").contains("There is no interface"));
        ip("link set right down");
        assert!(refusal("right").contains("ip link set dev right up"), "{}", refusal("right"));
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).expect("rights can always be given up");
        assert!(refusal("left").contains("CAP_NET_RAW"), "{}", refusal("left"));
    });
}
