//! A cable of two ports: what comes in at one leaves at the other, as it is.
//!
//!     sudo target/debug/ringway lab up
//!     sudo target/debug/02-forward                                    between the ports of the laboratory
//!     sudo target/debug/02-forward af-xdp:eth1 af-xdp:eth2 60         between two of yours, for a minute
//!
//! Ctrl-C ends it too: the kernel takes the XDP program off a port when the process that put it there is gone.
#![forbid(unsafe_code)]

use dataplane::forward::Wire;
use dataplane::ports::Port;
use dataplane::report::{self, Rates};
use dataplane::session::{Each, SessionPlan, session, total};
use dataplane::{PortId, Snapshot};
use std::error::Error;
use std::sync::{Arc, atomic::AtomicBool};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (left, right, seconds) = match args.as_slice() {
        [] => ("af-xdp:rw-left", "af-xdp:rw-right", 10),
        [left, right] => (left.as_str(), right.as_str(), 10),
        [left, right, seconds] => (left.as_str(), right.as_str(), seconds.parse()?),
        _ => return Err("usage: 02-forward [PORT PORT [SECONDS]]".into()),
    };
    let ports = [Port::open(PortId(0), &left.parse()?)?, Port::open(PortId(1), &right.parse()?)?];
    let plan = SessionPlan { duration: Some(Duration::from_secs(seconds)), ..SessionPlan::default() };
    // Whoever sets this ends the session: a signal handler, a test, another thread.
    let stop = Arc::new(AtomicBool::new(false));

    let (mut before, mut then) = (Snapshot::default(), Duration::ZERO);
    let ends = session(
        &ports,
        &plan,
        &stop,
        &Each(Wire),
        |workers| {
            println!("{}", report::ready_text("wire", &ports, workers, &total(workers)));
            true
        },
        |workers, at| {
            let now = total(workers);
            let rates = Rates::between(&before, &now, at - then);
            println!("{}", report::interval_text(at, rates, &before, &now));
            (before, then) = (now, at);
            true
        },
    )?;

    let mut last = Snapshot::default();
    for end in &ends {
        last.add(end.last.clone());
    }
    println!("{}", report::end_text(Duration::from_secs(seconds), &ports, &last));
    if !report::in_order(last.books(), &ends) {
        return Err("the books do not balance".into());
    }
    Ok(())
}
