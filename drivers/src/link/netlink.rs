//! One question, all its answers: the little of netlink that reading facts needs.
//!
//! The message formats are `neli`'s; this file only holds the conversation (send, collect until the kernel says that it
//! is finished) and typed access to attributes. The socket belongs to the network namespace of the thread that opened
//! it, which is why every fact of this module is read over a fresh one.

use neli::{
    FromBytesWithInput, ToBytes,
    attr::Attribute,
    consts::{
        nl::{NlmF, Nlmsg},
        socket::NlFamily,
    },
    err::SocketError,
    genl::{AttrTypeBuilder, NlattrBuilder},
    nl::{NlPayload, NlmsghdrBuilder},
    socket::synchronous::NlSocketHandle,
    types::{Buffer, GenlBuffer},
    utils::Groups,
};
use std::{cell::Cell, io, io::Cursor};

/// `GENL_ID_CTRL`, the one generic family whose number is fixed (`include/uapi/linux/genetlink.h`).
const CONTROLLER: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Whether the kernel is asked for one thing, for all that there are, or to make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// One object; the kernel acknowledges or refuses.
    One,
    /// Every object of its kind that matches.
    Dump,
    /// One object that is made if there is none; the kernel acknowledges or refuses.
    Create,
}

/// A netlink socket in the namespace of the thread that opened it.
pub(super) struct Conversation {
    socket: NlSocketHandle,
    sequence: Cell<u32>,
}

impl Conversation {
    /// About links (`rtnetlink`).
    pub(super) fn route() -> io::Result<Self> {
        Self::open(NlFamily::Route)
    }

    /// About a generic family, named at each question.
    pub(super) fn generic() -> io::Result<Self> {
        Self::open(NlFamily::Generic)
    }

    fn open(family: NlFamily) -> io::Result<Self> {
        let socket = NlSocketHandle::connect(family, None, Groups::empty()).map_err(into_io)?;
        Ok(Self { socket, sequence: Cell::new(0) })
    }

    /// Sends `body` (a family's fixed header, then attributes) and returns the bodies of the answers.
    pub(super) fn ask(&self, kind: u16, scope: Scope, body: Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let flags = match scope {
            Scope::One => NlmF::REQUEST | NlmF::ACK,
            Scope::Dump => NlmF::REQUEST | NlmF::DUMP,
            Scope::Create => NlmF::REQUEST | NlmF::ACK | NlmF::CREATE,
        };
        let question = NlmsghdrBuilder::default()
            .nl_type(kind)
            .nl_flags(flags)
            .nl_seq(sequence)
            .nl_payload(NlPayload::Payload(Buffer::from(body)))
            .build()
            .map_err(io::Error::other)?;
        self.socket.send(&question).map_err(into_io)?;

        let mut answers = Vec::new();
        loop {
            let (messages, _) = self.socket.recv_all::<u16, Buffer>().map_err(into_io)?;
            for message in messages {
                if *message.nl_seq() != sequence {
                    continue; // The tail of an earlier question that ended in an error.
                }
                let done = *message.nl_type() == u16::from(Nlmsg::Done);
                match message.nl_payload() {
                    NlPayload::Err(refusal) => return Err(io::Error::from_raw_os_error(-refusal.error())),
                    NlPayload::Ack(_) | NlPayload::DumpExtAck(_) => return Ok(answers),
                    NlPayload::Empty if done => return Ok(answers),
                    NlPayload::Empty => {}
                    NlPayload::Payload(_) if done => return Ok(answers),
                    NlPayload::Payload(answer) => answers.push(answer.as_ref().to_vec()),
                }
            }
        }
    }

    /// The number that the kernel gave the generic family `name`; `NotFound` when this kernel has none of it.
    pub(super) fn family(&self, name: &str) -> io::Result<u16> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let answers = self.ask(
            CONTROLLER,
            Scope::One,
            generic_body(CTRL_CMD_GETFAMILY, &[attribute(CTRL_ATTR_FAMILY_NAME, &text)?]),
        )?;
        answers
            .first()
            .and_then(|answer| Attributes::after(GENERIC_HEADER, answer))
            .and_then(|attributes| attributes.u16(CTRL_ATTR_FAMILY_ID))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Asks `command` of a generic family, with `attributes` already encoded.
    pub(super) fn ask_family(
        &self,
        family: u16,
        command: u8,
        scope: Scope,
        attributes: &[Vec<u8>],
    ) -> io::Result<Vec<Attributes>> {
        let answers = self.ask(family, scope, generic_body(command, attributes))?;
        Ok(answers.iter().filter_map(|answer| Attributes::after(GENERIC_HEADER, answer)).collect())
    }
}

/// `struct genlmsghdr`: command, version, two bytes reserved.
const GENERIC_HEADER: usize = 4;

fn generic_body(command: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    attributes.iter().for_each(|attribute| body.extend_from_slice(attribute));
    body
}

/// One attribute, encoded and padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    encode(kind, value, false)
}

/// One attribute that holds others.
pub(super) fn nest(kind: u16, inner: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    encode(kind, &inner.concat(), true)
}

fn encode(kind: u16, value: &[u8], nested: bool) -> io::Result<Vec<u8>> {
    let kind =
        AttrTypeBuilder::default().nla_type(kind).nla_nested(nested).build().map_err(io::Error::other)?;
    let attribute = NlattrBuilder::default()
        .nla_type(kind)
        .nla_payload(Buffer::from(value))
        .build()
        .map_err(io::Error::other)?;
    let mut bytes = Cursor::new(Vec::new());
    attribute.to_bytes(&mut bytes).map_err(io::Error::other)?;
    let mut bytes = bytes.into_inner();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

/// Attributes of one message or of one nest, by number. Numbers that are absent, or too short, are `None`.
pub(super) struct Attributes(GenlBuffer<u16, Buffer>);

impl Attributes {
    /// What follows a fixed header of `header` bytes.
    pub(super) fn after(header: usize, message: &[u8]) -> Option<Self> {
        Self::parse(message.get(header..)?)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let list = GenlBuffer::from_bytes_with_input(&mut Cursor::new(bytes), bytes.len()).ok()?;
        Some(Self(list))
    }

    pub(super) fn bytes(&self, kind: u16) -> Option<&[u8]> {
        let found = self.0.as_ref().iter().find(|attribute| *attribute.nla_type().nla_type() == kind)?;
        Some(found.payload().as_ref())
    }

    pub(super) fn u8(&self, kind: u16) -> Option<u8> {
        self.bytes(kind)?.first().copied()
    }

    pub(super) fn u16(&self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(*self.bytes(kind)?.first_chunk()?))
    }

    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.bytes(kind)?.first_chunk()?))
    }

    pub(super) fn u64(&self, kind: u16) -> Option<u64> {
        Some(u64::from_ne_bytes(*self.bytes(kind)?.first_chunk()?))
    }

    pub(super) fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.bytes(kind)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    pub(super) fn nested(&self, kind: u16) -> Option<Self> {
        Self::parse(self.bytes(kind)?)
    }

    /// Every attribute as a nest: how the kernel writes lists.
    pub(super) fn each_nested(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.as_ref().iter().filter_map(|attribute| Self::parse(attribute.payload().as_ref()))
    }
}

fn into_io(error: SocketError) -> io::Error {
    match error {
        SocketError::Io(cause) => {
            cause.raw_os_error().map_or_else(|| io::Error::other(cause), io::Error::from_raw_os_error)
        }
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back() {
        let inner = attribute(3, &7u32.to_ne_bytes()).unwrap();
        let bytes =
            [nest(1, &[inner]).unwrap(), attribute(2, b"odd\0").unwrap(), attribute(9, b"x").unwrap()];
        let read = Attributes::parse(&bytes.concat()).unwrap();
        assert_eq!(read.nested(1).unwrap().u32(3), Some(7));
        assert_eq!(read.text(2).as_deref(), Some("odd"));
        assert_eq!(read.u8(9), Some(b'x'));
        assert_eq!(read.u32(9), None, "too short for the type asked");
        assert_eq!(read.u64(4), None, "absent");
    }

    #[test]
    fn an_attribute_that_claims_more_than_there_is_is_refused() {
        let mut bytes = attribute(3, &7u32.to_ne_bytes()).unwrap();
        bytes[0] = 200;
        assert!(Attributes::parse(&bytes).is_none());
    }

    #[test]
    fn the_kernels_refusal_becomes_its_errno() {
        let conversation = Conversation::generic().unwrap();
        let error = conversation.family("no-such-family").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        // And the conversation goes on after it.
        assert!(conversation.family("nlctrl").is_ok());
    }
}
