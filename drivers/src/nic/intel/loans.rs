//! What a queue has lent to its card.

use ringbuf::{Loan, Pool};

/// The slots that the card has. Recalled when this goes.
#[derive(Debug)]
pub(super) struct Loans<'p> {
    pub(super) pool: &'p Pool,
    pub(super) receive: Loan,
    pub(super) transmit: Loan,
}

impl Drop for Loans<'_> {
    fn drop(&mut self) {
        self.pool.recall(self.receive);
        self.pool.recall(self.transmit);
    }
}
