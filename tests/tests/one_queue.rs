//! One queue, wanted twice: the second hears whose it is and what to do, the first notices nothing.
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use drivers::{OpenError, QueuePair};
use lab::{TestLab, needs};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn pool() -> Pool {
    Pool::new(
        Arena::new(&ArenaPlan { frames: 1024, huge_pages: false, ..ArenaPlan::default() }).expect("small"),
    )
}

fn port(namespace: &Namespace, interface: &str) -> Arc<XdpPort> {
    let _inside = namespace.enter().expect("inside");
    XdpPort::open(XdpPlan { ring: 128, ..XdpPlan::new(interface) }).expect("a port")
}

/// Inside the port's namespace: a socket knows interfaces by their numbers in the namespace in which it was made.
fn queue<'p>(
    namespace: &Namespace,
    umem: &Rc<Umem<'p>>,
    port: &Arc<XdpPort>,
) -> Result<XdpQueue<'p>, OpenError> {
    let _inside = namespace.enter().expect("inside");
    XdpQueue::open(umem, port, 0)
}

/// One frame, sent by one queue until the other has it.
fn passes<'p>(pool: &'p Pool, from: &mut XdpQueue<'p>, to: &mut XdpQueue<'p>, number: u8) {
    let mut bytes = [number; 60];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    let mut frame = pool.alloc().expect("a frame");
    frame.extend(&bytes).expect("room");
    let (mut out, mut burst) = (Burst::new(), Burst::new());
    out.push(frame).expect("room");
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        from.transmit(&mut out);
        from.tend();
        to.tend();
        to.receive(&mut burst);
        if burst.drain().any(|frame| frame[..] == bytes) {
            return;
        }
        assert!(Instant::now() < end, "frame {number} is lost: {:?} {:?}", from.counters(), to.counters());
    }
}

/// By a socket with the same arena, and by one with an arena of its own.
#[test]
fn a_queue_that_is_held_is_refused_with_a_cure() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let (pool, other_pool) = (pool(), pool());
    let (umem, other_umem) = (Umem::new(&pool), Umem::new(&other_pool));
    let left = port(lab.host(Side::Left), Side::Left.interface());
    let middle = port(lab.middle(), Side::Left.port());
    let mut near = queue(lab.host(Side::Left), &umem, &left).expect("a queue");
    let mut first = queue(lab.middle(), &umem, &middle).expect("a queue");
    passes(&pool, &mut near, &mut first, 1);
    for umem in [&umem, &other_umem] {
        let (begin, lent) = (Instant::now(), umem.pool().census());
        let error = queue(lab.middle(), umem, &middle).expect_err("the queue is held").to_string();
        let took = begin.elapsed();
        for words in
            ["rw-left", "queue 0", "another program holds this queue", "stop it", "af-xdp:rw-left,queues=.."]
        {
            assert!(error.contains(words), "{words:?} is not in {error}");
        }
        // Long enough for one whose last owner has just died, short enough for a person who waits.
        assert!((1..5).contains(&took.as_secs()), "it took {took:?}");
        // What it had taken for its rings is back.
        assert_eq!(umem.pool().census(), lent);
        passes(&pool, &mut near, &mut first, 2);
        passes(&pool, &mut first, &mut near, 3);
    }
    // Once the first is gone, the queue is to be had again.
    drop((first, middle));
    let again = port(lab.middle(), Side::Left.port());
    let mut next = queue(lab.middle(), &umem, &again).expect("it is free");
    passes(&pool, &mut near, &mut next, 4);
}
