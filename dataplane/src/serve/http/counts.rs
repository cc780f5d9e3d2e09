//! What HTTP counts. A worker counts in plain numbers and publishes them at its ticks, as [`stats`](crate::stats) does.

use super::request::Method;
use super::response::Response;
use super::status::{Refusal, STATUSES};
use std::sync::atomic::{AtomicU64, Ordering};

const METHODS: usize = 6;
const NUMBERS: usize = METHODS + STATUSES.len() + Refusal::COUNT + 1;

/// One worker's counters, or several added up. Nothing is ever reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    numbers: [u64; NUMBERS],
}

impl Default for Counts {
    fn default() -> Self {
        Self { numbers: [0; NUMBERS] }
    }
}

const RESPONSES: usize = METHODS;
const REFUSALS: usize = RESPONSES + STATUSES.len();
const BODY_BYTES: usize = REFUSALS + Refusal::COUNT;

impl Counts {
    /// Counts a request and its answer.
    pub fn answered(&mut self, method: Method, response: &Response) {
        self.numbers[method as usize] += 1;
        self.response(response);
    }

    /// Counts bytes that were no request, and their answer, if there was one.
    pub fn refused(&mut self, refusal: Refusal, response: Option<&Response>) {
        self.numbers[REFUSALS + refusal as usize] += 1;
        if let Some(response) = response {
            self.response(response);
        }
    }

    fn response(&mut self, response: &Response) {
        if let Ok(place) = STATUSES.binary_search(&response.status) {
            self.numbers[RESPONSES + place] += 1;
        }
        self.numbers[BODY_BYTES] += response.body.len();
    }

    /// Requests by method.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ["GET", "HEAD", "OPTIONS", "PUT", "other", "unknown"].into_iter().zip(self.numbers)
    }

    /// Answers by status.
    pub fn responses(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        STATUSES.iter().copied().zip(self.numbers[RESPONSES..].iter().copied())
    }

    /// Refusals by name.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.iter().copied().zip(self.numbers[REFUSALS..].iter().copied())
    }

    /// Bytes of the bodies of all answers, as planned.
    #[must_use]
    pub const fn body_bytes(&self) -> u64 {
        self.numbers[BODY_BYTES]
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.numbers.iter_mut().zip(other.numbers) {
            *sum += more;
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum.add(&one);
            sum
        })
    }
}

/// One worker's counters, as other threads see them.
#[derive(Debug)]
pub struct CountsBoard {
    numbers: [AtomicU64; NUMBERS],
}

impl Default for CountsBoard {
    fn default() -> Self {
        Self { numbers: [const { AtomicU64::new(0) }; NUMBERS] }
    }
}

impl CountsBoard {
    /// Shows `counts` to everybody.
    pub fn publish(&self, counts: &Counts) {
        for (cell, number) in self.numbers.iter().zip(counts.numbers) {
            cell.store(number, Ordering::Relaxed);
        }
    }

    /// As last published.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        Counts { numbers: std::array::from_fn(|at| self.numbers[at].load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Method};
    use super::*;

    #[test]
    fn each_number_has_its_place() {
        let response =
            |status, bytes| Response { body: Body::Static(bytes), head_len: 9, status, close: false };
        let mut counts = Counts::default();
        counts.answered(Method::Get, &response(200, b"12345"));
        counts.answered(Method::Unknown, &response(501, b""));
        for refusal in Refusal::ALL {
            counts.refused(*refusal, Some(&response(refusal.status(), b"1")));
        }
        counts.refused(Refusal::Chunk, None);
        let board = CountsBoard::default();
        board.publish(&counts);
        let mut sum = board.snapshot();
        sum.add(&counts);
        assert_eq!(sum.body_bytes(), 2 * (5 + Refusal::COUNT as u64));
        let requests: Vec<_> = sum.requests().filter(|(_, n)| *n > 0).collect();
        assert_eq!(requests, [("GET", 2), ("unknown", 2)]);
        assert!(sum.refusals().all(|(refusal, n)| n == if refusal == Refusal::Chunk { 4 } else { 2 }));
        let of = |code| sum.responses().find(|(status, _)| *status == code).map(|(_, n)| n);
        assert_eq!((of(200), of(408), of(404)), (Some(2), Some(2), Some(0)));
        assert_eq!(of(501), Some(4), "an unknown method and an unknown coding");
    }
}
