// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that match by chance (kube-proxy's choice of an endpoint): every choice is tried, one way at a time.

/// Ways that are tried at most.
const MAX: usize = 32;

/// The choices of one way, in the order in which they are met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chances {
    script: Vec<bool>,
    met: usize,
    tried: usize,
}

impl Chances {
    /// Does the rule that is met now match? At first yes.
    pub(crate) fn next(&mut self) -> bool {
        if self.met == self.script.len() {
            self.script.push(true);
        }
        self.met += 1;
        self.script[self.met - 1]
    }

    /// On to the next way: the last choice that was yes becomes no. False: all were tried, or enough of them.
    pub(crate) fn advance(&mut self) -> bool {
        self.script.truncate(self.met);
        self.met = 0;
        self.tried += 1;
        while self.script.last() == Some(&false) {
            self.script.pop();
        }
        match self.script.last_mut() {
            Some(last) if self.tried < MAX => {
                *last = false;
                true
            }
            _ => false,
        }
    }

    /// There were more ways than are tried.
    pub(crate) fn is_cut(&self) -> bool {
        self.tried >= MAX && self.script.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_tried_once() {
        // Three endpoints: by chance the first, else by chance the second, else the third.
        let mut chances = Chances::default();
        let mut ways = Vec::new();
        loop {
            let first = chances.next();
            let way = if first {
                1
            } else if chances.next() {
                2
            } else {
                3
            };
            ways.push(way);
            if !chances.advance() {
                break;
            }
        }
        assert_eq!(ways, [1, 2, 3]);
        assert!(!chances.is_cut());
    }

    #[test]
    fn there_is_an_end() {
        let mut chances = Chances::default();
        let mut ways = 0;
        loop {
            for _ in 0..20 {
                chances.next();
            }
            ways += 1;
            if !chances.advance() {
                break;
            }
        }
        assert_eq!(ways, MAX);
        assert!(chances.is_cut());
    }
}
