//! A network card without the kernel: taken from its driver, driven from here, given back.
//!
//!     sudo target/debug/06-bare-nic vfio:0000:03:00.0           behind an IOMMU
//!     sudo target/debug/06-bare-nic uio:0000:03:00.0 60         without one, in huge pages, for a minute
//!
//! Each frame goes back to whom it came from. The card must not be in use, and there must be a driver of ours for it: see
//! the book's chapter "A bare NIC".
#![forbid(unsafe_code)]

use drivers::nic::{NicPlan, NicPort};
use drivers::pci::Way;
use drivers::{PortSpec, QueuePair};
use ringbuf::{Arena, ArenaPlan, Burst, Pool};
use std::error::Error;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: 06-bare-nic vfio:ADDRESS|uio:ADDRESS [SECONDS]     lspci -D lists addresses";
    let (port, seconds) = match args.as_slice() {
        [port] => (port, 10),
        [port, seconds] => (port, seconds.parse()?),
        _ => return Err(usage.into()),
    };
    let spec: PortSpec = port.parse()?;
    let way = match spec.driver.as_deref() {
        Some("vfio") => Way::Vfio,
        Some("uio") => Way::Uio,
        _ => return Err(usage.into()),
    };

    // From here on the card is ours. What is declared first goes last: then the kernel's driver has it again.
    let (pci, plan) = NicPlan::from_spec(&spec, way)?;
    let card = NicPort::open(&pci, &plan)?;
    let plan = ArenaPlan { frames: 2048, frame_size: card.slot_bytes().into(), ..ArenaPlan::default() };
    // Not every memory can be reached by every card.
    let arena = match card.arena(&plan)? {
        Some(arena) => arena,
        None => Arena::new(&plan)?,
    };
    let pool = Pool::new(arena);
    let mut queue = card.open_queue(&pool, 0)?;
    println!("{}: {}", queue.caps().device, queue.caps().mode);

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut burst = Burst::new();
    while Instant::now() < end {
        queue.receive(&mut burst);
        for frame in burst.as_mut_slice() {
            if let Some((to, rest)) = frame.split_at_mut_checked(6)
                && let Some(from) = rest.get_mut(..6)
            {
                to.swap_with_slice(from);
            }
        }
        queue.transmit(&mut burst);
        // What found no room is dropped, as routers do.
        burst.clear();
        queue.tend();
        if let Some(fault) = queue.fault() {
            return Err(fault.to_string().into());
        }
    }
    let counters = queue.counters();
    println!("{} received, {} sent", counters.received.packets, counters.transmitted.packets);
    Ok(())
}
