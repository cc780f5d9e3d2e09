//! virtio-net as a PCI device, modern alone (VIRTIO 1.2 §4.1; sections are of that text).
//!
//! ```text
//!   port          the device made ready; its queues opened
//!   capabilities  where its registers are
//!   device        its common registers: status, features, queues        control  commands: queue pairs, promiscuous
//!   line          how a queue pair rings, hears and stops it
//!   fake          a device in memory, which can lie                       lie      how
//! ```
//!
//! | feature | why |
//! |---|---|
//! | `VERSION_1` | without it nothing here is true |
//! | `ACCESS_PLATFORM` | taken where it is offered, and required behind an IOMMU: a device without it takes the IOMMU's addresses for physical ones |
//! | `RING_PACKED` | taken where it is offered |
//! | `MRG_RXBUF`, `MAC`, `STATUS`, `MTU`, `CTRL_VQ`, `CTRL_RX` | taken where they are offered |
//! | `MQ` | for several queue pairs |
//! | `CSUM`, `GUEST_CSUM`, `HOST_TSO4` and its kin | unless the plan forbids offloads |
//! | `RING_RESET` | not taken: a device stops as a whole |

mod capabilities;
mod control;
mod device;
pub mod fake;
mod lie;
mod line;
mod port;

pub use port::VirtioPort;
