//! What a user types for a port: `driver:device[,key=value..]`.

use std::fmt;
use std::str::FromStr;

/// A port as it was asked for: `af-xdp:eth0,queues=0-3,mode=copy`.
///
/// A bare `eth0` names no driver: the best that works is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The driver's name, when one was given.
    pub driver: Option<String>,
    /// The interface, file or device string.
    pub device: String,
    /// The rest, in order.
    pub options: Vec<(String, String)>,
}

/// Why a port could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError(pub String);

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpecError {}

/// The drivers that a port may name, and one line on each.
pub const DRIVERS: &[(&str, &str)] = &[
    ("af-xdp", "AF_XDP: the NIC's queues through the kernel's fast path"),
    ("packet", "AF_PACKET: works wherever root does"),
    ("pcap", "replay from and record to a capture file"),
    ("vhost-user", "virtio rings shared with another process: DPDK's net_vhost, VPP, OVS"),
    ("vfio", "a PCI card by drivers of our own, behind an IOMMU: 82574L, 82576"),
    ("uio", "the same without an IOMMU"),
    #[cfg(feature = "dpdk")]
    ("dpdk", "any device that DPDK has a driver for"),
];

/// What may be said of a port with any driver: a capture of what passes, and a bad wire.
pub const ANY_DRIVER: &[&str] = &["tap", "loss", "duplicate", "corrupt", "reorder", "seed"];

/// The driver whose device may be told one word twice: a file for each queue.
const TOLD_TWICE: &str = "dpdk";

impl FromStr for PortSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (driver, rest) = match text.split_once(':') {
            Some((driver, rest)) if DRIVERS.iter().any(|(name, _)| *name == driver) => {
                (Some(driver.to_owned()), rest)
            }
            Some((driver, _)) => return Err(unknown_driver(driver)),
            None => (None, text),
        };
        let mut parts = rest.split(',');
        let device = parts.next().unwrap_or_default().to_owned();
        if device.is_empty() {
            return Err(SpecError(format!(
                "\"{text}\" names no device; a port is driver:device[,key=value..]"
            )));
        }
        let options = parts
            .map(|part| {
                part.split_once('=')
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .ok_or_else(|| SpecError(format!("\"{part}\" in \"{text}\" is not key=value")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (i, (key, _)) in options.iter().enumerate() {
            let twice = options[..i].iter().any(|(earlier, _)| earlier == key);
            if twice && driver.as_deref() != Some(TOLD_TWICE) {
                return Err(SpecError(format!("\"{key}\" is given twice in \"{text}\"")));
            }
        }
        Ok(Self { driver, device, options })
    }
}

fn unknown_driver(driver: &str) -> SpecError {
    let known: Vec<&str> = DRIVERS.iter().map(|(name, _)| *name).collect();
    let hint = match driver {
        "dpdk" => " (built without dpdk: `make dpdk` installs what it needs and builds it in)",
        _ => "",
    };
    SpecError(format!("unknown driver \"{driver}\"{hint}; there are {}", known.join(", ")))
}

impl PortSpec {
    /// The value of `key`, parsed; `None` when it was not given.
    ///
    /// # Errors
    /// [`SpecError`] naming the key, the value and what it may be.
    pub fn option<T: FromStr>(&self, key: &str, may_be: &str) -> Result<Option<T>, SpecError> {
        let Some((_, value)) = self.options.iter().find(|(name, _)| name == key) else { return Ok(None) };
        let parsed = value.parse();
        parsed.map(Some).map_err(|_| SpecError(format!("{self}: {key}={value} is not {may_be}")))
    }

    /// Takes an option out: one that is not the driver's business.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let place = self.options.iter().position(|(name, _)| name == key)?;
        Some(self.options.remove(place).1)
    }

    /// Refuses options that the driver does not know.
    ///
    /// # Errors
    /// [`SpecError`] naming the first unknown key and those that there are.
    pub fn only(&self, known: &[&str]) -> Result<(), SpecError> {
        match self.options.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(SpecError(format!(
                "{self}: unknown option \"{key}\"; there are {}; and for any driver {}",
                known.join(", "),
                ANY_DRIVER.join(", ")
            ))),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(driver) = &self.driver {
            write!(f, "{driver}:")?;
        }
        f.write_str(&self.device)?;
        self.options.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
    }
}

/// A list of numbers as people write it: `0-3,7` with `+` for a comma inside a port, so `0-3+7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberList(pub Vec<u32>);

impl FromStr for NumberList {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let wrong = || SpecError(format!("\"{text}\" is not a list of numbers like 0-3,7"));
        let mut numbers = Vec::new();
        for part in text.split([',', '+']) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) =
                (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
            if last < first || last > 4095 {
                return Err(wrong());
            }
            numbers.extend(first..=last);
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(Self(numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_as_it_was_typed() {
        for text in ["eth0", "af-xdp:eth0", "af-xdp:eth0,queues=0-3,mode=copy", "pcap:in.pcap,out=out.pcap"] {
            assert_eq!(text.parse::<PortSpec>().expect("good").to_string(), text);
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, words) in [
            ("xdp:eth0", "there are af-xdp, packet, pcap, vhost-user"),
            #[cfg(not(feature = "dpdk"))]
            ("dpdk:net_null0", "built without dpdk: `make dpdk` installs"),
            ("uio:", "names no device"),
            ("packet:", "names no device"),
            ("packet:eth0,fast", "is not key=value"),
            ("packet:eth0,a=1,a=2", "given twice"),
        ] {
            let error = text.parse::<PortSpec>().expect_err("bad").to_string();
            assert!(error.contains(words), "{error}");
        }
        let spec: PortSpec = "packet:eth0,ring=many".parse().expect("well formed");
        assert!(
            spec.option::<u32>("ring", "a number").expect_err("bad").0.contains("ring=many is not a number")
        );
        let words = spec.only(&["queues"]).expect_err("unknown").0;
        for word in ["unknown option \"ring\"", "there are queues;", "for any driver tap, loss"] {
            assert!(words.contains(word), "{word}: {words}");
        }
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!("0-2,7".parse::<NumberList>().expect("good").0, [0, 1, 2, 7]);
        assert_eq!("3+1".parse::<NumberList>().expect("good").0, [1, 3]);
        for bad in ["", "a", "3-1", "1-99999", "-1"] {
            assert!(bad.parse::<NumberList>().is_err(), "{bad}");
        }
    }
}
