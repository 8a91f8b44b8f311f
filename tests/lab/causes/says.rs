// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is right to say of a fault: by the trace of its traffic, by a check before any traffic, and what comes of typing
//! the fix that they print.

/// What is right for one fault.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    /// Arguments of egwtrace; `@` stands for the lab's prefix, `{ext}` and others for addresses.
    pub flow: &'static str,
    /// The trace names at least one of these causes, and none besides. None of them: nothing may be named.
    pub traced: &'static [&'static str],
    /// The check names one of these first, before there is any traffic. What only traffic shows is found by nobody who asks
    /// before it: ports that are used up, queues and delays, what a host beyond the nodes does, a connection that is
    /// yet to be. `None`: it is not tried.
    pub checked: Option<&'static [&'static str]>,
    /// The same over IPv6, where it is something else.
    pub checked6: Option<&'static [&'static str]>,
    pub fix: Fix,
}

/// What comes of typing what is printed as the fix, by the trace or by the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// It mends.
    Mends,
    /// Nothing can be typed; why.
    ByHand(&'static str),
    /// Whatever is typed must mend.
    Any,
}

/// The same causes by trace and check, and a fix that mends.
pub(crate) const fn says(flow: &'static str, causes: &'static [&'static str]) -> Says {
    Says { flow, traced: causes, checked: Some(causes), checked6: None, fix: Fix::Mends }
}

impl Says {
    pub(crate) const fn checked(mut self, causes: &'static [&'static str]) -> Self {
        self.checked = Some(causes);
        self
    }

    pub(crate) const fn checked6(mut self, causes: &'static [&'static str]) -> Self {
        self.checked6 = Some(causes);
        self
    }

    /// A fix is not printed each time.
    pub(crate) const fn any_fix(mut self) -> Self {
        self.fix = Fix::Any;
        self
    }

    /// No fix can be typed, and why.
    pub(crate) const fn by_hand(mut self, why: &'static str) -> Self {
        self.fix = Fix::ByHand(why);
        self
    }
}

impl Fix {
    /// How what came of it differs: whether something was typed and mended.
    pub fn differs(self, mended: bool) -> Option<String> {
        match (self, mended) {
            (Self::Mends, false) => Some("a fix that can be typed".to_owned()),
            (Self::ByHand(why), true) => {
                Some(format!("no fix to type ({why}): there is one now, correct the row"))
            }
            _ => None,
        }
    }
}
