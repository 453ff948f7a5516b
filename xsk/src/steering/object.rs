//! The loaded steering object: two programs and their nine maps, the maps shared with what is pinned.
//! Made by `Steering::open`. Promises that every map has the layout the program was built for: a pinned map of
//! another layout (an older version, another `max_pods`) is replaced by an empty one and named in `recreated`.

use aya::maps::{Array, HashMap, Map, MapData, MapInfo, MapType, PerCpuArray, XskMap};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use super::pins::{PinDirectory, Program};
use super::{SteeringCounters, SteeringError, chain};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// An address as the hash map has it: IPv6, or IPv4 mapped into it.
pub(super) type AddressKey = [u8; 16];

pub(super) struct Object {
    ebpf: Ebpf,
    pub(super) branch_vlans: Array<MapData, u32>,
    pub(super) local_addresses: HashMap<MapData, AddressKey, u32>,
    /// By interface index: slot and branch VLAN.
    pub(super) pods: HashMap<MapData, u32, [u16; 2]>,
    pub(super) trunk_sockets: XskMap<MapData>,
    pub(super) pod_sockets: XskMap<MapData>,
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) recreated: Vec<&'static str>,
}

impl Object {
    /// Loads both programs over the pinned maps, making and pinning those that are missing.
    pub(super) fn load(pins: &PinDirectory, max_pods: u32) -> Result<Object, SteeringError> {
        let mut loader = EbpfLoader::new();
        // The programs use no kernel types, and a kernel without BTF of its own must do.
        loader.btf(None).verifier_log_level(VerifierLogLevel::STATS);
        let mut recreated = Vec::new();
        for layout in layouts(max_pods) {
            let path = pins.map(layout.name);
            if path.exists() && !MapInfo::from_pin(&path).is_ok_and(|info| layout.fits(&info)) {
                PinDirectory::remove(&path)?;
                recreated.push(layout.name);
            }
            loader.map_max_entries(layout.name, layout.max_entries).map_pin_path(layout.name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| SteeringError::Load(chain(&e)))?;
        for name in [TRUNK_PROGRAM, POD_PROGRAM] {
            let program: &mut Xdp =
                ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(SteeringError::Object(name))?;
            program.load().map_err(|e| SteeringError::Load(chain(&e)))?;
        }
        Ok(Object {
            branch_vlans: map(&mut ebpf, "branch_vlans")?,
            local_addresses: map(&mut ebpf, "local_addresses")?,
            pods: map(&mut ebpf, "pods")?,
            trunk_sockets: map(&mut ebpf, "trunk_sockets")?,
            pod_sockets: map(&mut ebpf, "pod_sockets")?,
            counters: map(&mut ebpf, "counters")?,
            recreated,
            ebpf,
        })
    }

    pub(super) fn xdp(&self, program: Program) -> Result<&Xdp, SteeringError> {
        let name = match program {
            Program::Trunk => TRUNK_PROGRAM,
            Program::Pod { .. } => POD_PROGRAM,
        };
        self.ebpf.program(name).and_then(|p| p.try_into().ok()).ok_or(SteeringError::Object(name))
    }

    pub(super) fn program_fd(&self, program: Program) -> Result<&ProgramFd, SteeringError> {
        self.xdp(program)?.fd().map_err(|e| SteeringError::Load(chain(&e)))
    }
}

const TRUNK_PROGRAM: &str = "steer_trunk";
const POD_PROGRAM: &str = "steer_pod";

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// As many queues as a trunk may have.
pub(super) const TRUNK_QUEUES: u32 = 256;

/// What a pinned map must look like to be taken over.
struct Layout {
    name: &'static str,
    kind: MapType,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Layout {
    fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() == self.key_size
            && info.value_size() == self.value_size
            && info.max_entries() == self.max_entries
            && info.map_flags() == self.flags
    }
}

/// The maps of steer.bpf.c.
fn layouts(max_pods: u32) -> [Layout; 9] {
    let layout = |name, kind, (key_size, value_size), max_entries, flags| Layout {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
    };
    let counters = SteeringCounters::NAMES.len() as u32;
    [
        layout("branch_vlans", MapType::Array, (4, 4), 4096, 0),
        layout("local_addresses", MapType::Hash, (16, 4), 65536, BPF_F_NO_PREALLOC),
        layout("pods", MapType::Hash, (4, 4), max_pods, BPF_F_NO_PREALLOC),
        layout("trunk_sockets", MapType::XskMap, (4, 4), TRUNK_QUEUES, 0),
        layout("trunk_rounds", MapType::Array, (4, 4), TRUNK_QUEUES, BPF_F_MMAPABLE),
        layout("companies", MapType::Array, (4, 8), TRUNK_QUEUES, 0),
        layout("allowances", MapType::Array, (4, 8), 64 * 4096, 0),
        layout("pod_sockets", MapType::XskMap, (4, 4), max_pods, 0),
        layout("counters", MapType::PerCpuArray, (4, 8), counters, 0),
    ]
}

fn map<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SteeringError> {
    ebpf.take_map(name).and_then(|map| T::try_from(map).ok()).ok_or(SteeringError::Object(name))
}
