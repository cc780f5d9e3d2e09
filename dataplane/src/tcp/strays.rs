//! Segments for which no connection is there: new ones, late ones, and noise.

use super::conn::Service;
use super::cookies;
use super::core::Core;
use super::isn;
use super::segment::{Arrived, Flags, Timestamps};
use super::seq::{Micros, Seq};
use super::shared::{Shared, bare};
use super::stack::Stack;
use super::table::Key;
use super::time_wait::Remains;
use crate::net::{Ecn, Path};

impl Shared {
    /// The last acknowledgement of a connection, from what is left of it.
    pub(crate) fn acknowledge_last(&mut self, path: &Path, remains: &Remains, now: Micros) {
        let mut segment = bare(path, remains.key.local_port, remains.key.peer_port);
        (segment.seq, segment.ack) = (remains.sent, remains.next);
        segment.flags = Flags::ACK;
        segment.window = remains.window;
        if let Some(echo) = remains.recent {
            let value = isn::timestamp(now, remains.clock);
            segment.options.timestamps(Timestamps { value, echo });
        }
        self.reply(segment);
    }
}

impl<S: Default> Stack<S> {
    /// RFC 9293 section 3.10.7.1 and 3.10.7.2: no connection has these two ends.
    pub(crate) fn receive_stray(
        &mut self,
        now: Micros,
        (path, ecn): (&Path, Ecn),
        key: &Key,
        arrived: &Arrived<'_>,
        service: &mut impl Service<S>,
    ) {
        let mut before = None;
        if let Some((index, &remains)) = self.shared.waiting.find(key) {
            if !self.reopens(&remains, arrived) {
                self.receive_late(now, path, index, &remains, arrived);
                return;
            }
            self.shared.stats.time_wait_reused += 1;
            self.shared.waiting.remove(index);
            before = Some(remains.sent);
        }
        if !self.is_listening(arrived.local_port) {
            self.shared.refuse(path, arrived);
            return;
        }
        if arrived.flags.has(Flags::RST) {
            return;
        }
        if arrived.flags.has(Flags::ACK) {
            self.open_by_cookie(now, (path, ecn), key, arrived, service);
            return;
        }
        if arrived.flags.has(Flags::SYN) && !arrived.flags.has(Flags::FIN) {
            self.accept(now, path, key, arrived, before);
        }
    }

    /// A SYN for a port that is listened to; `before` is SND.NXT of a connection between the same ends in TIME-WAIT.
    fn accept(&mut self, now: Micros, path: &Path, key: &Key, arrived: &Arrived<'_>, before: Option<Seq>) {
        let pressure = self.half_open >= self.shared.digest.config.half_open || self.is_full();
        if cookies::wanted(&self.shared.digest, pressure) {
            self.shared.send_cookie(now, path, key, arrived);
            return;
        }
        if pressure {
            self.shared.stats.syn_dropped += 1;
            return;
        }
        let origin = self.shared.origin(key, now).after(before);
        let core = Core::accept(&self.shared.digest, now, path, arrived, origin);
        if let Some(index) = self.add(core) {
            self.shared.stats.accepted += 1;
            self.half_open += 1;
            self.make_ready(index);
        }
    }

    /// An acknowledgement for a port that is listened to: of a cookie, or of nothing (RFC 9293 section 3.10.7.2).
    fn open_by_cookie(
        &mut self,
        now: Micros,
        (path, ecn): (&Path, Ecn),
        key: &Key,
        arrived: &Arrived<'_>,
        service: &mut impl Service<S>,
    ) {
        let cookies = cookies::wanted(&self.shared.digest, true) && !arrived.flags.has(Flags::SYN);
        let core = if cookies { self.shared.take_cookie(now, path, key, arrived) } else { None };
        let Some(core) = core else {
            self.shared.stats.cookies_bad += u64::from(cookies);
            self.shared.refuse(path, arrived);
            return;
        };
        // Without room the acknowledgement is as good as lost; what follows it brings it again.
        if let Some(index) = self.add(core) {
            self.shared.stats.cookies_accepted += 1;
            self.shared.stats.accepted += 1;
            self.half_open += 1;
            self.deliver(index, now, (path, ecn), arrived, service);
        } else {
            self.shared.stats.syn_dropped += 1;
        }
    }

    /// RFC 9293 section 3.6.1 (MAY-2), RFC 6191: a SYN that is certainly newer than the connection that was.
    fn reopens(&self, remains: &Remains, arrived: &Arrived<'_>) -> bool {
        if !arrived.flags.has(Flags::SYN) || arrived.flags.any(Flags(Flags::ACK.0 | Flags::RST.0)) {
            return false;
        }
        let newer_number = arrived.seq.after(remains.next);
        // RFC 6191 section 2, case by case: a timestamp decides where there are two; where there was none and now there is,
        // old segments are told by not having any.
        let newer = match (remains.recent, arrived.options.timestamps) {
            (Some(recent), Some(stamps)) => match stamps.value.wrapping_sub(recent).cast_signed() {
                0 => newer_number,
                later => later > 0,
            },
            (None, Some(_)) => true,
            (_, None) => newer_number,
        };
        self.is_listening(arrived.local_port) && newer
    }

    /// RFC 9293 section 3.10.7.4, TIME-WAIT: a FIN again is acknowledged again. A reset does not end it (RFC 1337).
    fn receive_late(
        &mut self,
        now: Micros,
        path: &Path,
        index: u32,
        remains: &Remains,
        arrived: &Arrived<'_>,
    ) {
        if arrived.flags.has(Flags::RST) {
            return;
        }
        // What brings nothing needs no answer; and if that went to somebody who answers likewise, neither would ever stop.
        if arrived.sequence_length() == 0 {
            return;
        }
        self.shared.acknowledge_last(path, remains, now);
        if arrived.flags.has(Flags::FIN) {
            let until = now + self.shared.digest.time_wait;
            self.shared.waiting.restart(index, until);
        }
    }
}
