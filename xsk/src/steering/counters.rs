//! The counters of the steering program: one per way out of it, summed over the CPUs.
//! Read by the switch for its metrics and by tests. The order is that of `enum counter` in steer.bpf.c.

use aya::maps::{MapData, PerCpuArray};

use super::SteeringError;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)+) => {
        /// How many frames left the steering program each way since its maps were made. They outlive the process
        /// with the pins.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct SteeringCounters {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl SteeringCounters {
            /// The names, which are also the metric labels, in the order of [`SteeringCounters::values`].
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];

            /// The counts, in the order of [`SteeringCounters::NAMES`].
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$field),+]
            }

            pub(super) fn read(map: &PerCpuArray<MapData, u64>) -> Result<SteeringCounters, SteeringError> {
                let mut index = 0..;
                let mut next = || sum(map, index.next().unwrap_or_default());
                Ok(SteeringCounters { $($field: next()?,)+ })
            }
        }
    };
}

counters! {
    /// Trunk: tag of a known branch removed, redirected to the queue's socket.
    trunk_redirected,
    /// Trunk: no tag, or a priority tag (VLAN 0); left to the kernel.
    trunk_untagged_pass,
    /// Trunk: a tag of no known branch; left to the kernel.
    trunk_unknown_vlan_pass,
    /// Trunk: a service tag (802.1ad) outermost; left to the kernel.
    trunk_service_tag_pass,
    /// Trunk: cut short inside the Ethernet header or the tag; dropped.
    trunk_malformed_drop,
    /// Trunk: the kernel would not move the frame's start; dropped.
    trunk_pop_failed_drop,
    /// Trunk: the driver has no room for metadata (in-tree ENA in native mode); dropped.
    trunk_metadata_drop,
    /// Trunk: no socket on the frame's queue; dropped.
    trunk_no_socket_drop,
    /// Trunk: the worker of the frame's queue is behind, and the branch has had its share of it; dropped.
    trunk_over_share_drop,
    /// Pod: tag of its branch written, redirected.
    pod_redirected_tagged,
    /// Pod: left untagged (local, broadcast, ARP, neighbour discovery, not IP), redirected.
    pod_redirected_untagged,
    /// Pod: the interface is in no slot; dropped.
    pod_unknown_interface_drop,
    /// Pod: came in on another queue than 0, where no socket can be; dropped.
    pod_other_queue_drop,
    /// Pod: shorter than an Ethernet header; dropped.
    pod_malformed_drop,
    /// Pod: no room before the frame for the tag; dropped.
    pod_push_failed_drop,
    /// Pod: the driver has no room for metadata; dropped.
    pod_metadata_drop,
    /// Pod: no socket in its slot; dropped.
    pod_no_socket_drop,
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, SteeringError> {
    let per_cpu = map.get(&index, 0).map_err(|e| SteeringError::Map {
        action: format!("read counter {index}"),
        map: "counters",
        message: super::chain(&e),
    })?;
    Ok(per_cpu.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_enum_of_the_c_program() {
        let source = include_str!("../../bpf/steer.bpf.c");
        let body =
            source.split("enum counter {").nth(1).and_then(|rest| rest.split("COUNTERS,").next()).unwrap();
        let in_c: Vec<String> =
            body.split(',').map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect();
        assert_eq!(in_c, SteeringCounters::NAMES);
        assert_eq!(SteeringCounters::default().values().len(), SteeringCounters::NAMES.len());
    }
}
