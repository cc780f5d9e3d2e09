//! Dates as HTTP writes and reads them (RFC 9110 section 5.6.7), and the clock of a worker.

use httpdate::HttpDate;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that four digits of a year can name.
const LAST: u64 = 253_402_300_799;

/// A second of the wall clock, with its text in the preferred form: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    seconds: u64,
    text: [u8; 29],
}

impl Date {
    /// The second that `time` lies in. Times outside 1970 to 9999, which HTTP cannot say, are moved to the nearest
    /// that it can.
    #[must_use]
    pub fn new(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs().min(LAST);
        let mut text = [b' '; 29];
        // The text is 29 bytes for each date of that range, so this cannot fail.
        let _ = write!(&mut text[..], "{}", HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds)));
        Self { seconds, text }
    }

    /// A field's value in any of the three forms that a server must accept; `None` if it is no date.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<u64> {
        let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn seconds(&self) -> u64 {
        self.seconds
    }

    /// As it stands in a field.
    #[must_use]
    pub const fn text(&self) -> &[u8; 29] {
        &self.text
    }
}

/// The date of responses, written anew once a second.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    date: Date,
}

impl Clock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self { date: Date::new(now) }
    }

    /// The date at `now`; formatted only if the second has changed.
    pub fn at(&mut self, now: SystemTime) -> &Date {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds != self.date.seconds {
            self.date = Date::new(now);
        }
        &self.date
    }

    /// The date as last asked for.
    #[must_use]
    pub const fn date(&self) -> &Date {
        &self.date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The three forms of RFC 9110 section 5.6.7 name one second.
    #[test]
    fn three_forms_are_read() {
        for form in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(Date::parse(form.as_bytes()), Some(784_111_777), "{form}");
        }
        for bad in ["", "0", "Sun, 06 Nov 1994 08:49:37", "Sun, 31 Feb 1994 08:49:37 GMT", "\u{fc}"] {
            assert_eq!(Date::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Date::parse(b"\xff"), None);
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        assert_eq!(Date::new(at(784_111_777)).text(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(Date::new(UNIX_EPOCH - Duration::from_secs(5)).seconds(), 0);
        let end = Date::new(at(LAST + 5));
        assert_eq!(end.text(), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn the_clock_moves_by_seconds() {
        let mut clock = Clock::new(at(10));
        assert_eq!(clock.at(at(10) + Duration::from_millis(999)).seconds(), 10);
        assert_eq!(clock.at(at(11)).seconds(), 11);
        assert_eq!(clock.date().text(), b"Thu, 01 Jan 1970 00:00:11 GMT");
        assert_eq!(clock.at(at(5)).seconds(), 5, "a wall clock may be set back");
    }
}
