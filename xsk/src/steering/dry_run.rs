//! What the steering would do with a frame: the kernel runs the loaded program on bytes (BPF_PROG_TEST_RUN).
//! For tests and for tracing. Promises that no frame goes anywhere; the programs' counters do count the run.

use aya::TestRunOptions;
use aya::programs::TestRun;

use super::pins::Program;
use super::{Steering, SteeringError, chain};
use crate::SteerMeta;

/// Where the frame would come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// The trunk's program.
    Trunk,
    /// The pods' program.
    Pod,
}

/// What the program decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Dropped (or, for a value the programs never return, treated so by the kernel).
    Drop,
    /// Left to the node's network stack.
    Pass,
    /// Handed to an AF_XDP socket.
    Redirect,
}

/// A frame after the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// The decision.
    pub verdict: Verdict,
    /// The metadata in front of the frame, if any was written.
    pub meta: Option<SteerMeta>,
    /// The frame's bytes.
    pub frame: Vec<u8>,
}

impl Steering {
    /// Runs the program of `entrance` on `frame` (14 bytes at least) as if it came from queue `queue` of the
    /// interface with this index in the calling thread's network namespace.
    pub fn dry_run(
        &self,
        entrance: Entrance,
        interface: u32,
        queue: u32,
        frame: &[u8],
    ) -> Result<DryRun, SteeringError> {
        let program = match entrance {
            Entrance::Trunk => Program::Trunk,
            Entrance::Pod => Program::Pod { slot: 0, vlan: 0 },
        };
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, interface, queue, 0].map(u32::to_ne_bytes).concat();
        let mut context_out = vec![0; context.len()];
        let mut data_out = vec![0; frame.len() + ROOM_TO_GROW];
        let run = self.object.xdp(program)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data_out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        });
        let run = run.map_err(|e| SteeringError::Load(chain(&e)))?;
        data_out.truncate(run.data_size_out as usize);
        // The kernel gives metadata and frame in one piece, and says in the context where the frame starts.
        let start = context_out.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
        let frame = data_out.split_off(start.min(data_out.len()));
        let meta = data_out.first_chunk().copied().map(SteerMeta::from_bytes);
        Ok(DryRun { verdict: Verdict::of(run.return_value), meta, frame })
    }
}

/// More than a program can add to a frame: a tag and the metadata.
const ROOM_TO_GROW: usize = 64;

impl Verdict {
    /// From `enum xdp_action` (linux/bpf.h).
    fn of(action: u32) -> Verdict {
        match action {
            2 => Verdict::Pass,
            4 => Verdict::Redirect,
            _ => Verdict::Drop,
        }
    }
}
