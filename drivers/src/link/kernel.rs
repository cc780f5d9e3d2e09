//! Which kernel this is: features are known by the release that brought them.

use std::fmt;

/// `major.minor` of a Linux release. Ordered, so `kernel >= KernelVersion::new(6, 6)` reads as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.18.
    pub major: u32,
    /// 18 in 6.18.
    pub minor: u32,
}

impl KernelVersion {
    /// The release `major.minor`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The running kernel's, from `uname`. Distributions carry features back (Red Hat most of all), so where the kernel
    /// itself can be asked for a feature, its answer goes before this number.
    #[must_use]
    pub fn running() -> Self {
        Self::parse(&Self::release()).unwrap_or(Self::new(0, 0))
    }

    /// The running kernel's whole release string, as `uname -r` prints it.
    #[must_use]
    pub fn release() -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    /// Reads a release string such as `6.1.0-18-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        Some(Self::new(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_strings_of_the_wild_are_read() {
        let read = |text| KernelVersion::parse(text).map(|version| (version.major, version.minor));
        assert_eq!(read("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(read("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(read("7.2-rc3"), Some((7, 2)));
        assert_eq!(read("vendor"), None);
        assert!(KernelVersion::new(6, 9) < KernelVersion::new(6, 10));
        assert!(KernelVersion::running() > KernelVersion::new(2, 6));
    }
}
