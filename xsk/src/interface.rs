//! A network interface as the sockets and the steering need it, looked up by name.
//! Used by the switch at attach. Promises to look in the calling thread's network namespace.

use crate::netdev::Request;

/// An interface of one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRef {
    /// The name, as given.
    pub name: String,
    /// The interface index.
    pub index: u32,
    /// The MTU in bytes, Ethernet header not counted.
    pub mtu: u32,
    /// The MAC address; zeros where the interface has none.
    pub mac: [u8; 6],
    /// The driver, where the interface tells (`veth`, `ena`).
    pub driver: Option<String>,
}

/// An interface could not be looked up or set.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of this name.
    #[error("no network interface {name:?} in this network namespace: check the name with `ip link`")]
    Missing {
        /// The name.
        name: String,
    },
    /// The name is empty or longer than 15 bytes.
    #[error("{name:?} cannot be the name of a network interface: use 1 to 15 bytes without NUL")]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel refused.
    #[error("cannot {action} of network interface {name}: {source}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Looks the interface up in the calling thread's network namespace.
pub fn interface(name: &str) -> Result<InterfaceRef, InterfaceError> {
    let request = Request::new(name)?;
    let index = request.index()?;
    let mtu = request.mtu()?;
    let mac = request.hardware_address()?;
    let driver = request.driver()?;
    Ok(InterfaceRef { name: name.to_owned(), index, mtu, mac, driver })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_in_this_namespace() {
        let lo = interface("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.index, lo.mac), ("lo", 1, [0; 6]));
        assert!(lo.mtu >= 1500, "{lo:?}");
    }

    #[test]
    fn wrong_names_are_told_apart() {
        assert!(
            matches!(interface("no-such-if"), Err(InterfaceError::Missing { name }) if name == "no-such-if")
        );
        for name in ["", "sixteen-bytes-xx", "nul\0inside"] {
            assert!(matches!(interface(name), Err(InterfaceError::Name { .. })), "{name:?}");
        }
    }
}
