//! The two facts that only the `SIOCETHTOOL` ioctl tells on every kernel: the driver's name and bus, and the number of
//! queues in use. The one file of this module with unsafe code: one call.
//!
//! Formats: `struct ethtool_drvinfo` and `struct ethtool_channels`, `include/uapi/linux/ethtool.h`.

use rustix::{
    fd::AsRawFd,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};
use std::io;

/// `SIOCETHTOOL`, `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// What may be asked. Each command's answer has a fixed size, all below [`ANSWER_WORDS`].
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Command {
    /// `ETHTOOL_GDRVINFO`: 196 bytes.
    DriverInfo = 0x03,
    /// `ETHTOOL_GCHANNELS`: 36 bytes.
    Channels = 0x3c,
}

/// Room for an answer, in words of 32 bits: 256 bytes.
const ANSWER_WORDS: usize = 64;
const _: () = assert!(ANSWER_WORDS * 4 >= 196);

/// Who drives an interface, and where it sits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DriverInfo {
    /// `veth`, `ixgbe`, ...
    pub(super) driver: String,
    /// A PCI address such as `0000:03:00.0`, or empty.
    pub(super) bus: String,
}

/// Queues in use, and how many there could be. A combined channel has one queue of each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) receive: u32,
    pub(super) transmit: u32,
    pub(super) receive_limit: u32,
}

/// Who drives `name`. `EOPNOTSUPP` when its driver does not say.
pub(super) fn driver_info(name: &str) -> io::Result<DriverInfo> {
    let answer = ask(name, Command::DriverInfo)?;
    // cmd: u32, driver[32], version[32], fw_version[32], bus_info[32], ...
    Ok(DriverInfo { driver: text(&answer, 1), bus: text(&answer, 25) })
}

/// The queues of `name`. `EOPNOTSUPP` when its driver does not say.
pub(super) fn channels(name: &str) -> io::Result<Channels> {
    // cmd, max rx, tx, other, combined, then the same four in use.
    let [_, max_rx, _, _, max_combined, rx, tx, _, combined, ..] = ask(name, Command::Channels)?;
    Ok(Channels {
        receive: rx.saturating_add(combined),
        transmit: tx.saturating_add(combined),
        receive_limit: max_rx.saturating_add(max_combined),
    })
}

/// The text of 32 bytes that begins at word `first`.
fn text(answer: &[u32; ANSWER_WORDS], first: usize) -> String {
    let bytes: Vec<u8> = answer[first..first + 8]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .take_while(|&byte| byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ask(name: &str, command: Command) -> io::Result<[u32; ANSWER_WORDS]> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut answer = [0u32; ANSWER_WORDS];
    answer[0] = command as u32;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let ifru_data = answer.as_mut_ptr().cast::<libc::c_char>();
    // SAFETY: an `ifreq` is integers, pointers and unions of them, and zero is a value of each. Zeroed, because the kernel
    // reads all of it, also what the pointer leaves of the union.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    request.ifr_name = ifr_name;
    request.ifr_ifru.ifru_data = ifru_data;
    // SAFETY: the kernel reads one `ifreq` at `request`, which lives on this stack, NUL-terminated because the name is
    // shorter than IFNAMSIZ. Through `ifru_data` it reads the command and writes one answer of that command's fixed size
    // (at most 196 bytes) into the 256 bytes of `answer`, which is aligned for it and not otherwise used meanwhile.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_nul() {
        let mut answer = [0u32; ANSWER_WORDS];
        answer[1] = u32::from_ne_bytes(*b"veth");
        answer[25] = u32::from_ne_bytes(*b"0000");
        answer[26] = u32::from_ne_bytes(*b":03\0");
        assert_eq!(text(&answer, 1), "veth");
        assert_eq!(text(&answer, 25), "0000:03");
    }

    #[test]
    fn names_the_kernel_could_not_hold_are_refused_before_the_call() {
        let error = channels("a-name-of-sixteen").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(driver_info("no-such-if").unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
