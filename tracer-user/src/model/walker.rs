// SPDX-License-Identifier: MIT OR Apache-2.0
//! One packet's way, step by step, through namespaces as they are. Each part of the way is a file: [`super::rules`],
//! [`super::routes`], [`super::link`], [`super::tunnel`], [`super::input`].

use std::sync::Arc;

use super::chance::Chances;
use super::packet_state::{Flight, Mode};
use super::source_change::SourceChange;
use super::steps::{Direction, Encap, Ending, Place, Stage, Step};
use super::world::{Host, World};
use crate::cause::Finding;
use crate::cause::Place as At;
use crate::cause::diversion::Diversion;
use crate::node::{NetnsId, Role};
use crate::snapshot::AttachPoint;

/// Steps of one way: more are a loop.
const MAX_STEPS: usize = 256;

/// What comes next.
pub(crate) enum Next {
    /// It arrives at a device.
    Receive(Arc<Host>, u32),
    End(End),
}

/// Where a way ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Left(Arc<Host>, u32),
    Delivered(Arc<Host>),
    Stopped(Arc<Host>),
    Unknown(String),
}

/// Something wrong, where on the way, and whether the packet gets further.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) stage: Stage,
    pub(crate) finding: Finding,
}

pub(crate) struct Walker<'w> {
    pub(crate) world: &'w mut dyn World,
    /// What chance decides on this way.
    pub(crate) chances: &'w mut Chances,
    pub(crate) steps: Vec<Step>,
    /// The namespace of each step.
    pub(crate) hosts: Vec<NetnsId>,
    pub(crate) found: Vec<Found>,
    pub(crate) unknown: Vec<String>,
    /// The node that the packet came to first.
    pub(crate) first_node: Option<NetnsId>,
    pub(crate) tunnelled: bool,
    /// It came to another node than the first one.
    pub(crate) other_node: bool,
    /// A rule gave the packet another destination or source; what was found before it.
    pub(crate) diverted: Option<(Diversion, usize)>,
    /// Rules that gave the packet another source.
    pub(crate) sources: Vec<SourceChange>,
    /// The frame crosses a bridge: who asks for the next hop is its sender.
    pub(crate) bridging: bool,
}

impl<'w> Walker<'w> {
    pub(crate) fn new(world: &'w mut dyn World, chances: &'w mut Chances) -> Self {
        Self {
            world,
            chances,
            steps: Vec::new(),
            hosts: Vec::new(),
            found: Vec::new(),
            unknown: Vec::new(),
            first_node: None,
            tunnelled: false,
            other_node: false,
            diverted: None,
            sources: Vec::new(),
            bridging: false,
        }
    }

    /// From a device on.
    pub(crate) fn follow(&mut self, flight: &mut Flight, mut next: Next) -> End {
        loop {
            match next {
                Next::End(end) => return end,
                Next::Receive(host, _) if self.steps.len() > MAX_STEPS => {
                    return End::Unknown(format!(
                        "the way through {} has more than {MAX_STEPS} steps",
                        host.name()
                    ));
                }
                Next::Receive(host, device) => next = self.receive(&host, device, flight),
            }
        }
    }

    /// Where on the way this host's part is.
    pub(crate) fn stage(&self, host: &Host, own: Stage, flight: &Flight) -> Stage {
        match (flight.inner().mode, host.role) {
            (Mode::Reply, _) => Stage::Returning,
            (_, Role::Pod) if self.first_node.is_none() => Stage::Sending,
            (_, Role::Pod) => Stage::Arriving,
            (_, Role::Node) if flight.inside.is_some() => Stage::Tunnel,
            (_, Role::Node) if self.first_node == Some(host.id) => own,
            (_, Role::Node) => Stage::OtherNode,
        }
    }

    pub(crate) fn enter(&mut self, host: &Host, flight: &mut Flight) {
        // Marks do not cross namespaces.
        if self.hosts.last().is_some_and(|last| *last != host.id) {
            flight.packet.mark = Some(0);
        }
        if host.role == Role::Node {
            let first = *self.first_node.get_or_insert(host.id);
            self.other_node |= first != host.id;
        }
    }

    pub(crate) fn wrong(&mut self, stage: Stage, finding: Finding) {
        if !self.found.iter().any(|f| f.finding == finding) {
            self.found.push(Found { stage, finding });
        }
    }

    /// The packet gets no further.
    pub(crate) fn stop(&mut self, host: &Arc<Host>, stage: Stage, finding: Finding) -> Next {
        self.wrong(stage, finding);
        Next::End(End::Stopped(host.clone()))
    }

    pub(crate) fn open(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.unknown.contains(&sentence) {
            self.unknown.push(sentence);
        }
    }

    /// Takes a step down as the packet is now.
    pub(crate) fn step(&mut self, host: &Host, flight: &Flight, place: Place) -> &mut Step {
        let inner = flight.inner();
        let ends = inner.tuple().ends();
        let outer = flight.inside.as_ref().map(|inside| Encap {
            src: flight.packet.src.to_string(),
            dst: flight.packet.dst.to_string(),
            vni: inside.vni,
        });
        self.steps.push(Step {
            netns: host.name(),
            place,
            src: ends.src.to_string(),
            dst: ends.dst.to_string(),
            mark: flight.packet.mark,
            marks: Vec::new(),
            nat: Vec::new(),
            ifindex: 0,
            encap: outer,
        });
        self.hosts.push(host.id);
        let last = self.steps.len() - 1;
        &mut self.steps[last]
    }

    pub(crate) fn at_device(&mut self, host: &Host, ifindex: u32, direction: Direction, flight: &Flight) {
        self.step(host, flight, Place::Device { device: host.device(ifindex), direction }).ifindex = ifindex;
        for found in &host.evidence.programs {
            let passed = match direction {
                Direction::In => matches!(found.at, AttachPoint::Xdp | AttachPoint::Ingress),
                Direction::Out => found.at == AttachPoint::Egress,
            };
            if passed && found.ifindex == ifindex {
                let (device, name) = (host.device(ifindex), host.name());
                self.open(format!("what {found} on {device} of {name} does with the packet"));
            }
        }
    }

    pub(crate) fn place(host: &Host, ifindex: u32) -> At {
        At { netns: host.name(), device: (ifindex != 0).then(|| host.device(ifindex)), ..At::default() }
    }
}

impl End {
    pub(crate) fn told(&self) -> Ending {
        match self {
            Self::Left(host, device) => Ending::Left { netns: host.name(), device: host.device(*device) },
            Self::Delivered(host) => Ending::Delivered { netns: host.name() },
            Self::Stopped(host) => Ending::Stopped { netns: host.name() },
            Self::Unknown(why) => Ending::Unknown { why: why.clone() },
        }
    }
}
