//! The kernel's side of an address that we share with it.
//!
//! Segments for our TCP port never reach the kernel while we serve, so whoever listens there would be deaf without knowing it, and
//! a connection that the kernel begins from that port would never be answered. So the port is taken there as well, by a socket
//! that is bound and neither listens nor connects.

use super::Fallible;
use drivers::xdp::Endpoint;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// The port is ours in the kernel, too, as long as this lives.
#[derive(Debug)]
pub(super) struct Reservation {
    _socket: OwnedFd,
}

/// Takes the ports of those endpoints that the kernel has the address of, too.
///
/// # Errors
/// In words, when somebody listens there.
pub(super) fn reserve(endpoints: &[Endpoint]) -> Fallible<Vec<Reservation>> {
    endpoints
        .iter()
        .filter(|endpoint| !endpoint.is_own())
        .map(|at| take(SocketAddr::new(at.address(), at.port())))
        .collect()
}

fn take(address: SocketAddr) -> Fallible<Reservation> {
    let refused = |error: Errno| {
        if error == Errno::ADDRINUSE {
            let port = address.port();
            format!(
                "{address}: a program listens there over the kernel's TCP, and would hear nothing more: stop it (ss -ltnp sport = :{port} \
                 names it), or give another --listen"
            )
        } else {
            format!("{address}: taking the port in the kernel as well: {error}")
        }
    };
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP));
    let socket = socket.map_err(refused)?;
    // Taken so, nobody else can have it later.
    if bind(&socket, &address).is_err() {
        // What is left of former connections (`TIME_WAIT`) is no obstacle; who listens is.
        sockopt::set_socket_reuseaddr(&socket, true).map_err(refused)?;
        bind(&socket, &address).map_err(refused)?;
    }
    Ok(Reservation { _socket: socket })
}
