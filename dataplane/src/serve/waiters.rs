//! Who waits for what, in memory that is allocated once.

/// The number that a caller waits under: a connection's, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter(pub u64);

/// The end of a list.
const NONE: u32 = u32::MAX;

/// One list of waiters among those of [`Waiters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct List(u32);

impl List {
    pub(in crate::serve) const EMPTY: Self = Self(NONE);
}

#[derive(Debug)]
struct Node {
    waiter: Waiter,
    next: u32,
}

/// Any number of lists over one slab of nodes. The slab grows if more wait than was thought, and keeps its size then.
#[derive(Debug)]
pub(in crate::serve) struct Waiters {
    nodes: Vec<Node>,
    free: u32,
}

impl Waiters {
    pub(in crate::serve) fn with_room(waiters: usize) -> Self {
        Self { nodes: Vec::with_capacity(waiters), free: NONE }
    }

    /// Puts a waiter on a list; who came last and asks again is not put there twice.
    pub(in crate::serve) fn add(&mut self, list: &mut List, waiter: Waiter) {
        if self.nodes.get(list.0 as usize).is_some_and(|node| node.waiter == waiter) {
            return;
        }
        let node = Node { waiter, next: list.0 };
        if let Some(place) = self.nodes.get_mut(self.free as usize) {
            list.0 = std::mem::replace(&mut self.free, place.next);
            *place = node;
        } else if let Ok(place) = u32::try_from(self.nodes.len())
            && place != NONE
        {
            self.nodes.push(node);
            list.0 = place;
        }
    }

    /// Empties a list; the first to come is the first to go.
    pub(in crate::serve) fn wake(&mut self, list: &mut List, woken: &mut Vec<Waiter>) {
        let first = woken.len();
        let mut at = std::mem::replace(list, List::EMPTY).0;
        while let Some(node) = self.nodes.get_mut(at as usize) {
            woken.push(node.waiter);
            let next = std::mem::replace(&mut node.next, self.free);
            self.free = at;
            at = next;
        }
        woken[first..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_share_a_slab_and_wake_in_order() {
        let mut waiters = Waiters::with_room(4);
        let (mut a, mut b) = (List::EMPTY, List::EMPTY);
        let mut woken = Vec::new();
        for round in 0..3 {
            for number in 0..3 {
                waiters.add(&mut a, Waiter(number));
                waiters.add(&mut b, Waiter(10 + number));
            }
            waiters.add(&mut a, Waiter(2));
            waiters.wake(&mut a, &mut woken);
            assert_eq!(woken, [0, 1, 2].map(Waiter), "round {round}");
            waiters.wake(&mut a, &mut woken);
            waiters.wake(&mut b, &mut woken);
            assert_eq!(woken, [0, 1, 2, 10, 11, 12].map(Waiter));
            woken.clear();
        }
        assert_eq!(waiters.nodes.len(), 6, "nodes are used again");
    }
}
