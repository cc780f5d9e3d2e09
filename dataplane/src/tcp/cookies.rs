//! SYN cookies: when there is no room for half-open connections, the SYN-ACK itself remembers them
//! (RFC 4987 section 3.6).
//!
//! The sequence number of a cookie:
//!
//! ```text
//!   | period mod 32 : 5 | segment size : 3 | keyed hash : 24 |
//! ```
//!
//! What does not fit there is in the low bits of the timestamp, which the peer echoes: its window scale, whether it
//! takes SACK and ECN. A peer without timestamps gets neither.

use super::core::{Core, Digest};
use super::isn::{self, Origin};
use super::segment::{Arrived, Flags, OptionBytes, Options, Timestamps};
use super::seq::{Micros, Seq, low};
use super::shared::{Shared, bare};
use super::table::Key;
use crate::net::Path;

/// A cookie is good for this period and the one before.
const PERIOD: Micros = 64_000_000;

/// The segment sizes that a cookie can remember: the largest that is not above the peer's is taken.
const SIZES: [u16; 8] = [64, 536, 1220, 1360, 1440, 1460, 4312, 8900];

/// In the low bits of a timestamp: a scale of 15 is none.
const NO_SCALE: u32 = 15;
const SACK_BIT: u32 = 1 << 4;
const ECN_BIT: u32 = 1 << 5;
const STAMP_BITS: u32 = (1 << 6) - 1;

impl Shared {
    /// What of a period's cookie is secret.
    fn cookie_hash(&self, key: &Key, peer: Seq, period: u64, size: u32) -> u32 {
        let number = u64::from(peer.0) << 32 | u64::from(low(period) << 3 | size);
        low(self.cookies.hash(key, number)) & 0x00ff_ffff
    }

    fn cookie(&self, key: &Key, peer: Seq, period: u64, size: u32) -> Seq {
        Seq((low(period) & 31) << 27 | size << 24 | self.cookie_hash(key, peer, period, size))
    }

    /// Answers a SYN without remembering anything.
    pub(crate) fn send_cookie(&mut self, now: Micros, path: &Path, key: &Key, syn: &Arrived<'_>) {
        let unsaid = if path.is_v4() { 536 } else { 1220 };
        let offered = syn.options.mss.unwrap_or(unsaid);
        let size = SIZES.iter().rposition(|size| *size <= offered).map_or(0, super::seq::length);
        let mut segment = bare(path, syn.local_port, syn.peer_port);
        segment.seq = self.cookie(key, syn.seq, now / PERIOD, size);
        segment.ack = syn.seq.plus(1);
        segment.flags = Flags::SYN | Flags::ACK;
        let config = &self.digest.config;
        segment.window = u16::try_from(config.receive_window).unwrap_or(u16::MAX);
        let ecn = config.ecn && syn.flags.has(Flags(Flags::ECE.0 | Flags::CWR.0));
        let mut options = OptionBytes::new();
        options.mss(self.digest.announced_mss(path));
        if let Some(stamps) = syn.options.timestamps {
            if syn.options.sack_permitted {
                options.sack_permitted();
            }
            let value = stamp(isn::timestamp(now, self.origin(key, now).clock), &syn.options, ecn);
            options.timestamps(Timestamps { value, echo: stamps.value });
            if syn.options.scale.is_some() {
                options.scale(self.digest.scale);
            }
            if ecn {
                segment.flags |= Flags::ECE;
            }
        }
        segment.options = options;
        self.stats.cookies_sent += 1;
        self.cookie_at = now;
        self.reply(segment);
    }

    /// The connection that an acknowledgement of a cookie opens: as if it had been in SYN-RECEIVED all the time.
    pub(crate) fn take_cookie(
        &self,
        now: Micros,
        path: &Path,
        key: &Key,
        arrived: &Arrived<'_>,
    ) -> Option<Core> {
        // Nobody can have a cookie of ours when none was sent for so long.
        if self.cookie_at == 0 || now > self.cookie_at + 2 * PERIOD {
            return None;
        }
        let (cookie, peer) = (arrived.ack.minus(1), arrived.seq.minus(1));
        let current = now / PERIOD;
        let size = cookie.0 >> 24 & 7;
        let periods = [Some(current), current.checked_sub(1)];
        let period = periods.into_iter().flatten().find(|period| low(*period) & 31 == cookie.0 >> 27)?;
        if self.cookie(key, peer, period, size) != cookie {
            return None;
        }
        let options = remembered(&arrived.options, size);
        let mut syn = Arrived { seq: peer, flags: Flags::SYN, options, payload: &[], ..*arrived };
        if remembers_ecn(&arrived.options) {
            syn.flags |= Flags(Flags::ECE.0 | Flags::CWR.0);
        }
        let origin = Origin { isn: cookie, clock: self.origin(key, now).clock };
        let mut core = Core::accept(&self.digest, now, path, &syn, origin);
        core.forget_syn();
        Some(core)
    }
}

/// The timestamp with the options in its low bits, and not later than it was.
fn stamp(now: u32, options: &Options, ecn: bool) -> u32 {
    let mut bits = options.scale.map_or(NO_SCALE, |scale| u32::from(scale.min(14)));
    bits |= if options.sack_permitted { SACK_BIT } else { 0 };
    bits |= if ecn { ECN_BIT } else { 0 };
    let value = now & !STAMP_BITS | bits;
    // RFC 7323 section 4.1: the clock never goes back; the next real timestamp is not below.
    if value.wrapping_sub(now).cast_signed() > 0 { value.wrapping_sub(STAMP_BITS + 1) } else { value }
}

/// What the peer's SYN had offered.
fn remembered(options: &Options, size: u32) -> Options {
    let mss = SIZES.get(size as usize).copied();
    let mut syn = Options { mss, timestamps: options.timestamps, ..Options::default() };
    if let Some(stamps) = options.timestamps {
        let scale = stamps.echo & NO_SCALE;
        syn.scale = if scale == NO_SCALE { None } else { u8::try_from(scale).ok() };
        syn.sack_permitted = stamps.echo & SACK_BIT != 0;
    }
    syn
}

fn remembers_ecn(options: &Options) -> bool {
    options.timestamps.is_some_and(|stamps| stamps.echo & ECN_BIT != 0)
}

/// Whether a SYN is answered with a cookie.
pub(crate) fn wanted(digest: &Digest, pressure: bool) -> bool {
    match digest.config.cookies {
        super::Cookies::Off => false,
        super::Cookies::UnderPressure => pressure,
        super::Cookies::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_remembers_and_is_never_ahead() {
        for scale in [None, Some(0), Some(7), Some(14), Some(200)] {
            for now in [0, 1, 62, 63, 64, 1000, u32::MAX - 3] {
                for (sack, ecn) in [(false, false), (true, false), (false, true), (true, true)] {
                    let options = Options { scale, sack_permitted: sack, ..Options::default() };
                    let value = stamp(now, &options, ecn);
                    assert!(value.wrapping_sub(now).cast_signed() <= 0 && now.wrapping_sub(value) < 64);
                    let echo = Some(Timestamps { value: 0, echo: value });
                    let back = remembered(&Options { timestamps: echo, ..Options::default() }, 5);
                    assert_eq!(back.scale, scale.map(|scale| scale.min(14)));
                    assert_eq!((back.sack_permitted, back.mss), (sack, Some(1460)));
                    assert_eq!(remembers_ecn(&Options { timestamps: echo, ..Options::default() }), ecn);
                }
            }
        }
    }
}
