//! The comparisons, by area.

pub mod datapath;
pub mod flows;
pub mod rules;
pub mod tuning;
