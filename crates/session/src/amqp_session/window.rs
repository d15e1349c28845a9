//! What was numbered one after the other and is not settled yet: deliveries that want an ack, publishes that want a
//! confirm.

use std::collections::VecDeque;

/// Numbers that are followed one by one. Beyond them only a count is kept, and the session does not migrate.
const SLOTS_MAX: usize = 64 * 1024;
/// A window that has grown beyond this gives its memory back when it is empty.
const SLOTS_KEPT: usize = 256;
/// Settled, or never to be.
const SETTLED: u16 = 0;

/// Consecutive numbers, some of which are open. Numbers begin at 1.
#[derive(Debug)]
pub(crate) struct Window {
    /// The number of the first slot.
    first: u64,
    /// [`SETTLED`], or the owner of an open number.
    slots: VecDeque<u16>,
    open: u32,
    /// Numbers behind the slots, each of which may be open.
    beyond: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { first: 1, slots: VecDeque::new(), open: 0, beyond: 0 }
    }
}

impl Window {
    /// The number that comes next.
    pub fn next(&self) -> u64 {
        self.first + self.slots.len() as u64 + self.beyond
    }

    /// Nothing is open.
    pub fn is_clear(&self) -> bool {
        self.open == 0 && self.beyond == 0
    }

    /// More is open than is followed.
    pub fn is_overrun(&self) -> bool {
        self.beyond > 0
    }

    /// Gives out the next number: open for `owner`, or settled from the start (0).
    pub fn push(&mut self, owner: u16) {
        if owner == SETTLED && self.slots.is_empty() && self.beyond == 0 {
            self.first += 1;
        } else if self.slots.len() >= SLOTS_MAX || self.beyond > 0 {
            self.beyond += 1;
        } else {
            self.slots.push_back(owner);
            self.open += u32::from(owner != SETTLED);
        }
    }

    /// Settles `number`, or with `multiple` all up to it (0: all there are). `each` gets the owners of those that were open. False
    /// when `number` itself was not.
    pub fn settle(&mut self, number: u64, multiple: bool, mut each: impl FnMut(u16)) -> bool {
        let last = self.next() - 1;
        let is_known = multiple && number == 0 || self.may_be_open(number);
        let number = if multiple && number == 0 { last } else { number };
        let end = self.first + self.slots.len() as u64;
        if multiple && number >= last {
            self.beyond = 0;
        }
        if number < self.first || number > last {
            return is_known;
        }
        let range = match multiple {
            true => 0..(number.min(end - 1) + 1).saturating_sub(self.first) as usize,
            false if number >= end => return is_known,
            false => (number - self.first) as usize..(number - self.first) as usize + 1,
        };
        for slot in self.slots.range_mut(range) {
            if *slot != SETTLED {
                each(*slot);
                *slot = SETTLED;
                self.open -= 1;
            }
        }
        while self.slots.front() == Some(&SETTLED) {
            self.slots.pop_front();
            self.first += 1;
        }
        if self.beyond == 0 && number >= last && multiple {
            self.first = last + 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            self.slots = VecDeque::new();
        }
        is_known
    }

    /// The last number that is open.
    pub fn last_open(&self) -> Option<u64> {
        let place = self.slots.iter().rposition(|slot| *slot != SETTLED)?;
        Some(self.first + place as u64)
    }

    fn may_be_open(&self, number: u64) -> bool {
        let Some(at) = number.checked_sub(self.first) else { return false };
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        slot.map_or(number < self.next(), |owner| *owner != SETTLED)
    }

    /// Settles everything; the numbers go on.
    pub fn clear(&mut self) {
        *self = Self { first: self.next(), ..Self::default() };
    }

    /// Open numbers of `owner`. Linear.
    pub fn open_of(&self, owner: u16) -> u32 {
        self.slots.iter().filter(|slot| **slot == owner).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(window: &mut Window, number: u64, multiple: bool) -> Vec<u16> {
        let mut owners = Vec::new();
        window.settle(number, multiple, |owner| owners.push(owner));
        owners
    }

    #[test]
    fn numbers_are_settled_one_by_one_in_any_order_or_up_to_one() {
        let mut window = Window::default();
        for owner in [1, 2, 0, 1, 3] {
            window.push(owner);
        }
        assert_eq!((window.next(), window.open), (6, 4));
        assert_eq!(settled(&mut window, 2, false), [2]);
        assert_eq!(settled(&mut window, 2, false), [0; 0], "once");
        assert_eq!(settled(&mut window, 4, true), [1, 1]);
        assert_eq!(settled(&mut window, 0, true), [3]);
        assert!(window.is_clear());
        window.push(7);
        assert_eq!((window.next(), window.open_of(7)), (7, 1));
    }

    #[test]
    fn numbers_that_were_never_given_settle_nothing() {
        let mut window = Window::default();
        window.push(1);
        assert_eq!(settled(&mut window, 9, false), [0; 0]);
        assert_eq!(settled(&mut window, 0, false), [0; 0]);
        assert_eq!(window.open, 1);
    }

    #[test]
    fn what_is_beyond_the_window_is_settled_by_its_last_number_only() {
        let mut window = Window::default();
        for _ in 0..SLOTS_MAX + 3 {
            window.push(1);
        }
        assert!(window.is_overrun());
        settled(&mut window, SLOTS_MAX as u64 + 2, true);
        assert!(!window.is_clear(), "one more is open");
        settled(&mut window, SLOTS_MAX as u64 + 3, true);
        assert!(window.is_clear());
        assert_eq!(window.next(), SLOTS_MAX as u64 + 4);
    }
}
