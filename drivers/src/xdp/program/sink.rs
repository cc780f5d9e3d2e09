//! The program for the far end of a lab cable.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use libbpf_rs::MapHandle;

use super::{AttachError, Attached, Entry, Mode, handle, load, percpu_sums};

/// What the far end of a cable does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Counts them and lets the kernel have them. A veth hands frames to the other end's XDP program in
    /// bursts only while its own end has a program, or GRO.
    Pass,
    /// Counts them and drops them at once, the cheapest receiver there is.
    Drop,
}

/// A [`Sink`] at work.
#[derive(Debug)]
pub struct SinkProgram {
    attached: Attached,
    counters: MapHandle,
}

/// What a [`SinkProgram`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames; one of several buffers is one.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on, without checksum or padding of the wire.
    pub bytes: u64,
}

impl SinkProgram {
    /// Loads the program and attaches it, in this mode, or else natively where that works and generically
    /// where not.
    ///
    /// # Errors
    /// When the kernel refuses either step.
    pub fn attach(ifindex: u32, name: &str, sink: Sink, want: Option<Mode>) -> Result<Self, AttachError> {
        let mut storage = MaybeUninit::uninit();
        let entry = match sink {
            Sink::Pass => Entry::Pass,
            Sink::Drop => Entry::Drop,
        };
        let skeleton = load(&mut storage, &entry).map_err(|error| error.on(name))?;
        let program = match sink {
            Sink::Pass => skeleton.progs.pass.as_fd(),
            Sink::Drop => skeleton.progs.drop.as_fd(),
        };
        let attached = Attached::new(program, ifindex, name, want)?;
        let counters = handle(&skeleton.maps.sunk).map_err(|error| error.on(name))?;
        Ok(Self { attached, counters })
    }

    /// How it was attached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.attached.mode
    }

    /// What it saw so far, on all CPUs. Packets and bytes are read one CPU after another while traffic runs.
    ///
    /// # Errors
    /// When the kernel does not let the counters be read.
    pub fn traffic(&self) -> io::Result<Traffic> {
        let [packets, bytes] = percpu_sums(&self.counters, 0)?;
        Ok(Traffic { packets, bytes })
    }

    /// Takes the program off. A second call does nothing, and dropping does it too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> io::Result<()> {
        self.attached.link.detach()
    }
}
