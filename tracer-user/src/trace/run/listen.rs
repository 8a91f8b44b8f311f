// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes back for requests that have no answer.

use super::TraceRun;
use crate::explain::Tick;
use crate::trace::names::monotonic_ns;

impl TraceRun<'_> {
    /// Before the records are looked at: what was heard by now is known when a request is told of.
    pub(super) fn listen(&mut self) {
        let now_ns = monotonic_ns();
        let heard = self.replies.take();
        if !heard.is_empty() {
            let tick = Tick { now_ns, heard: &heard, ..Tick::default() };
            self.screen.tick(&self.topology, &tick);
        }
        let requests = self.screen.explainer.unanswered(now_ns);
        self.replies.listen_for(requests, &self.netns);
    }
}
