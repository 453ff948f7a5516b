//! The EC2 source against moto, through the real SDK client: what it knows, how often it asks, and what each fault does.

mod faults;
mod known;
mod requests;
mod scale;
pub(crate) mod world;
