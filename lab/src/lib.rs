//! A VPC on one machine: pods in network namespaces, a VLAN fabric, outside hosts.
