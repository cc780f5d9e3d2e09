//! What an application sees of a connection.

use super::core::{Bits, Core, State};
use super::segment::Segment;
use super::seq::{Micros, NEVER, micros, tick};
use crate::net::Path;
use crate::worker::Tick;

/// A connection's name. It never names a later connection in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both directions ended in order, and all that we sent is acknowledged.
    Finished,
    /// The peer reset it.
    Reset,
    /// The peer refused our SYN.
    Refused,
    /// The peer stopped answering.
    TimedOut,
    /// The network said that the peer cannot be reached, while it was being opened.
    Unreachable,
    /// The application reset it.
    Aborted,
    /// Its content changed while it was sent ([`Sent::Gone`]); the peer got a reset.
    Gone,
}

/// What the application does with connections. Called from within
/// [`Stack::receive`](super::Stack::receive), [`tick`](super::Stack::tick) and [`transmit`](super::Stack::transmit).
pub trait Service<S> {
    /// The three-way handshake is done.
    fn opened(&mut self, conn: &mut Conn<'_, S>);

    /// Bytes in order; returns how many of them were consumed. The rest is kept, and offered again with what comes
    /// behind it, or when the application asks with [`Conn::more`]; the window closes meanwhile.
    fn data(&mut self, conn: &mut Conn<'_, S>, bytes: &[u8]) -> usize;

    /// The peer has all bytes of the stream before this offset: they will never be asked for again.
    fn acked(&mut self, conn: &mut Conn<'_, S>, upto: u64);

    /// The peer has sent its last byte. What was not consumed is still there.
    fn half_closed(&mut self, conn: &mut Conn<'_, S>);

    /// The connection is gone: the last call for it, whatever the reason. Its [`ConnId`] names nothing any more.
    fn closed(&mut self, conn: &mut Conn<'_, S>, why: Closed);

    /// The time of [`Conn::set_timer`] has come.
    fn timer(&mut self, conn: &mut Conn<'_, S>);
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It goes.
    Yes,
    /// No room for it: nothing more in this turn.
    Full,
    /// Its bytes are not there yet: the connection waits for [`Stack::resume`](super::Stack::resume). Only for segments
    /// with payload.
    NotYet,
    /// Its bytes will never be there, because the content changed: the connection is reset. Only for segments with
    /// payload.
    Gone,
}

/// Where segments go.
pub trait Out<S> {
    /// Puts one segment on the wire. Its payload is named by offsets of the stream; an offset is asked for again when
    /// the segment was lost, until [`Service::acked`] has passed it. `state` is the application's part of the
    /// connection; for a segment of no connection (a reset, a cookie; its payload is empty) it is somebody's default.
    fn segment(&mut self, segment: &Segment, state: &mut S) -> Sent;
}

/// A connection, in the hands of the application.
#[derive(Debug)]
pub struct Conn<'a, S> {
    pub(crate) id: ConnId,
    pub(crate) core: &'a mut Core,
    pub(crate) state: &'a mut S,
    pub(crate) now: Micros,
}

impl<S> Conn<'_, S> {
    /// Its name.
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// The application's part.
    pub const fn state(&self) -> &S {
        self.state
    }

    /// The application's part.
    pub const fn state_mut(&mut self) -> &mut S {
        self.state
    }

    /// The time of this turn.
    pub const fn now(&self) -> Tick {
        tick(self.now)
    }

    /// The way to the peer.
    pub const fn path(&self) -> &Path {
        &self.core.path
    }

    /// Our port.
    pub const fn local_port(&self) -> u16 {
        self.core.local_port
    }

    /// The peer's port.
    pub const fn peer_port(&self) -> u16 {
        self.core.peer_port
    }

    /// Where it is in RFC 9293's diagram.
    pub const fn tcp_state(&self) -> State {
        self.core.state
    }

    /// Whether we began it.
    pub const fn is_dialled(&self) -> bool {
        self.core.bits.has(Bits::DIALLED)
    }

    /// The stream grew by so many bytes, which [`Out::segment`] will be asked for by their offsets. Ignored after
    /// [`finish`](Self::finish).
    pub const fn queue(&mut self, bytes: u64) {
        if !self.core.bits.has(Bits::FINISH) {
            self.core.queued += bytes;
        }
    }

    /// No more will be queued: a FIN follows the last byte.
    pub const fn finish(&mut self) {
        self.core.bits.set(Bits::FINISH);
    }

    /// Ends the connection with a reset, after this call returns.
    pub const fn reset(&mut self) {
        self.core.bits.set(Bits::RESET);
    }

    /// Asks for the unread bytes to be offered again, after this call returns.
    pub const fn more(&mut self) {
        self.core.bits.set(Bits::MORE);
    }

    /// Acknowledges what came at once, not soon. For who waits for the rest of something: a peer that holds small pieces
    /// back until all before them is acknowledged (Nagle, RFC 9293 section 3.7.4) would wait for us, and we for it.
    pub const fn acknowledge(&mut self) {
        self.core.bits.set(Bits::ACK_NOW);
    }

    /// Calls [`Service::timer`] at this time, or never. There is one timer; a new time replaces the old one.
    pub fn set_timer(&mut self, at: Option<Tick>) {
        self.core.app_at = at.map_or(NEVER, micros);
    }

    /// The length of the stream so far, in bytes.
    pub const fn queued(&self) -> u64 {
        self.core.queued
    }

    /// How much of the stream is acknowledged, in bytes.
    pub fn acked(&self) -> u64 {
        self.core.board.una.min(self.core.queued)
    }

    /// How much of the stream was sent at least once, in bytes.
    pub fn sent(&self) -> u64 {
        self.core.board.nxt.min(self.core.queued)
    }

    /// The smoothed round trip in microseconds; zero while nothing was measured.
    pub const fn round_trip(&self) -> u32 {
        self.core.rtt.smoothed()
    }

    /// The congestion window, in bytes.
    pub const fn congestion_window(&self) -> u32 {
        self.core.congestion.window
    }

    /// Bytes of payload of a full segment.
    pub const fn mss(&self) -> u16 {
        self.core.mss
    }
}
