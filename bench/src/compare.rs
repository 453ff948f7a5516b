//! The comparisons, by area.

pub mod flows;
pub mod rules;
