//! Where a function is on the bus, and what it says that it is.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// `domain:bus:device.function`, as `lspci -D` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    /// The domain may be left out: it is 0 nearly everywhere.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no PCI address such as 0000:03:00.0; lspci -D lists them");
        let hex = |word: &str, most: u32| {
            let number = u32::from_str_radix(word, 16).ok().filter(|number| *number <= most);
            number.filter(|_| !word.is_empty() && !word.starts_with('+')).ok_or_else(wrong)
        };
        let (front, function) = text.split_once('.').ok_or_else(wrong)?;
        let words: Vec<&str> = front.split(':').collect();
        let (domain, bus, device) = match words[..] {
            [bus, device] => ("0", bus, device),
            [domain, bus, device] => (domain, bus, device),
            _ => return Err(wrong()),
        };
        let byte = |word, most| Ok::<u8, String>(u8::try_from(hex(word, most)?).unwrap_or(u8::MAX));
        Ok(Self {
            domain: hex(domain, 0xffff_ffff)?,
            bus: byte(bus, 0xff)?,
            device: byte(device, 0x1f)?,
            function: byte(function, 7)?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// What a function says that it is (PCI 3.0 §6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker's list.
    pub device: u16,
    /// Class, subclass and interface: 0x020000 is Ethernet.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

impl Identity {
    /// Whether it says that it is a network card.
    #[must_use]
    pub const fn is_network_card(&self) -> bool {
        self.class >> 16 == 2
    }

    /// Reads it from sysfs.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let number = |name: &str| {
            let text = std::fs::read_to_string(folder.join(name))?;
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).map_err(io::Error::other)
        };
        let short = |name: &str| Ok::<u16, io::Error>(u16::try_from(number(name)?).unwrap_or(u16::MAX));
        Ok(Self {
            vendor: short("vendor")?,
            device: short("device")?,
            class: number("class")?,
            revision: u8::try_from(number("revision")?).unwrap_or(u8::MAX),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_lspci_prints_them() {
        for (text, want) in
            [("0000:03:00.0", "0000:03:00.0"), ("a1:1f.7", "0000:a1:1f.7"), ("10001:0:0.0", "10001:00:00.0")]
        {
            assert_eq!(text.parse::<PciAddress>().expect("good").to_string(), want);
        }
        for bad in ["", "eth0", "00:20.0", "00:00.8", "00:00", "0:0:0:0.0", "1ff:00.0", "::.", "+1:00.0"] {
            let error = bad.parse::<PciAddress>().expect_err(bad);
            assert!(error.contains("lspci -D"), "{error}");
        }
    }
}
