//! A flood of one UDP frame over AF_XDP: the same for every forwarder.

use dataplane::lab::{Lab, Side};
use drivers::QueuePair;
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use lab::Outcome;
use ringbuf::{Arena, ArenaPlan, Burst, HEADROOM, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Sends until it is stopped.
pub(crate) struct Generator {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Generator {
    /// Starts on this CPU, in the left host.
    pub(crate) fn start(lab: &Lab, bytes: u16, cpu: usize) -> Outcome<Self> {
        let port = lab.host(Side::Left).run(|| {
            let plan = XdpPlan { promiscuous: false, ..XdpPlan::new(Side::Left.interface()) };
            XdpPort::open(plan).map_err(|error| error.to_string())
        })??;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let packet = frame(bytes);
        let namespace = dataplane::lab::Namespace::named(lab.host(Side::Left).name().unwrap_or_default())?;
        let thread = std::thread::spawn(move || {
            let _inside = namespace.enter().expect("the namespace stands");
            core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
            flood(&port, &packet, &stopped, &counter);
        });
        Ok(Self { stop, sent, thread })
    }

    /// Frames that the kernel has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
    }
}

fn flood(port: &Arc<XdpPort>, packet: &[u8], stop: &AtomicBool, sent: &AtomicU64) {
    let pool = Pool::new(Arena::new(&ArenaPlan::default()).expect("16 MiB"));
    // Each slot holds the packet already; nothing is written while sending.
    let mut all = Vec::new();
    while let Some(mut frame) = pool.alloc() {
        frame.extend(packet).expect("fits");
        all.push(frame);
    }
    drop(all);
    let umem = Umem::new(&pool);
    let mut queue = XdpQueue::open(&umem, port, 0).expect("the laboratory is ours");
    let length = u16::try_from(packet.len()).expect("short");
    let mut burst = Burst::new();
    while !stop.load(Ordering::Relaxed) {
        queue.tend();
        while burst.room() > 0 {
            let Some(mut frame) = pool.alloc() else { break };
            frame.restart(HEADROOM);
            if frame.grow(length).is_err() || burst.push(frame).is_err() {
                break;
            }
        }
        queue.transmit(&mut burst);
        sent.store(queue.completed(), Ordering::Relaxed);
    }
}

/// A UDP datagram for the right host, without a checksum (RFC 768 allows it over IPv4).
fn frame(bytes: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(Side::Right.host_mac());
    frame.extend(Side::Left.host_mac());
    frame.extend([0x08, 0x00]);
    // The four bytes of the frame check sequence are on a wire only.
    let bytes = if bytes == 64 { 60 } else { bytes };
    let total = bytes - 14;
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header.extend(Side::Left.ipv4().octets());
    header.extend(Side::Right.ipv4().octets());
    let checksum = !drivers::checksum::fold(drivers::checksum::sum(&header));
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    frame.extend(header);
    frame.extend([0x30, 0x39, 0x00, 0x09]);
    frame.extend((total - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(bytes.into(), 0);
    frame
}
