// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run shows: packets, causes and notices on standard output, and into the recording.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::TraceError;
use crate::cli::{Format, Plan};
use crate::explain::{Explainer, Tick};
use crate::flow::{Ending, Journey, Names, Notice, Scene, Update};
use crate::node::Topology;
use crate::output::{Explanation, Json, Output, Text};
use crate::trace::evidence::EvidenceReader;
use crate::trace::names::KernelNames;
use crate::trace::recording::Recording;
use crate::trace::terminal::text_options;

/// Where and how things are printed.
pub(super) struct Screen {
    output: Box<dyn Output>,
    out: io::BufWriter<io::Stdout>,
    pub(super) names: Arc<KernelNames>,
    /// Journeys to show, and how many of them were begun.
    limit: u64,
    drops_only: bool,
    shown: u64,
    /// Of these, the ones that are not over.
    open: HashSet<u64>,
    pub(super) drops: u64,
    pub(super) explainer: Explainer,
    pub(super) evidence: EvidenceReader,
    pub(super) recording: Recording,
    error: Option<io::Error>,
}

impl Screen {
    pub(super) fn new(plan: &Plan, names: Arc<KernelNames>) -> Self {
        let stdout = io::stdout();
        let output: Box<dyn Output> = match plan.format {
            Format::Json => Box::new(Json),
            Format::Text => Box::new(Text::new(text_options(plan.color, plan.time, plan.verbosity))),
        };
        let out = io::BufWriter::with_capacity(1 << 16, stdout);
        Self {
            output,
            out,
            names,
            limit: plan.count.unwrap_or(u64::MAX),
            drops_only: plan.drops_only,
            shown: 0,
            open: HashSet::new(),
            drops: 0,
            explainer: Explainer::default(),
            evidence: EvidenceReader::default(),
            recording: Recording::default(),
            error: None,
        }
    }

    pub(super) fn update(&mut self, topology: &Arc<Topology>, update: &Update<'_>) {
        match update {
            Update::Journey(news) => {
                if news.last && matches!(news.journey.ending, Ending::Dropped(_)) {
                    self.drops += 1;
                }
                let evidence = self.evidence.latest();
                self.recording.journey(news, topology, &*self.names, evidence.as_ref());
                let causes =
                    self.explainer.observe(news.journey, topology, &*self.names, evidence.as_deref());
                if !causes.is_empty() {
                    self.evidence.refresh();
                }
                let authors = self.explainer.authors(
                    news.journey,
                    news.from_hop,
                    topology,
                    &*self.names,
                    evidence.as_deref(),
                );
                let explanation = Explanation { authors, causes };
                let id = news.journey.id;
                // The first so many packets; of those that do not arrive, as many as come first to an end.
                let counts = if self.drops_only { self.shown < self.limit } else { id <= self.limit };
                let wanted = if news.first && counts {
                    self.shown += 1;
                    self.limit == u64::MAX || self.open.insert(id)
                } else {
                    self.limit == u64::MAX || self.open.contains(&id)
                };
                if wanted {
                    self.write(topology, |output, out, scene| {
                        output.news(out, scene, news, Some(&explanation))
                    });
                }
                if news.last {
                    self.open.remove(&id);
                }
            }
            Update::Notice(notice) => self.notice(topology, notice),
            Update::Zoom(_) | Update::Unzoom(_) => {}
        }
    }

    pub(super) fn tick(&mut self, topology: &Arc<Topology>, tick: &Tick<'_>) {
        let evidence = self.evidence.latest();
        self.recording.tick(tick, topology, evidence.as_ref());
        let causes = self.explainer.tick(tick, topology, &*self.names, evidence.as_deref());
        for told in &causes {
            self.write(topology, |output, out, scene| output.cause(out, scene, told));
        }
        if !causes.is_empty() {
            self.evidence.refresh();
        }
    }

    pub(super) fn has_causes(&self) -> bool {
        !self.explainer.causes().is_empty()
    }

    /// Packets that may wait for a neighbour. Returns the ids of those that do by the node's own tables.
    pub(super) fn held<'j>(
        &mut self,
        topology: &Arc<Topology>,
        journeys: impl Iterator<Item = &'j Journey>,
    ) -> Vec<u64> {
        let mut waiting = Vec::new();
        for journey in journeys {
            let evidence = self.evidence.latest();
            // Neighbours come and go unannounced.
            self.evidence.refresh();
            if self.explainer.waits_for_neighbour(journey, topology, &*self.names, evidence.as_deref()) {
                waiting.push(journey.id);
            }
            if self.explainer.is_explained(journey) {
                continue;
            }
            let told = self.explainer.held(journey, topology, &*self.names, evidence.as_deref());
            if let Some(told) = told {
                self.write(topology, |output, out, scene| output.cause(out, scene, &told));
            }
        }
        waiting
    }

    /// As many journeys as were asked for have been shown to their end.
    pub(super) fn is_done(&self) -> bool {
        self.shown >= self.limit && self.open.is_empty()
    }

    pub(super) fn header(&mut self, topology: &Topology, header: &crate::output::Header) {
        self.write(topology, |output, out, scene| output.header(out, scene, header));
    }

    pub(super) fn notice(&mut self, topology: &Topology, notice: &Notice) {
        self.write(topology, |output, out, scene| output.notice(out, scene, notice));
    }

    pub(super) fn summary(&mut self, topology: &Topology, summary: &crate::flow::Summary) {
        let causes = self.explainer.causes();
        self.recording.end(summary);
        self.write(topology, |output, out, scene| output.summary(out, scene, summary, &causes));
    }

    /// Keeps the first error; nothing is written after it.
    fn write(
        &mut self,
        topology: &Topology,
        what: impl FnOnce(&mut dyn Output, &mut dyn Write, &Scene<'_>) -> io::Result<()>,
    ) {
        if self.error.is_none() {
            let names: &dyn Names = &*self.names;
            let scene = Scene::new(topology, names);
            self.error = what(&mut *self.output, &mut self.out, &scene).err();
        }
    }

    pub(super) fn flush(&mut self) {
        self.recording.flush();
        if self.error.is_none() {
            self.error = self.out.flush().err();
        }
    }

    pub(super) fn take_error(&mut self) -> Result<(), TraceError> {
        match &self.error {
            Some(error) => Err(TraceError::Write(io::Error::new(error.kind(), error.to_string()))),
            None => Ok(()),
        }
    }

    /// Nobody reads standard output any more; seen even while there is nothing to write.
    pub(super) fn is_closed(&self) -> bool {
        let stdout = io::stdout();
        let mut poll =
            libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&stdout.as_fd()), events: 0, revents: 0 };
        // SAFETY: one structure, valid for the call, which does not wait.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready > 0 && poll.revents & libc::POLLERR != 0
    }
}
