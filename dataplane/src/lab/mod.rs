//! The laboratory: two hosts as network namespaces, two veth cables, and the ports that a forwarder drives between them.
//!
//! ```text
//!   NAME-left                 NAME-mid, or the caller's own               NAME-right
//!  [ left0 ] === cable === [ rw-left    a forwarder    rw-right ] === cable === [ right0 ]
//!   10.77.0.1/24              no addresses, no ARP, no IPv6              10.77.0.2/24
//!   fd77::1/64                                                           fd77::2/64
//! ```
//!
//! Nothing joins the two ports: until something forwards, the hosts cannot reach each other. The hosts keep the kernel's
//! default offloads, so that a forwarder meets what users meet: frames whose checksum is only begun.
//!
//! All of it is built with `ip` and `ethtool`, one command a step; [`Lab::up_watched`] shows each, to be typed again by hand.

pub mod counters;
mod error;
pub mod fetch;
mod namespace;
mod plan;
pub mod process;
pub mod rights;
mod run;
pub mod scratch;
pub mod traffic;

pub use error::LabError;
pub use namespace::{Entered, Namespace};
pub use plan::{LabPlan, Middle, Side};

use run::{Hands, check_rights, ip_knows};
use rustix::process::{Pid, test_kill_process};

/// What traffic and counters end with: whatever went wrong, they can only say it.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A laboratory that stands. Dropping it removes all that it made; [`keep`](Self::keep) leaves it.
#[derive(Debug)]
pub struct Lab {
    plan: LabPlan,
    left: Namespace,
    right: Namespace,
    middle: Namespace,
    remains: Remains,
}

impl Lab {
    /// Builds a laboratory. When a step fails, the steps before it are undone.
    ///
    /// Laboratories of processes that were killed are swept away first. Each host's end of a cable gets GRO switched on:
    /// since Linux 5.13 that gives a veth its NAPI without an XDP program, and an end without NAPI cannot take frames that
    /// an XDP program redirects to it (`veth_xdp_xmit` in drivers/net/veth.c: the peer's rings must be there).
    ///
    /// # Errors
    /// [`LabError`]: a plan that makes no sense, rights or commands that are missing, a laboratory of that name that stands
    /// already, or the command that failed with what it printed.
    pub fn up(plan: &LabPlan) -> Result<Self, LabError> {
        Self::up_watched(plan, &mut |_| {})
    }

    /// As [`up`](Self::up); tells `watch` each command before it runs, as a person would type it.
    ///
    /// # Errors
    /// As [`up`](Self::up).
    pub fn up_watched(plan: &LabPlan, watch: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        plan.check()?;
        check_rights("building")?;
        sweep()?;
        let found = Self::find(plan)?;
        if !found.is_empty() {
            return Err(LabError::Stands { name: plan.name.clone(), found });
        }
        let mut hands = Hands::new(watch);
        let mut remains = Remains::default();
        let middle = match plan.middle {
            Middle::Caller => Namespace::current()?,
            Middle::Own => new_namespace(&plan.middle_namespace(), &mut hands, &mut remains)?,
        };
        let left = build_host(plan, Side::Left, &middle, &mut hands, &mut remains)?;
        let right = build_host(plan, Side::Right, &middle, &mut hands, &mut remains)?;
        Ok(Self { plan: plan.clone(), left, right, middle, remains })
    }

    /// What it was built from.
    #[must_use]
    pub fn plan(&self) -> &LabPlan {
        &self.plan
    }

    /// The namespace of a host.
    #[must_use]
    pub fn host(&self, side: Side) -> &Namespace {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// The namespace of the two ports: where a forwarder runs.
    #[must_use]
    pub fn middle(&self) -> &Namespace {
        &self.middle
    }

    /// Runs a command, such as `ethtool -K rw-left tso off`, inside a namespace of this laboratory.
    ///
    /// # Errors
    /// [`LabError`] when it is missing, or fails, with what it printed.
    pub fn run_in(&self, namespace: &Namespace, line: &str) -> Result<(), LabError> {
        let watch = &mut |command: &str| tracing::debug!("{command}");
        Hands::new(watch).line_in(namespace, line)
    }

    /// Leaves the laboratory standing when this value goes; [`take_down`](Self::take_down) removes it later.
    pub fn keep(mut self) {
        self.remains.0.clear();
    }

    /// What of a laboratory of this plan's name stands: names of namespaces and ports; empty when nothing does.
    ///
    /// # Errors
    /// [`LabError`] when `ip` is missing or may not be asked.
    pub fn find(plan: &LabPlan) -> Result<Vec<String>, LabError> {
        check_rights("looking for")?;
        Ok(standing(plan)?.iter().map(|thing| thing.name().to_owned()).collect())
    }

    /// Removes what stands of a laboratory of this plan's name, also when half of it is gone. Returns what it removed.
    ///
    /// # Errors
    /// [`LabError::Absent`] when nothing of it stands; otherwise the command that failed.
    pub fn take_down(plan: &LabPlan) -> Result<Vec<String>, LabError> {
        plan.check()?;
        check_rights("removing")?;
        let things = standing(plan)?;
        if things.is_empty() {
            return Err(LabError::Absent { name: plan.name.clone() });
        }
        Remains(things).remove()
    }
}

/// Removes every private laboratory whose process is gone; returns the names of the namespaces that it removed.
///
/// # Errors
/// [`LabError::Command`] when one cannot be removed.
pub fn sweep() -> Result<Vec<String>, LabError> {
    let dead = |name: &String| plan::pid_of_private(name).is_some_and(|pid| !lives(pid));
    let names = Namespace::all_names().into_iter().filter(dead);
    Remains(names.map(Thing::Namespace).collect()).remove()
}

fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // EPERM: it lives and is another user's.
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Something that was made and must be removed.
#[derive(Clone, Debug)]
enum Thing {
    Namespace(String),
    /// Removing one end of a cable removes the other.
    Cable {
        middle: Namespace,
        port: String,
    },
}

impl Thing {
    fn name(&self) -> &str {
        match self {
            Self::Namespace(name) => name,
            Self::Cable { port, .. } => port,
        }
    }

    fn remove(&self, hands: &mut Hands<'_>) -> Result<(), LabError> {
        match self {
            Self::Namespace(name) => hands.ip(&format!("netns del {name}")),
            Self::Cable { middle, port } => hands.ip_in(middle, &format!("link del {port}")),
        }
    }

    fn stands(&self) -> Result<bool, LabError> {
        match self {
            Self::Namespace(name) => Ok(Namespace::path_of(name).exists()),
            Self::Cable { middle, port } => ip_knows(middle, &format!("link show dev {port}")),
        }
    }
}

/// What stands, in the order in which it was made; removed in the opposite order when dropped.
#[derive(Debug, Default)]
struct Remains(Vec<Thing>);

impl Remains {
    /// Removes what is there. Cables go before namespaces: the kernel cleans a namespace up some time *after* its removal,
    /// and names would still be taken. A failure does not stop the rest; the first is returned.
    fn remove(&mut self) -> Result<Vec<String>, LabError> {
        let watch = &mut |command: &str| tracing::debug!("{command}");
        let mut hands = Hands::new(watch);
        let (mut removed, mut failed) = (Vec::new(), None);
        while let Some(thing) = self.0.pop() {
            match thing.stands().and_then(|stands| if stands { thing.remove(&mut hands) } else { Ok(()) }) {
                Ok(()) => removed.push(thing.name().to_owned()),
                // Another process may have removed it between the question and the command.
                Err(_) if matches!(thing.stands(), Ok(false)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!("a part of the laboratory is left behind: {error}");
        }
    }
}

/// What stands of the laboratory that `plan` names. A plain list, not [`Remains`]: to look must not remove.
fn standing(plan: &LabPlan) -> Result<Vec<Thing>, LabError> {
    let mut things = vec![Thing::Namespace(plan.middle_namespace())];
    things.extend(Side::BOTH.map(|side| Thing::Namespace(plan.host_namespace(side))));
    let middle = match plan.middle {
        Middle::Caller => Some(Namespace::current()?),
        Middle::Own => Namespace::named(&plan.middle_namespace()).ok(),
    };
    let cable = |middle: &Namespace, side: Side| Thing::Cable {
        middle: middle.clone(),
        port: side.port().to_owned(),
    };
    things.extend(middle.iter().flat_map(|middle| Side::BOTH.map(|side| cable(middle, side))));

    let mut found = Vec::new();
    for thing in things {
        if thing.stands()? {
            found.push(thing);
        }
    }
    Ok(found)
}

fn new_namespace(name: &str, hands: &mut Hands<'_>, remains: &mut Remains) -> Result<Namespace, LabError> {
    hands.ip(&format!("netns add {name}"))?;
    remains.0.push(Thing::Namespace(name.to_owned()));
    Namespace::named(name)
}

/// One host, its cable, and the port at the other end of it.
fn build_host(
    plan: &LabPlan,
    side: Side,
    middle: &Namespace,
    hands: &mut Hands<'_>,
    remains: &mut Remains,
) -> Result<Namespace, LabError> {
    let name = plan.host_namespace(side);
    let host = new_namespace(&name, hands, remains)?;
    let (port, interface) = (side.port(), side.interface());
    let end = |mac: [u8; 6]| {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        format!("address {mac} mtu {0} numtxqueues {1} numrxqueues {1}", plan.mtu, plan.queues)
    };
    let (here, there) = (end(side.port_mac()), end(side.host_mac()));
    hands.ip_in(
        middle,
        &format!("link add {port} {here} type veth peer name {interface} {there} netns {name}"),
    )?;
    remains.0.push(Thing::Cable { middle: middle.clone(), port: port.to_owned() });

    // Silence at the port: no address, no neighbour or multicast chatter of the kernel's own.
    let kernel_has_ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    if kernel_has_ipv6 {
        hands.set(middle, &format!("net.ipv6.conf.{port}.disable_ipv6"), "1")?;
    }
    hands.ip_in(middle, &format!("link set {port} arp off up"))?;

    if kernel_has_ipv6 {
        let setting = |key: &str| format!("net.ipv6.conf.{interface}.{key}");
        if plan.ipv6 && plan.mtu >= 1280 {
            // Addresses are usable at once, and nobody asks for a router that is not there.
            hands.set(&host, &setting("accept_dad"), "0")?;
            hands.set(&host, &setting("router_solicitations"), "0")?;
            hands.ip_in(&host, &format!("addr add {}/64 dev {interface} nodad", side.ipv6()))?;
        } else if plan.mtu >= 1280 {
            hands.set(&host, &setting("disable_ipv6"), "1")?;
        }
    }
    hands.ip_in(&host, &format!("addr add {}/24 dev {interface}", side.ipv4()))?;
    hands.ip_in(&host, "link set lo up")?;
    hands.ethtool_in(&host, &format!("-K {interface} gro on"))?;
    hands.ip_in(&host, &format!("link set {interface} up"))?;
    Ok(host)
}
