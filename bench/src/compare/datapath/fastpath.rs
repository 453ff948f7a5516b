//! The prototype of a short cut in XDP as a device under test: known flows go from the trunk to the pod in the kernel.
//!
//! Its work is the trunk's receiving, which therefore runs as a thread on the measured core. Trunk to pod only.

use anyhow::{Context, Result};
use aya::maps::{Array, DevMap, MapData};
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};

use super::napi;
use super::site::{A, EDGE, SUBJECT_CORE, Site, TRUNK};
use crate::peer;

/// The attached program; detached when dropped.
pub(super) struct ShortCut {
    _ebpf: Ebpf,
}

impl ShortCut {
    /// Attaches it to the trunk.
    pub(super) fn start(site: &Site) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&peer::compile_bpf("fastpath.bpf.c")?)?;
        let missing = "fastpath.bpf.c lacks a map or its program";
        let mut macs: Array<MapData, [u32; 3]> = ebpf.take_map("macs").context(missing)?.try_into()?;
        let mut devices: DevMap<MapData> = ebpf.take_map("devices").context(missing)?.try_into()?;
        let [[d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]] = [site.pod_macs[0], site.node_macs[1]];
        let words = [[d0, d1, d2, d3], [d4, d5, s0, s1], [s2, s3, s4, s5]].map(u32::from_ne_bytes);
        macs.set(0, words, 0)?;
        site.node.run(|| -> Result<()> {
            devices.set(0, espalier_xsk::interface(A.veth)?.index, None, 0)?;
            let program: &mut Xdp = ebpf.program_mut("shorten").context(missing)?.try_into()?;
            program.load()?;
            program.attach(TRUNK, XdpMode::Driver)?;
            Ok(())
        })??;
        napi::receive_on(&site.node, TRUNK, SUBJECT_CORE)?;
        // Frames that were redirected need a receiving end with NAPI.
        site.pods[0].offload(EDGE, "gro on")?;
        Ok(Self { _ebpf: ebpf })
    }
}
