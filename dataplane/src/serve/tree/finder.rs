//! What one worker knows about paths.

use super::answer::{Answer, Found};
use super::librarian::{Desk, Question};
use super::{HostId, PATH_MAX};
use crate::serve::waiters::{List, Waiter, Waiters};
use crate::worker::Tick;
use std::collections::HashMap;
use std::sync::Arc;

/// What a worker is told about a path.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'f> {
    /// This.
    Known(&'f Arc<Answer>),
    /// The librarian has been asked; the waiter is woken by [`Finder::poll`], and asks again.
    Asked,
    /// Too many questions are open: refuse (`503`), or come back later.
    Busy,
}

/// What came of asking for a path anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The librarian has been asked just now, by the question of this number; the waiter is woken.
    Asked(u64),
    /// A question of before is open; the waiter is woken, and asks again.
    Waits,
    /// Too many questions are open: come back later.
    Busy,
}

/// What a finder has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FinderCounters {
    /// Answered from memory.
    pub hits: u64,
    /// Handed to the librarian.
    pub asked: u64,
    /// Of these, for paths whose answer had become stale or old.
    pub asked_again: u64,
    /// Turned away because too many were open.
    pub busy: u64,
    /// Answers dropped to make room.
    pub evicted: u64,
}

/// The paths that one worker knows: at most as many as it was made for, the long unused ones make room (the clock
/// algorithm). A path that nobody asks for twice goes before one that somebody does.
#[derive(Debug)]
pub struct Finder {
    desk: Arc<Desk>,
    /// By host.
    places: Vec<HashMap<Arc<str>, u32>>,
    slots: Vec<Slot>,
    capacity: usize,
    hand: usize,
    open: usize,
    waiters: Waiters,
    nowhere: Arc<Answer>,
    /// Stale from the beginning: to be asked for again.
    forgotten: Arc<Answer>,
    counters: FinderCounters,
}

#[derive(Debug)]
struct Slot {
    host: HostId,
    path: Arc<str>,
    state: State,
    /// The number of the last question about it.
    question: u64,
    /// Whoever asked has had the answer; from then on it counts who else does.
    had: bool,
    /// Had again since the hand last came by.
    used: bool,
}

#[derive(Debug)]
enum State {
    Asked(List),
    Known { answer: Arc<Answer>, since: Tick },
}

impl Finder {
    /// A finder for the `hosts` of a tree that knows `capacity` paths at most.
    #[must_use]
    pub fn new(desk: Arc<Desk>, hosts: usize, capacity: usize) -> Self {
        // Every open question has a slot, and one more can always be made.
        let capacity = capacity.max(desk.places() + 1).min(u32::MAX as usize);
        Self {
            places: (0..hosts).map(|_| HashMap::new()).collect(),
            slots: Vec::with_capacity(capacity),
            capacity,
            hand: 0,
            open: 0,
            waiters: Waiters::with_room(desk.places()),
            nowhere: Arc::new(Answer::new(Found::NotFound, true)),
            forgotten: {
                let answer = Answer::new(Found::Busy, false);
                answer.set_stale();
                Arc::new(answer)
            },
            counters: FinderCounters::default(),
            desk,
        }
    }

    /// What `path` is, if that is known and has not changed. Neither waits nor makes a system call, except the one that
    /// wakes a librarian who sleeps.
    pub fn find(&mut self, now: Tick, host: HostId, path: &str, waiter: Waiter) -> Lookup<'_> {
        let Some(places) = self.places.get(host.place()) else { return Lookup::Known(&self.nowhere) };
        if path.len() > PATH_MAX {
            return Lookup::Known(&self.nowhere);
        }
        let Some(&place) = places.get(path) else { return self.ask_first(host, path, waiter) };
        match &mut self.slots[place as usize].state {
            State::Asked(list) => {
                self.waiters.add(list, waiter);
                Lookup::Asked
            }
            State::Known { answer, since } => {
                let old = now.0.saturating_sub(since.0) > answer.good_for();
                if old || answer.is_stale() {
                    return self.ask_again(place, waiter);
                }
                self.counters.hits += 1;
                let slot = &mut self.slots[place as usize];
                slot.used |= std::mem::replace(&mut slot.had, true);
                match &slot.state {
                    State::Known { answer, .. } => Lookup::Known(answer),
                    State::Asked(_) => Lookup::Asked,
                }
            }
        }
    }

    /// Asks for a path anew, whatever is known of it. Once that is answered, nothing is believed any more that any finder
    /// was told of the path before, as far as its folder is under watch.
    #[cold]
    pub fn refresh(&mut self, host: HostId, path: &str, waiter: Waiter) -> Refresh {
        let place = self.places.get(host.place()).and_then(|places| places.get(path)).copied();
        let lookup = match place {
            None => self.ask_first(host, path, waiter),
            Some(place) => match &mut self.slots[place as usize].state {
                State::Asked(list) => {
                    self.waiters.add(list, waiter);
                    return Refresh::Waits;
                }
                State::Known { .. } => self.ask_again(place, waiter),
            },
        };
        if matches!(lookup, Lookup::Busy) { Refresh::Busy } else { Refresh::Asked(self.counters.asked) }
    }

    /// Whether the librarian has still to answer this question about a path.
    #[must_use]
    pub fn is_asking(&self, host: HostId, path: &str, question: u64) -> bool {
        let place = self.places.get(host.place()).and_then(|places| places.get(path));
        place.is_some_and(|place| {
            let slot = &self.slots[*place as usize];
            slot.question == question && matches!(slot.state, State::Asked(_))
        })
    }

    /// Takes in what the librarian has found, and names those who waited for it. To be called every turn.
    pub fn poll(&mut self, now: Tick, woken: &mut Vec<Waiter>) {
        // To look into an empty queue costs a fence.
        while self.open > 0
            && let Some(reply) = self.desk.next_reply()
        {
            self.open -= 1;
            let Some(slot) = self.slots.get_mut(reply.ticket as usize) else { continue };
            let busy = matches!(reply.answer.found(), Found::Busy);
            let known = State::Known { answer: reply.answer, since: now };
            if let State::Asked(mut list) = std::mem::replace(&mut slot.state, known) {
                self.waiters.wake(&mut list, woken);
            }
            if busy {
                self.forget_some();
            }
        }
    }

    /// Each known file is open. When the system has no descriptor left for another one, those that nobody has asked for
    /// lately are closed, or nothing new would be found until all that is known is forgotten.
    #[cold]
    fn forget_some(&mut self) {
        let mut left = self.slots.len() / 8;
        for _ in 0..2 * self.slots.len() {
            if left == 0 {
                return;
            }
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            let used = std::mem::replace(&mut slot.used, false);
            if !used
                && let State::Known { answer, .. } = &mut slot.state
                && matches!(answer.found(), Found::File(_))
            {
                *answer = Arc::clone(&self.forgotten);
                self.counters.evicted += 1;
                left -= 1;
            }
        }
    }

    /// Counts an answer that was known without asking.
    pub const fn count_hit(&mut self) {
        self.counters.hits += 1;
    }

    /// Whether [`poll`](Self::poll) would find something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.desk.has_replies()
    }

    /// What it has done so far.
    #[must_use]
    pub const fn counters(&self) -> FinderCounters {
        self.counters
    }

    /// Paths that it knows or has asked for.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it knows nothing yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[cold]
    fn ask_first(&mut self, host: HostId, path: &str, waiter: Waiter) -> Lookup<'_> {
        if self.open == self.desk.places() {
            self.counters.busy += 1;
            return Lookup::Busy;
        }
        let path: Arc<str> = path.into();
        let slot = Slot {
            host,
            path: Arc::clone(&path),
            state: State::Asked(List::EMPTY),
            question: 0,
            had: false,
            used: false,
        };
        let place = self.place(slot);
        self.places[host.place()].insert(path, place);
        self.ask(place, None, waiter)
    }

    #[cold]
    fn ask_again(&mut self, place: u32, waiter: Waiter) -> Lookup<'_> {
        if self.open == self.desk.places() {
            self.counters.busy += 1;
            return Lookup::Busy;
        }
        self.counters.asked_again += 1;
        let asked = State::Asked(List::EMPTY);
        let old = match std::mem::replace(&mut self.slots[place as usize].state, asked) {
            State::Known { answer, .. } => Some(answer),
            State::Asked(_) => None,
        };
        self.ask(place, old, waiter)
    }

    fn ask(&mut self, ticket: u32, old: Option<Arc<Answer>>, waiter: Waiter) -> Lookup<'_> {
        self.counters.asked += 1;
        let Slot { host, path, state, question: number, .. } = &mut self.slots[ticket as usize];
        *number = self.counters.asked;
        let question = Question { host: *host, path: Arc::clone(path), old, ticket };
        if let State::Asked(list) = state {
            self.waiters.add(list, waiter);
        }
        let handed_in = self.desk.ask(question);
        debug_assert!(handed_in.is_ok(), "no more are open than there are places");
        self.open += 1;
        Lookup::Asked
    }

    /// A place for a slot: a new one while there are any, else that of an answer unused for a while.
    fn place(&mut self, slot: Slot) -> u32 {
        let place = if self.slots.len() < self.capacity {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let place = self.victim();
            let old = std::mem::replace(&mut self.slots[place], slot);
            self.places[old.host.place()].remove(&*old.path);
            self.counters.evicted += 1;
            place
        };
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The next known one under the hand that nobody has used since the hand last came by. There is one: fewer are asked
    /// for than there are slots.
    fn victim(&mut self) -> usize {
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            let used = std::mem::replace(&mut slot.used, false);
            if !used && matches!(slot.state, State::Known { .. }) {
                return self.hand;
            }
        }
    }
}
