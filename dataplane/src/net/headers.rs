//! Headers out: Ethernet, tags, IP and TCP in one go.

use super::path::{Ecn, Path, Vlan};
use super::wire::{CUSTOMER_TAG, IPV4, IPV6, SERVICE_TAG, TCP, pseudo};
use drivers::checksum::{fold, sum};
use ringbuf::{Frame, NoRoom, Offload, Segmentation};

/// Bytes of the longest headers: Ethernet with two tags, IPv6, TCP with all its options.
pub const HEADER_BYTES: usize = 14 + 8 + 40 + 60;

/// Hops that our packets may make (RFC 1700 and IANA's "ip-parameters": 64).
pub(super) const HOP_LIMIT: u8 = 64;

/// What the headers of one segment say.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// From where to where.
    pub path: &'a Path,
    /// The tag outside of [`Path::vlan`], for an interface with two ([`Host::service_tag`](super::Host::service_tag)).
    pub service: Option<Vlan>,
    /// Our TCP port.
    pub local_port: u16,
    /// The peer's.
    pub peer_port: u16,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The window field, already scaled.
    pub window: u16,
    /// TCP options, padded to a multiple of four bytes; at most forty.
    pub options: &'a [u8],
    /// The rest, which differs from segment to segment.
    pub patch: Patch,
}

/// What each segment of a connection's turn has for itself.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The flags' byte of the TCP header: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit.
    pub flags: u8,
    /// The ECN bits of the IP header.
    pub ecn: Ecn,
    /// Bytes that follow the headers, in this frame or in pages behind it.
    pub payload_bytes: usize,
    /// Payload bytes of the segments that the device is to cut this packet into; 0 when it is one segment.
    pub segment_bytes: u16,
}

/// Bytes of an Ethernet header without tags.
const ETHERNET: u8 = 14;
/// And of the shortest headers behind it over IPv4.
const PLAIN: usize = 14 + 20 + 20;

/// Room for a template: copied as a whole, which is a few wide moves where a copy of just as many bytes is a call.
const ROOM: usize = ROOM_BYTES as usize;
const ROOM_BYTES: u16 = 128;
const _: () = assert!(HEADER_BYTES <= ROOM);

/// Headers to be copied and patched: what the segments have in common that a connection sends in one turn.
///
/// ```text
///   | Ethernet, tags | IP: length, checksum, ECN | TCP: sequence, flags, checksum | options |
///                          └─────────────┴──────────────────┴────────┴── zero here, patched for each
/// ```
///
/// The checksums are patched too: what of them the template knows has been summed up.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: [u8; ROOM],
    network: u8,
    transport: u8,
    total: u8,
    v4: bool,
    /// The folded sum of the IPv4 header, as it is here.
    header_sum: u16,
    /// The folded sum of the pseudo header without the length.
    pseudo_sum: u16,
}

impl Template {
    /// No headers: nothing can be written with it.
    pub const NONE: Self = Self {
        bytes: [0; ROOM],
        network: ETHERNET,
        transport: ETHERNET,
        total: 0,
        v4: false,
        header_sum: 0,
        pseudo_sum: 0,
    };

    /// Becomes the headers of segments like this one: what a [`Patch`] says is left out. In place, since to move it costs as
    /// much as to write with it.
    ///
    /// # Errors
    /// [`NoRoom`] when the options are not as said above, or the addresses are of two families; nothing can be written with it then.
    #[inline]
    pub fn set(&mut self, headers: &Headers<'_>) -> Result<(), NoRoom> {
        let path = headers.path;
        let options = headers.options;
        self.total = 0;
        if !options.len().is_multiple_of(4) || options.len() > 40 {
            return Err(NoRoom);
        }
        self.network = ETHERNET;
        put(&mut self.bytes, 0, &path.peer_mac);
        put(&mut self.bytes, 6, &path.local_mac);
        if headers.service.is_some() || path.vlan.is_some() {
            self.tag(headers);
        }
        match (path.local.to_v4(), path.peer.to_v4()) {
            (Some(local), Some(peer)) => self.set_v4(local, peer),
            (None, None) => self.set_v6(headers),
            _ => return Err(NoRoom),
        }
        let transport = usize::from(self.transport);
        let bytes = &mut self.bytes;
        put(bytes, transport, &headers.local_port.to_be_bytes());
        put(bytes, transport + 2, &headers.peer_port.to_be_bytes());
        put(bytes, transport + 8, &headers.acknowledgement.to_be_bytes());
        // At most 60 bytes, by the word, in the upper half.
        bytes[transport + 12] = small(20 + options.len()) << 2;
        put(bytes, transport + 14, &headers.window.to_be_bytes());
        put(bytes, transport + 16, &[0; 4]);
        let total = transport + 20 + options.len();
        match options.first_chunk::<12>() {
            // Timestamps and nothing else, as nearly always.
            Some(stamps) if options.len() == 12 => put(bytes, transport + 20, stamps),
            _ => bytes[transport + 20..total].copy_from_slice(options),
        }
        self.total = small(total);
        Ok(())
    }

    #[cold]
    fn tag(&mut self, headers: &Headers<'_>) {
        let mut at = 12;
        for (kind, tag) in [(SERVICE_TAG, headers.service), (CUSTOMER_TAG, headers.path.vlan)] {
            if let Some(tag) = tag {
                put(&mut self.bytes, at, &kind.to_be_bytes());
                put(&mut self.bytes, at + 2, &tag.tci().to_be_bytes());
                at += 4;
            }
        }
        self.network = small(at + 2);
    }

    #[inline]
    fn set_v4(&mut self, local: [u8; 4], peer: [u8; 4]) {
        let network = usize::from(self.network);
        put(&mut self.bytes, network - 2, &IPV4.to_be_bytes());
        put(&mut self.bytes, network, &ipv4_unsummed(0, TCP, Ecn::NotCapable, local, peer));
        // RFC 1071 §2: wider words give the same sum once folded.
        let addresses = u64::from(u32::from_ne_bytes(local)) + u64::from(u32::from_ne_bytes(peer));
        let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
        self.header_sum = fold(addresses + word([0x45, 0]) + word([0x40, 0]) + word([HOP_LIMIT, TCP]));
        self.pseudo_sum = fold(addresses + word([0, TCP]));
        (self.v4, self.transport) = (true, self.network + 20);
    }

    fn set_v6(&mut self, headers: &Headers<'_>) {
        let (path, network) = (headers.path, usize::from(self.network));
        put(&mut self.bytes, network - 2, &IPV6.to_be_bytes());
        put(&mut self.bytes, network, &ipv6(flow_label(headers), path));
        self.pseudo_sum = fold(pseudo(path.local, path.peer, TCP, 0));
        (self.v4, self.transport) = (false, self.network + 40);
    }

    /// Writes the headers of one segment to an empty frame; returns how many bytes they are: see [`write_headers`].
    ///
    /// # Errors
    /// [`NoRoom`] when the frame is too small or not empty, or the packet would be longer than IP can say.
    #[inline]
    pub fn write(&self, frame: &mut Frame<'_>, patch: &Patch) -> Result<usize, NoRoom> {
        let total = usize::from(self.total);
        if self.v4 && self.network == ETHERNET && total >= PLAIN {
            // The places as numbers in the code: most packets are like this one.
            return self.write_at(frame, patch, (ETHERNET.into(), PLAIN - 20, total));
        }
        self.write_odd(frame, patch)
    }

    #[inline(never)]
    fn write_odd(&self, frame: &mut Frame<'_>, patch: &Patch) -> Result<usize, NoRoom> {
        if self.total == 0 {
            return Err(NoRoom);
        }
        self.write_at(frame, patch, (self.network.into(), self.transport.into(), self.total.into()))
    }

    #[inline(always)]
    fn write_at(
        &self,
        frame: &mut Frame<'_>,
        patch: &Patch,
        (network, transport, total): (usize, usize, usize),
    ) -> Result<usize, NoRoom> {
        let segment = u16::try_from(total - transport + patch.payload_bytes).map_err(|_| NoRoom)?;
        let length = if self.v4 { segment.checked_add(20).ok_or(NoRoom)? } else { segment };
        if !frame.is_empty() {
            return Err(NoRoom);
        }
        if frame.grow(ROOM_BYTES).is_err() {
            return self.write_short(frame, patch, (segment, length));
        }
        let bytes = frame.first_chunk_mut().ok_or(NoRoom)?;
        *bytes = self.bytes;
        self.patch(bytes, patch, (network, transport, total), (segment, length));
        frame.truncate(self.total.into());
        if patch.payload_bytes > 0 {
            frame.set_offload(Some(self.undone(patch)));
        }
        Ok(total)
    }

    /// The same for a frame with less than all the room.
    #[cold]
    fn write_short(
        &self,
        frame: &mut Frame<'_>,
        patch: &Patch,
        lengths: (u16, u16),
    ) -> Result<usize, NoRoom> {
        let mut bytes = self.bytes;
        self.patch(
            &mut bytes,
            patch,
            (self.network.into(), self.transport.into(), self.total.into()),
            lengths,
        );
        frame.extend(&bytes[..self.total.into()])?;
        if patch.payload_bytes > 0 {
            frame.set_offload(Some(self.undone(patch)));
        }
        Ok(self.total.into())
    }

    /// Writes what is the segment's own.
    #[inline(always)]
    fn patch(
        &self,
        bytes: &mut [u8; ROOM],
        patch: &Patch,
        (network, transport, total): (usize, usize, usize),
        (segment, length): (u16, u16),
    ) {
        if self.v4 {
            let [high, low] = length.to_be_bytes();
            put(bytes, network, &[0x45, patch.ecn.bits(), high, low]);
            let ecn = u16::from_ne_bytes([0, patch.ecn.bits()]);
            let sum = u32::from(self.header_sum) + u32::from(ecn) + u32::from(length.to_be());
            put(bytes, network + 10, &(!fold_three(sum)).to_ne_bytes());
        } else {
            bytes[network + 1] |= patch.ecn.bits() << 4;
            put(bytes, network + 4, &length.to_be_bytes());
        }
        put(bytes, transport + 4, &patch.sequence.to_be_bytes());
        bytes[transport + 13] = patch.flags;
        let pseudo = u32::from(self.pseudo_sum) + u32::from(segment.to_be());
        let checksum = if patch.payload_bytes == 0 {
            !fold(u64::from(pseudo) + sum(&bytes[transport..total]))
        } else {
            fold_three(pseudo)
        };
        put(bytes, transport + 16, &checksum.to_ne_bytes());
    }

    #[inline]
    fn undone(&self, patch: &Patch) -> Offload {
        const CWR: u8 = 0x80;
        let whole =
            Offload { checksum_start: self.transport.into(), checksum_offset: 16, ..Offload::default() };
        if patch.segment_bytes == 0 || patch.payload_bytes <= patch.segment_bytes.into() {
            return whole;
        }
        let segmentation = match (self.v4, patch.flags & CWR != 0) {
            (true, false) => Segmentation::Tcp4,
            (true, true) => Segmentation::Tcp4Ecn,
            (false, false) => Segmentation::Tcp6,
            (false, true) => Segmentation::Tcp6Ecn,
        };
        let header_bytes = self.total.into();
        Offload { segment_bytes: patch.segment_bytes, header_bytes, segmentation, ..whole }
    }
}

/// Writes headers to an empty frame; returns how many bytes they are. The payload comes behind.
///
/// A segment without payload leaves with its checksum complete. With payload, the checksum's field holds the pseudo
/// header's sum and the frame's [`Offload`] says so: the device does the rest, or `drivers::checksum::finish`.
///
/// IPv4 packets say "don't fragment", so their identification may be zero (RFC 6864 §4.1); path MTU discovery
/// (RFC 1191) needs it. An IPv6 flow label is one number per connection (RFC 6437 §3).
///
/// # Errors
/// [`NoRoom`] when the frame is too small or not empty, the options are not as said above, or the packet would be longer than IP can
/// say (65535 bytes); the frame is then to be thrown away.
#[inline]
pub fn write_headers(frame: &mut Frame<'_>, headers: &Headers<'_>) -> Result<usize, NoRoom> {
    let mut template = Template::NONE;
    template.set(headers)?;
    template.write(frame, &headers.patch)
}

#[inline]
fn put<const N: usize>(bytes: &mut [u8], at: usize, field: &[u8; N]) {
    bytes[at..at + N].copy_from_slice(field);
}

/// A place in a template.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below ROOM")]
const fn small(place: usize) -> u8 {
    place as u8
}

/// Folds the sum of at most three words of sixteen bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "folded below 2^16 by then")]
const fn fold_three(total: u32) -> u16 {
    // At most 2^17 + 2^16, so 0xffff + 2 after one step.
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// An IPv4 header without options, don't fragment, checksum included.
#[inline]
pub(super) fn ipv4(length: u16, protocol: u8, ecn: Ecn, local: [u8; 4], peer: [u8; 4]) -> [u8; 20] {
    let mut header = ipv4_unsummed(length, protocol, ecn, local, peer);
    let [left, right] = (!fold(sum(&header))).to_ne_bytes();
    (header[10], header[11]) = (left, right);
    header
}

/// The same without the checksum.
#[inline]
fn ipv4_unsummed(length: u16, protocol: u8, ecn: Ecn, local: [u8; 4], peer: [u8; 4]) -> [u8; 20] {
    let [long, short] = length.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (local, peer);
    [0x45, ecn.bits(), long, short, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0, a, b, c, d, e, f, g, h]
}

/// An IPv6 header without the length and the ECN bits.
#[inline]
fn ipv6(flow: u32, path: &Path) -> [u8; 40] {
    let mut header = [0; 40];
    put(&mut header, 0, &(6 << 28 | flow).to_be_bytes());
    (header[6], header[7]) = (TCP, HOP_LIMIT);
    put(&mut header, 8, path.local.bytes());
    put(&mut header, 24, path.peer.bytes());
    header
}

/// Twenty bits from the ports and the ends of the addresses, never zero.
#[inline]
fn flow_label(headers: &Headers<'_>) -> u32 {
    let end = |address: &[u8; 16]| u32::from_be_bytes([address[12], address[13], address[14], address[15]]);
    let addresses = end(headers.path.local.bytes()).rotate_left(7) ^ end(headers.path.peer.bytes());
    let ports = u32::from(headers.local_port) << 16 | u32::from(headers.peer_port);
    // Fibonacci hashing; the upper bits are the well-mixed ones.
    (((ports ^ addresses).wrapping_mul(0x9e37_79b9)) >> 12).max(1)
}
