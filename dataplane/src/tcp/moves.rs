//! Peers whose segments came from another MAC address, and where they came from before.
//!
//! Answers go where a peer's segments come from, so that they follow a router that fails over. But no checksum of TCP's covers
//! an Ethernet header, and there are wires whose own does not reach this far (a tunnel's, a memory's): a bit that turned over
//! in the last acknowledgement would lead all that follows astray, and nothing would come back to put it right. So until a
//! second segment comes from there a move is doubted: after each timeout the next tries go the other way.

use super::timers::NOBODY;

/// So many moves are remembered at once. One that is overwritten is believed: a few at a time are bits that turned over, and
/// all at once are a router's.
const PLACES: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Move {
    connection: u32,
    other: [u8; 6],
}

/// The latest moves, each in the place that the connection's number says.
#[derive(Debug)]
pub(crate) struct Moves([Move; PLACES]);

impl Moves {
    pub(crate) const fn new() -> Self {
        Self([Move { connection: NOBODY, other: [0; 6] }; PLACES])
    }

    /// The segments of this connection came from `former` until now.
    #[cold]
    pub(crate) const fn note(&mut self, connection: u32, former: [u8; 6]) {
        self.0[connection as usize % PLACES] = Move { connection, other: former };
    }

    /// Goes the other way, if it is still known.
    #[cold]
    pub(crate) fn doubt(&mut self, connection: u32, mac: &mut [u8; 6]) {
        let place = &mut self.0[connection as usize % PLACES];
        if place.connection == connection {
            std::mem::swap(&mut place.other, mac);
        }
    }
}
