//! A file server: one folder at one port, over TCP of our own.
//!
//!     sudo target/debug/ringway lab up
//!     sudo target/debug/05-serve-a-file af-xdp:rw-left 10.77.0.100/24 docs 60 &
//!     sudo target/debug/ringway lab exec left -- curl http://10.77.0.100:8080/tour.md
//!
//! The address must be one that the kernel does not have. `ringway serve` can do more: `dataplane/src/cli/serve/bypass.rs`.
#![forbid(unsafe_code)]

use dataplane::PortId;
use dataplane::net::Prefix;
use dataplane::ports::{Port, Purpose};
use dataplane::serve::content::{Share, StorePlan};
use dataplane::serve::http::{Limits, Policy, PolicyPlan};
use dataplane::serve::server::{ServePlan, Servers};
use dataplane::serve::tree::TreePlan;
use dataplane::session::{SessionPlan, session};
use drivers::PortSpec;
use drivers::link::Link;
use drivers::xdp::{Endpoint, Filter};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const LISTEN: u16 = 8080;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, address, folder, seconds] = args.as_slice() else {
        return Err("usage: PORT ADDRESS/BITS FOLDER SECONDS".into());
    };
    let spec: PortSpec = port.parse()?;
    let (ip, bits) = address.split_once('/').ok_or("the address has no /BITS")?;
    let address = Prefix { address: ip.parse()?, bits: bits.parse()? };
    let link = Link::by_name(&spec.device)?;

    let servers = Servers::new(
        ServePlan {
            mac: link.mac,
            mtu: u16::try_from(link.mtu)?,
            vlan: None,
            addresses: vec![address],
            gateway: None,
            shared: false,
            kernel: None,
            listen: LISTEN,
            tree: TreePlan { listing: true, ..TreePlan::new(folder) },
            policy: Policy::new(&PolicyPlan::default())?,
            limits: Limits::default(),
            keepalive: None,
            connections: 1024,
            copy_below: 2048,
            share: Share::Nothing,
            store: StorePlan::default(),
            log: None,
        },
        1,
    )?;
    // Only what is for that address is ours: the kernel keeps the rest of the port.
    let filter = Filter::flows([Endpoint::own((address.address, LISTEN).into())])?;
    let ports = [Port::open_for(PortId(0), &spec, &filter, Purpose::Files { workers: 1 })?];
    let duration = Some(Duration::from_secs(seconds.parse()?));
    let plan = SessionPlan { duration, content_bytes: 64 << 20, ..SessionPlan::default() };
    let ends = session(
        &ports,
        &plan,
        &Arc::default(),
        &servers,
        |_opened| true,
        |_workers, at| {
            println!("{:>3} s  {} requests", at.as_secs(), servers.figures().get("requests"));
            true
        },
    )?;
    ends.iter().for_each(|end| println!("{}", end.last.books()));
    Ok(())
}
