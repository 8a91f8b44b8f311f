// SPDX-License-Identifier: MIT OR Apache-2.0
//! The recording of a run, when one was asked for. That it fails ends the recording, not the run.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use crate::explain::Tick;
use crate::flow::{Names, News, Summary};
use crate::node::Topology;
use crate::output::Header;
use crate::record::{Begin, Recorder, SCHEMA, StoppedBecause};
use crate::snapshot::Evidence;
use crate::text::quoted;

#[derive(Debug, thiserror::Error)]
#[error(
    "--record {path}: {why}; accepted: a file that does not exist yet, in a directory that can be written"
)]
pub struct RecordingError {
    path: String,
    why: io::Error,
}

/// Nothing, or a file.
#[derive(Default)]
pub(super) struct Recording(Option<Recorder>);

impl Recording {
    pub(super) fn open(
        path: Option<&Path>,
        header: &Header,
        names: &dyn Names,
    ) -> Result<Self, RecordingError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let recorder = Recorder::create(path)
            .map_err(|why| RecordingError { path: quoted(path.as_os_str().as_encoded_bytes()), why })?;
        let mut recording = Self(Some(recorder));
        let begin = Begin {
            schema: SCHEMA.to_owned(),
            version: header.version.clone(),
            kernel: header.kernel.clone(),
            offset_ns: names.unix_ns(0),
            utc_offset_s: names.utc_offset_s(),
            target: header.target.clone(),
            policies: header.policies.clone(),
        };
        recording.with(|recorder| recorder.begin(begin));
        Ok(recording)
    }

    pub(super) fn journey(
        &mut self,
        news: &News<'_>,
        topology: &Arc<Topology>,
        names: &dyn Names,
        evidence: Option<&Arc<Evidence>>,
    ) {
        self.with(|recorder| recorder.journey(news.journey, news.last, topology, names, evidence));
    }

    pub(super) fn tick(
        &mut self,
        tick: &Tick<'_>,
        topology: &Arc<Topology>,
        evidence: Option<&Arc<Evidence>>,
    ) {
        self.with(|recorder| recorder.tick(tick, topology, evidence));
    }

    pub(super) fn end(&mut self, summary: &Summary) {
        self.with(|recorder| recorder.end(summary.packets, summary.events_lost));
    }

    pub(super) fn flush(&mut self) {
        self.with(Recorder::flush);
    }

    fn with(&mut self, what: impl FnOnce(&mut Recorder) -> Result<(), StoppedBecause>) {
        if let Some(recorder) = &mut self.0
            && let Err(why) = what(recorder)
        {
            self.0 = None;
            let _ = writeln!(io::stderr(), "egwtrace: {why}");
        }
    }
}
