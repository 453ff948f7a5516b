//! Live frames: packets the kernel makes by itself and sends out of an interface (BPF_PROG_TEST_RUN with
//! BPF_F_TEST_XDP_LIVE_FRAMES, since 5.18; linux net/bpf/test_run.c). The load generator's in-kernel engine.
//! Promises that every frame leaves with its headers, sequence number and time written anew.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData};
use aya::programs::{TestRun, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunAttrs, TestRunOptions, VerifierLogLevel};

use crate::InterfaceRef;
use crate::intake::{OBJECT, TrafficError};
use crate::steering::chain;

/// One kind of frame, as `struct frame_template` of bpf/traffic.bpf.c wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveTemplate {
    /// The first bytes of the frame, zeros after its own; everything behind them is zero in the frame.
    pub head: [u8; LiveTemplate::HEAD],
    /// Bytes of the whole frame.
    pub length: u16,
    /// Where the 18 bytes of the stamp begin.
    pub stamp: u16,
    /// The flow the stamp names (24 bits).
    pub flow: u32,
}

/// What a run is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveOrder {
    /// The first 24 bits of every stamp.
    pub mark: u32,
    /// Frames to send.
    pub frames: u64,
    /// Nanoseconds between two frames, in 1/65536; 0 for no limit.
    pub interval: u64,
    /// Nanoseconds of delay that are caught up on.
    pub slack: u64,
    /// Nanoseconds from the first turn on, after which nothing is sent any more.
    pub length: u64,
}

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveProgress {
    /// Frames handed to the interface: what its driver then dropped is among them.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames the program could not make; it stops at the first.
    pub failed: u64,
    /// CLOCK_MONOTONIC in nanoseconds of the first turn, when the first frame is due; 0 before it.
    pub start: u64,
    /// CLOCK_MONOTONIC in nanoseconds when the last frame was made; 0 before the first.
    pub last: u64,
}

/// The loaded program with its templates, for one interface.
pub struct LiveFrames {
    data: Vec<u8>,
    context: Vec<u8>,
    templates: u64,
    ebpf: Ebpf,
    meter: LiveMeter,
}

/// Tells how far a run got, on any thread and while it goes on. Clones tell of the same.
#[derive(Clone)]
pub struct LiveMeter {
    interface: String,
    control: Arc<Mutex<Array<MapData, Control>>>,
}

/// The words of `struct control`.
type Control = [u64; 12];

const START: usize = 0;
const INTERVAL: usize = 2;
const SLACK: usize = 3;
const NEXT: usize = 4;
const END: usize = 5;
const MARK: usize = 6;
const TEMPLATES: usize = 7;
const BYTES: usize = 8;
const FAILED: usize = 9;
const LENGTH: usize = 10;
const LAST: usize = 11;

/// The binary point of times in `struct control`.
const INTERVAL_SHIFT: u32 = 16;

const STAMP_BYTES: usize = 18;

/// A template as the map has it: length, stamp, flow, head.
const VALUE_BYTES: usize = 8 + LiveTemplate::HEAD;

impl LiveTemplate {
    /// Bytes of [`LiveTemplate::head`].
    pub const HEAD: usize = 96;

    /// The longest frame: what a page holds beside the kernel's own data.
    pub const MAX_LENGTH: u16 = 3400;

    fn check(&self) -> Result<(), TrafficError> {
        if usize::from(self.stamp) + STAMP_BYTES > Self::HEAD.min(usize::from(self.length)) {
            return Err(TrafficError::Template(format!(
                "a frame of {} bytes with its stamp at byte {}: the stamp's 18 bytes must end within the frame and its \
                 first {} bytes",
                self.length,
                self.stamp,
                Self::HEAD
            )));
        }
        if self.length > Self::MAX_LENGTH {
            return Err(TrafficError::Template(format!(
                "a frame of {} bytes: use at most {}, or AF_XDP",
                self.length,
                Self::MAX_LENGTH
            )));
        }
        Ok(())
    }

    fn value(&self) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        value[0..2].copy_from_slice(&self.length.to_ne_bytes());
        value[2..4].copy_from_slice(&self.stamp.to_ne_bytes());
        value[4..8].copy_from_slice(&self.flow.to_ne_bytes());
        value[8..].copy_from_slice(&self.head);
        value
    }
}

impl LiveFrames {
    /// Loads the program with templates that are sent in turn, over and over.
    pub fn load(interface: &InterfaceRef, templates: &[LiveTemplate]) -> Result<Self, TrafficError> {
        let count = u32::try_from(templates.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Err(TrafficError::Template("there is no template: give at least one".to_owned()));
        }
        templates.iter().try_for_each(LiveTemplate::check)?;
        let load = |error: &dyn std::error::Error| TrafficError::Load(chain(error));
        let missing = |what| TrafficError::Load(format!("the object has no {what}"));
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries("templates", count)
            .load(OBJECT)
            .map_err(|e| load(&e))?;
        let program: &mut Xdp = ebpf
            .program_mut("emit")
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| missing("program `emit`"))?;
        program.load().map_err(|e| load(&e))?;
        let map = ebpf.take_map("templates").and_then(|map| Array::try_from(map).ok());
        let mut map: Array<MapData, [u8; VALUE_BYTES]> = map.ok_or_else(|| missing("map `templates`"))?;
        for (key, template) in (0..count).zip(templates) {
            map.set(key, template.value(), 0).map_err(|e| load(&e))?;
        }
        let control = ebpf.take_map("control").and_then(|map| Array::try_from(map).ok());
        let control = control.ok_or_else(|| missing("map `control`"))?;
        let longest = templates.iter().map(|template| usize::from(template.length)).max().unwrap_or(0);
        let data = vec![0; longest.max(LiveTemplate::HEAD)];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, data.len() as u32, 0, interface.index, 0, 0].map(u32::to_ne_bytes).concat();
        let meter = LiveMeter { interface: interface.name.clone(), control: Arc::new(Mutex::new(control)) };
        Ok(Self { data, context, templates: u64::from(count), ebpf, meter })
    }

    /// Sets what the next calls of [`LiveFrames::run`] send; sequence numbers begin at 0 again.
    pub fn order(&mut self, order: &LiveOrder) -> Result<(), TrafficError> {
        let mut words = Control::default();
        words[INTERVAL] = order.interval;
        words[SLACK] = order.slack << INTERVAL_SHIFT;
        words[END] = order.frames;
        words[MARK] = u64::from(order.mark & 0x00ff_ffff);
        words[TEMPLATES] = self.templates;
        words[LENGTH] = order.length;
        self.meter.control().set(0, words, 0).map_err(|error| self.meter.refused(chain(&error)))
    }

    /// Runs the program up to `repeats` times on this CPU, `batch` frames between two flushes (1 to 256). A run that
    /// finds nothing due counts as well. Every call begins and ends with a grace period of the kernel, each of 10 to 20 ms
    /// in which nothing is sent: use many repeats.
    ///
    /// The interface is looked up in the calling thread's network namespace.
    pub fn run(&mut self, repeats: u32, batch: u32) -> Result<(), TrafficError> {
        let program: &Xdp = self
            .ebpf
            .program("emit")
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| self.meter.refused("the program is gone".to_owned()))?;
        let run = program.test_run(TestRunOptions {
            data_in: Some(&self.data),
            ctx_in: Some(&self.context),
            repeat: repeats,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        });
        match run {
            Ok(_) => Ok(()),
            // A signal ends the run early; the caller looks at its own flag and at the progress.
            Err(error) if is_interrupt(&error) => Ok(()),
            Err(error) => Err(self.meter.refused(format!(
                "{}; it needs Linux 5.18, a driver that sends XDP frames, and the interface in this network namespace",
                chain(&error)
            ))),
        }
    }

    /// Tells how far the order got.
    #[must_use]
    pub fn meter(&self) -> &LiveMeter {
        &self.meter
    }
}

impl LiveMeter {
    /// How far the order got.
    pub fn progress(&self) -> Result<LiveProgress, TrafficError> {
        let words = self.control().get(&0, 0).map_err(|error| self.refused(chain(&error)))?;
        Ok(LiveProgress {
            frames: words[NEXT],
            bytes: words[BYTES],
            failed: words[FAILED],
            start: words[START],
            last: words[LAST],
        })
    }

    fn refused(&self, reason: String) -> TrafficError {
        TrafficError::Run { interface: self.interface.clone(), reason }
    }

    fn control(&self) -> MutexGuard<'_, Array<MapData, Control>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for LiveMeter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.control, &other.control)
    }
}

impl fmt::Debug for LiveMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveMeter").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl fmt::Debug for LiveFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFrames")
            .field("interface", &self.meter.interface)
            .field("templates", &self.templates)
            .finish_non_exhaustive()
    }
}

fn is_interrupt(error: &aya::programs::ProgramError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io.raw_os_error() == Some(libc::EINTR);
        }
        source = inner.source();
    }
    false
}
